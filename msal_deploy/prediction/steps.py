"""The two steps of a region: its tiles through the engine, then its nuclei from the tiles around it.

Between them lie files in a folder that all workers see. A step whose file exists is not done again, so a run resumes by
being started once more, and a step that another worker lost is repeated with the same result.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.files import atomic_file
from msal_deploy.instances import separate
from msal_deploy.prediction.grid import HALO, Grid, Window
from msal_deploy.prediction.nuclei import measure
from msal_deploy.prediction.record import SHRINK, Region, SlideFolder
from msal_deploy.prediction.slide import Slide
from msal_deploy.prediction.tissue import Tissue
from msal_deploy.runtimes import Engine
from msal_deploy.runtimes.tiling import Blended, clip, infer

TILES = "tiles"  # folder of what the first step hands to the second; removed when the slide is done
Event = tuple[str, str, float, float]


@dataclass
class Clock:
    """The stages of a run: what was done from when to when, in seconds since `start`, which other machines share."""

    start: float = field(default_factory=time.time)
    events: list[Event] = field(default_factory=list)

    @contextmanager
    def time(self, stage: str, region: str) -> Iterator[None]:
        """Record the block as one event."""
        begin = time.time() - self.start
        yield
        self.events.append((stage, region, round(begin, 4), round(time.time() - self.start, 4)))


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
        """Return the file between the steps of a region."""
        return self.folder.path / TILES / f"{row:03d}-{column:03d}.npz"

    def read(self, row: int, column: int) -> NDArray[np.uint8]:
        """Read the image of a region's tiles.

        Raises:
            BadInput: The file is damaged there.
        """
        with self.clock.time("read", f"{row}-{column}"):
            return self.slide.read(*self.grid.read_window(row, column))

    def compute(
        self, row: int, column: int, image: NDArray[np.uint8], advance: Callable[[int], None] = lambda tiles: None
    ) -> None:
        """Step one: compute the tiles of a region that show tissue, and write them with the image."""
        window, members = self.grid.read_window(row, column), self.tissue_tiles(row, column)
        height, width = self.grid.side
        missing = [(0, max(height - window.height, 0)), (0, max(width - window.width, 0)), (0, 0)]
        padded = np.pad(image, missing, mode="reflect")
        maps = []
        for first in range(0, len(members), self.batch):
            some = members[first : first + self.batch]
            tiles = np.stack([self._cut(padded, window, tile) for tile in some])
            with self.clock.time("infer", f"{row}-{column}"):
                maps.append(infer(self.engine, tiles))
            advance(len(some))
        self._write_tiles(row, column, members, np.concatenate(maps), image)

    def find_nuclei(self, row: int, column: int) -> None:
        """Step two: blend the tiles in the window of a region, separate and measure its nuclei, and write them."""
        name = f"{row}-{column}"
        with self.clock.time("stitch", name):
            window, core = self.grid.window(row, column, self._halo()), self.grid.core(row, column)
            probability, image = self._assemble(row, column, window)
        with self.clock.time("separate", name):
            resolution = self.engine.spec.microns_per_pixel
            labels = separate(probability, threshold=self.engine.spec.threshold, microns_per_pixel=resolution)
        with self.clock.time("measure", name):
            nuclei = measure(
                labels,
                probability,
                image,
                corner=(window.top, window.left),
                core=core,
                scale=self.slide.scale,
                microns_per_pixel=resolution,
            )
        with self.clock.time("write", name):
            inside = (
                slice(core.top - window.top, core.top - window.top + core.height),
                slice(core.left - window.left, core.left - window.left + core.width),
            )
            quantised = np.rint(probability[inside] * 255).astype(np.uint8)
            Region(core, nuclei, quantised, shrink(image[inside])).save(self.folder.region_path(row, column))

    def remove_tiles(self, row: int, column: int) -> None:
        """Remove what the first step of a region wrote."""
        self.tiles_path(row, column).unlink(missing_ok=True)

    def _halo(self) -> int:
        return round(HALO / self.engine.spec.microns_per_pixel)

    def _tile_window(self, tile: tuple[int, int]) -> Window:
        row, column = self.grid.rows[tile[0]].tile, self.grid.columns[tile[1]].tile
        return Window(row.start, column.start, row.stop - row.start, column.stop - column.start)

    def _cut(self, padded: NDArray[np.uint8], window: Window, tile: tuple[int, int]) -> NDArray[np.uint8]:
        place = self._tile_window(tile)
        top, left = place.top - window.top, place.left - window.left
        return padded[top : top + place.height, left : left + place.width]

    def _write_tiles(
        self,
        row: int,
        column: int,
        members: list[tuple[int, int]],
        maps: NDArray[np.float32],
        image: NDArray[np.uint8],
    ) -> None:
        with self.clock.time("write", f"{row}-{column}"), atomic_file(self.tiles_path(row, column)) as temporary:
            np.savez(temporary, members=np.array(members, np.int64), maps=maps, image=image)

    def _assemble(self, row: int, column: int, window: Window) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return float32[h,w] and uint8[h,w,3] of a window, from the tiles of the region and its neighbours."""
        image = np.full((window.height, window.width, 3), 255, np.uint8)
        maps: dict[tuple[int, int], NDArray[np.float32]] = {}
        for region in self.grid.neighbours(row, column):
            if not (path := self.tiles_path(*region)).exists():
                continue  # no tissue, or a part of the slide that cannot be read
            with _loaded(path) as file:
                maps |= dict(zip(map(tuple, file["members"].tolist()), file["maps"], strict=True))
                _copy_overlap(file["image"], self.grid.read_window(*region), image, window)
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


@contextmanager
def _loaded(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path} is damaged ({error})", "remove it and run the same command again") from error


def _copy_overlap(source: NDArray[np.uint8], at: Window, target: NDArray[np.uint8], window: Window) -> None:
    """Copy the pixels of a source image that are in a window of the slide."""
    top, left = max(at.top, window.top), max(at.left, window.left)
    bottom = min(at.top + at.height, window.top + window.height)
    right = min(at.left + at.width, window.left + window.width)
    if top < bottom and left < right:
        part = source[top - at.top : bottom - at.top, left - at.left : right - at.left]
        target[top - window.top : bottom - window.top, left - window.left : right - window.left] = part
