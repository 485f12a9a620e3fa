"""Grid: how the tiles of a slide are grouped into regions, the units of work.

Tiles cover the slide by the rules of `msal_deploy.runtimes.tiling`, so that the probabilities are those of `segment` on
the whole image, to the last bit, whatever the size of a region. A region computes its own tiles once. Its nuclei are
separated in a window that reaches into the neighbours, from their tiles.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from msal_deploy.runtimes.tiling import Span, cover
from msal_deploy.spec import HEIGHT

# Around the core of a region, in µm: more than the largest nucleus, so that nuclei at its border are seen whole.
HALO = 32.0


SIDES = range(512, 641, 32)  # of tiles, in pixels: an engine needs at most 1.6 times the memory of the smallest
REGION = 2048  # pixels, about: a region's arrays need 300 MB


def region_side(tile: int) -> int:
    """Return the tiles along the side of a region: about 2048 px, so that memory does not depend on the tile.

    >>> region_side(512), region_side(1024), region_side(4096)
    (4, 2, 1)
    """
    return max(1, REGION // tile)


def choose_tile(extent: tuple[int, int], overlap: int = 64) -> int:
    """Return the side of the tiles with which an image takes the fewest pixels of the engine: 512 px to 640 px.

    Tiles overlap, and the last ones of an image even more: 1000 × 1000 px take 3 × 3 tiles of 512 px, together 2.4
    times the image, but 2 × 2 of 544 px, 1.2 times. An engine needs as much time for each pixel in any of these sides.
    In an image beyond the size of a region little would change: 512.

    >>> choose_tile((1000, 1000)), choose_tile((600, 600)), choose_tile((300, 300)), choose_tile((5000, 5000))
    (544, 608, 512, 512)
    """
    if max(extent) > REGION:
        return SIDES[0]
    return min(SIDES, key=lambda side: (_computed_pixels(extent, side, overlap), side))


def _computed_pixels(extent: tuple[int, int], tile: int, overlap: int) -> int:
    grid = Grid(extent, tile, overlap)
    return len(grid.rows) * grid.side[0] * len(grid.columns) * grid.side[1]


class Window(NamedTuple):
    """A rectangle of the slide at the model's resolution, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Its rows of the slide."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Its columns of the slide."""
        return slice(self.left, self.left + self.width)


class Grid:
    """The tiles and regions of one slide.

    >>> grid = Grid((1000, 3000))
    >>> grid.shape
    (1, 2)
    >>> grid.core(0, 1)
    Window(top=0, left=1707, height=1000, width=1293)
    >>> len(grid.tiles(0, 0)), len(grid.tiles(0, 1))
    (12, 9)

    Attributes:
        extent: Height and width of the slide at the model's resolution.
        side: Height and width of a tile.
        rows, columns: The tiles along each axis.
        group: Tiles along the side of a region.
        shape: Rows and columns of regions.
    """

    def __init__(self, extent: tuple[int, int], tile: int = 512, overlap: int = 64, group: int = 4) -> None:
        self.extent, self.group = extent, group
        self.side = (min(tile, HEIGHT.round_up(extent[0])), min(tile, HEIGHT.round_up(extent[1])))
        self.rows, self.columns = (
            cover(max(size, side), side, tile - overlap) for size, side in zip(extent, self.side, strict=True)
        )
        self.shape = (-(-len(self.rows) // group), -(-len(self.columns) // group))

    def regions(self) -> Iterator[tuple[int, int]]:
        """Yield row and column of every region, row by row."""
        yield from product(range(self.shape[0]), range(self.shape[1]))

    def core(self, row: int, column: int) -> Window:
        """Return the part of the slide that belongs to a region. The cores cover the slide once."""
        (top, bottom), (left, right) = self._bounds(row, 0), self._bounds(column, 1)
        return Window(top, left, bottom - top, right - left)

    def window(self, row: int, column: int, halo: int) -> Window:
        """Return the core of a region and `halo` pixels around it, within the slide."""
        core = self.core(row, column)
        top, left = max(core.top - halo, 0), max(core.left - halo, 0)
        bottom = min(core.top + core.height + halo, self.extent[0])
        return Window(top, left, bottom - top, min(core.left + core.width + halo, self.extent[1]) - left)

    def tiles(self, row: int, column: int) -> list[tuple[int, int]]:
        """Return row and column of the tiles that a region computes, row by row."""
        return list(product(self._members(row, self.rows), self._members(column, self.columns)))

    def read_window(self, row: int, column: int) -> Window:
        """Return the part of the slide that the tiles of a region cover."""
        rows, columns = self._members(row, self.rows), self._members(column, self.columns)
        top, left = self.rows[rows[0]].tile.start, self.columns[columns[0]].tile.start
        bottom = min(self.rows[rows[-1]].tile.stop, self.extent[0])
        return Window(top, left, bottom - top, min(self.columns[columns[-1]].tile.stop, self.extent[1]) - left)

    def neighbours(self, row: int, column: int) -> list[tuple[int, int]]:
        """Return the region and up to eight around it, row by row."""
        rows = range(max(row - 1, 0), min(row + 2, self.shape[0]))
        return list(product(rows, range(max(column - 1, 0), min(column + 2, self.shape[1]))))

    def _members(self, index: int, spans: list[Span]) -> range:
        return range(index * self.group, min((index + 1) * self.group, len(spans)))

    def _bounds(self, index: int, axis: int) -> tuple[int, int]:
        """Return where a region starts and ends along an axis: in the middle of what its outer tiles share."""
        spans = (self.rows, self.columns)[axis]
        edges = [0, *(self._middle(spans, first) for first in range(self.group, len(spans), self.group))]
        edges.append(self.extent[axis])
        return edges[index], edges[index + 1]

    @staticmethod
    def _middle(spans: list[Span], first: int) -> int:
        return int(spans[first].tile.start + spans[first - 1].tile.stop) // 2
