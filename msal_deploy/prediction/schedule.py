"""Which steps of a slide are left to do, and which of them can start."""

from msal_deploy.prediction.steps import Steps

Position = tuple[int, int]


class Schedule:
    """The steps that are left. A region's nuclei can be found when the tiles around it are computed.

    Attributes:
        tiles: Regions whose tiles have to be computed, row by row.
        nuclei: Regions whose nuclei have to be found.
        failed: Regions that cannot be read, and why.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        folder, regions = steps.folder, list(steps.grid.regions())
        self.nuclei = [one for one in regions if not folder.region_path(*one).exists() and steps.has_nuclei(*one)]
        needed = {tile for one in self.nuclei for tile in steps.grid.neighbours(*one)}
        self.tiles = [
            one for one in regions if one in needed and steps.tissue_tiles(*one) and not steps.tiles_path(*one).exists()
        ]
        self.failed: dict[Position, str] = {}
        self._waiting, self._left = set(self.tiles), set(self.nuclei)

    def ready(self) -> list[Position]:
        """Return the regions whose nuclei can be found before any tile is computed."""
        return [one for one in self.nuclei if self._is_ready(one)]

    def computed(self, region: Position) -> list[Position]:
        """Note that the tiles of a region are computed; return the regions whose nuclei can be found now."""
        self._waiting.discard(region)
        near = set(self._steps.grid.neighbours(*region)) & self._left
        return [one for one in sorted(near) if self._is_ready(one)]

    def fail(self, region: Position, message: str) -> list[Position]:
        """Note that a region cannot be read; its neighbours go on without it. Return as `computed` does."""
        self.failed[region] = message
        self._left.discard(region)
        return self.computed(region)

    def found(self, region: Position) -> None:
        """Note that the nuclei of a region are found, and remove the tiles that no other region needs."""
        self._left.discard(region)
        for one in self._steps.grid.neighbours(*region):
            if one not in self._waiting and not self._left.intersection(self._steps.grid.neighbours(*one)):
                self._steps.remove_tiles(*one)

    def _is_ready(self, region: Position) -> bool:
        return not self._waiting.intersection(self._steps.grid.neighbours(*region))
