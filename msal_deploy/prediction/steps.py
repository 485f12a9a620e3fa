"""The two steps of a region: its tiles through the engine, then its nuclei from the tiles around it.

Between them lie files in a folder that all workers see. A step whose file exists is not done again, so a run resumes by
being started once more, and a step that another worker lost is repeated with the same result.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.files import atomic_file
from msal_deploy.instances import separate
from msal_deploy.prediction.clock import Clock
from msal_deploy.prediction.grid import HALO, Grid, Window
from msal_deploy.prediction.nuclei import measure
from msal_deploy.prediction.record import SHRINK, Region, SlideFolder
from msal_deploy.prediction.slide import Slide
from msal_deploy.prediction.tissue import Tissue
from msal_deploy.runtimes import Engine
from msal_deploy.runtimes.tiling import Blended, clip, infer

TILES = "tiles"  # folder of what the first step hands to the second; removed when the slide is done
MARGIN = 16  # pixels around the foreground: more than separation smooths over


@dataclass(frozen=True)
class Steps:
    """Everything that the steps of one slide need.

    Attributes:
        slide: The open slide.
        engine: The open engine.
        folder: Where the results go.
        grid: Tiles and regions.
        tissue: Tiles without tissue are not computed.
        batch: Tiles in each call of the engine.
        clock: Gets the times.
    """

    slide: Slide
    engine: Engine
    folder: SlideFolder
    grid: Grid
    tissue: Tissue
    batch: int = 1
    clock: Clock = field(default_factory=Clock)

    def tissue_tiles(self, row: int, column: int) -> list[tuple[int, int]]:
        """Return the tiles of a region that show tissue."""
        return [tile for tile in self.grid.tiles(row, column) if self.tissue.overlaps(self._tile_window(tile))]

    def has_nuclei(self, row: int, column: int) -> bool:
        """Return whether a region needs its second step: there is tissue in its window."""
        return any(self.tissue_tiles(*region) for region in self.grid.neighbours(row, column))

    def tiles_path(self, row: int, column: int) -> Path:
        """Return the file between the steps of a region: float32[N,h,w], its `tissue_tiles`."""
        return self.folder.path / TILES / f"{row:03d}-{column:03d}.npy"

    def image_path(self, row: int, column: int) -> Path:
        """Return the file with the image of a region, uint8[h,w,3] of its `read_window`. It is written first."""
        return self.tiles_path(row, column).with_suffix(".image.npy")

    def read(self, row: int, column: int) -> NDArray[np.uint8]:
        """Decode the image of a region's tiles.

        Raises:
            BadInput: The file is damaged there.
        """
        with self.clock.time("decode", f"{row}-{column}"):
            return self.slide.read(*self.grid.read_window(row, column))

    def compute(
        self, row: int, column: int, image: NDArray[np.uint8], advance: Callable[[int], None] = lambda tiles: None
    ) -> NDArray[np.float32]:
        """Step one: return float32[N,h,w], the tiles of a region that show tissue."""
        name, members = f"{row}-{column}", self.tissue_tiles(row, column)
        with self.clock.time("tile", name):
            padded = self._padded(image)
        maps = []
        for first in range(0, len(members), self.batch):
            some = members[first : first + self.batch]
            with self.clock.time("tile", name):
                tiles = np.stack([self._cut(padded, self.grid.read_window(row, column), tile) for tile in some])
            with self.clock.time("infer", name):
                maps.append(infer(self.engine, tiles))
            advance(len(some))
        return np.concatenate(maps)

    def keep(self, row: int, column: int, image: NDArray[np.uint8], maps: NDArray[np.float32]) -> None:
        """End step one: write image and tiles of a region for step two."""
        with self.clock.time("write", f"{row}-{column}"):
            for path, array in (self.image_path(row, column), image), (self.tiles_path(row, column), maps):
                with atomic_file(path) as temporary:
                    np.save(temporary, array)

    def find_nuclei(self, row: int, column: int) -> None:
        """Step two: blend the tiles in the window of a region, separate and measure its nuclei, and write them."""
        name = f"{row}-{column}"
        with self.clock.time("stitch", name):
            window, core = self.grid.window(row, column, self._halo()), self.grid.core(row, column)
            probability, image = self._assemble(row, column, window)
        with self.clock.time("separate", name):
            labels = self._separate(probability)
        with self.clock.time("measure", name):
            nuclei = measure(
                labels,
                probability,
                image,
                corner=(window.top, window.left),
                core=core,
                scale=self.slide.scale,
                microns_per_pixel=self.engine.spec.microns_per_pixel,
            )
        with self.clock.time("write", name):
            inside = (
                slice(core.top - window.top, core.top - window.top + core.height),
                slice(core.left - window.left, core.left - window.left + core.width),
            )
            quantised = np.rint(probability[inside] * 255).astype(np.uint8)
            Region(core, nuclei, quantised, shrink(image[inside])).save(self.folder.region_path(row, column))

    def _separate(self, probability: NDArray[np.float32]) -> NDArray[np.int32]:
        """Separate the nuclei of a window. What is beyond its foreground costs time and changes nothing."""
        spec = self.engine.spec
        labels = np.zeros(probability.shape, np.int32)
        foreground = probability >= spec.threshold
        rows, columns = (_span(np.asarray(foreground.any(axis=axis)), MARGIN) for axis in (1, 0))
        if rows.stop:
            inside = np.ascontiguousarray(probability[rows, columns])
            labels[rows, columns] = separate(inside, threshold=spec.threshold, microns_per_pixel=spec.microns_per_pixel)
        return labels

    def remove_tiles(self, row: int, column: int) -> None:
        """Remove what the first step of a region wrote."""
        self.tiles_path(row, column).unlink(missing_ok=True)
        self.image_path(row, column).unlink(missing_ok=True)

    def _halo(self) -> int:
        return round(HALO / self.engine.spec.microns_per_pixel)

    def _tile_window(self, tile: tuple[int, int]) -> Window:
        row, column = self.grid.rows[tile[0]].tile, self.grid.columns[tile[1]].tile
        return Window(row.start, column.start, row.stop - row.start, column.stop - column.start)

    def _padded(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image that is at least as large as a tile; what was missing is reflected."""
        missing = [(0, max(side - size, 0)) for side, size in zip(self.grid.side, image.shape, strict=False)]
        return np.pad(image, [*missing, (0, 0)], mode="reflect") if any(map(any, missing)) else image

    def _cut(self, padded: NDArray[np.uint8], window: Window, tile: tuple[int, int]) -> NDArray[np.uint8]:
        place = self._tile_window(tile)
        top, left = place.top - window.top, place.left - window.left
        return padded[top : top + place.height, left : left + place.width]

    def _assemble(self, row: int, column: int, window: Window) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return float32[h,w] and uint8[h,w,3] of a window, from the tiles of the region and its neighbours."""
        image = np.full((window.height, window.width, 3), 255, np.uint8)
        maps: dict[tuple[int, int], NDArray[np.float32]] = {}
        for region in self.grid.neighbours(row, column):
            if not (path := self.tiles_path(*region)).exists():
                continue  # no tissue, or a part of the slide that cannot be read
            maps |= zip(self.tissue_tiles(*region), _mapped(path), strict=True)
            _copy_overlap(_mapped(self.image_path(*region)), self.grid.read_window(*region), image, window)
        return self._blend(maps, window), image

    def _blend(self, maps: dict[tuple[int, int], NDArray[np.float32]], window: Window) -> NDArray[np.float32]:
        blended = Blended((window.height, window.width))
        empty = np.zeros(self.grid.side, np.float32)
        for i, row in enumerate(self.grid.rows):
            if (vertical := clip(row, window.top, window.top + window.height)) is None:
                continue
            for j, column in enumerate(self.grid.columns):
                if horizontal := clip(column, window.left, window.left + window.width):
                    blended.add(maps.get((i, j), empty), vertical, horizontal)
        return blended.mean


def shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image at an eighth of its height and width; each pixel is the mean of its block.

    >>> shrink(np.full((9, 16, 3), 7, np.uint8)).shape
    (2, 2, 3)
    """
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % SHRINK), (0, -width % SHRINK), (0, 0)), mode="edge")
    size = (padded.shape[1] // SHRINK, padded.shape[0] // SHRINK)
    return cv2.resize(padded, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _span(used: NDArray[np.bool_], margin: int) -> slice:
    """Return from the first to the last true element and `margin` more, within the array; an empty slice if none is."""
    places = np.flatnonzero(used)
    return slice(max(places[0] - margin, 0), min(places[-1] + 1 + margin, len(used))) if len(places) else slice(0, 0)


def _mapped(path: Path) -> NDArray[Any]:
    """Open an array of which only the parts that are used are read."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is damaged ({error})", "remove it and run the same command again") from error
    return array


def _copy_overlap(source: NDArray[np.uint8], at: Window, target: NDArray[np.uint8], window: Window) -> None:
    """Copy the pixels of a source image that are in a window of the slide."""
    top, left = max(at.top, window.top), max(at.left, window.left)
    bottom = min(at.top + at.height, window.top + window.height)
    right = min(at.left + at.width, window.left + window.width)
    if top < bottom and left < right:
        part = source[top - at.top : bottom - at.top, left - at.left : right - at.left]
        target[top - window.top : bottom - window.top, left - window.left : right - window.left] = part
