"""A small slide in memory and the result that predict would keep of it: squares as nuclei, placed by hand."""

from pathlib import Path

import cv2
import numpy as np

from msal_deploy.prediction.nuclei import measure
from msal_deploy.prediction.record import Identity, Region, RunRecord, SlideFolder
from msal_deploy.prediction.slide import Slide

SHAPE, REGION = (700, 1100), 512  # at the model's resolution; level 0 has half of it
MICRONS = 0.25
SQUARES = [(60, 80, 20), (100, 300, 40), (330, 540, 32), (560, 1040, 24), (502, 200, 24)]  # top, left, side


def pixels() -> np.ndarray:
    """Smooth colours, which JPEG keeps, with dark squares."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = np.dstack([90 + y * 150 // SHAPE[0], 60 + x * 150 // SHAPE[1], np.full(SHAPE, 180)]).astype(np.uint8)
    for top, left, side in SQUARES:
        image[top : top + side, left : left + side] = (70, 40, 120)
    return image


class Memory(Slide):
    """A slide in memory."""

    def __init__(self) -> None:
        self.name, self.source, self.size = "squares", "squares.svs", (SHAPE[0] // 2, SHAPE[1] // 2)
        self.microns_per_pixel, self.scale, self.shape, self.notes = 2 * MICRONS, 0.5, SHAPE, ()
        self.closed, self._pixels = False, pixels()

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        assert min(top, left) >= 0 and top + height <= SHAPE[0] and left + width <= SHAPE[1]
        return self._pixels[top : top + height, left : left + width]

    def thumbnail(self, longest: int) -> np.ndarray:
        share = longest / max(SHAPE)
        return cv2.resize(
            self._pixels, (round(SHAPE[1] * share), round(SHAPE[0] * share)), interpolation=cv2.INTER_AREA
        )

    def close(self) -> None:
        self.closed = True


def write(path: Path, *, skip: tuple[tuple[int, int], ...] = ()) -> SlideFolder:
    """Write the result of the slide; regions in `skip` have no file."""
    image, labels = pixels(), np.zeros(SHAPE, np.int32)
    for label, (top, left, side) in enumerate(SQUARES, 1):
        labels[top : top + side, left : left + side] = label
    folder, grid = SlideFolder(path), (2, 3)
    for row, column in set(np.ndindex(grid)) - set(skip):
        top, left = row * REGION, column * REGION
        core = (top, left, min(REGION, SHAPE[0] - top), min(REGION, SHAPE[1] - left))
        window = (slice(top, top + core[2]), slice(left, left + core[3]))
        measured = {"corner": (0, 0), "core": core, "scale": 0.5, "microns_per_pixel": MICRONS}
        nuclei = measure(labels, (labels > 0).astype(np.float32), image, **measured)
        small = cv2.resize(image[window], (-(-core[3] // 8), -(-core[2] // 8)), interpolation=cv2.INTER_AREA)
        Region(core, nuclei, (labels[window] > 0).astype(np.uint8) * 255, small).save(folder.region_path(row, column))
    identity = Identity("0", "0", "openvino:int8", 2 * MICRONS, 512, 64, 1, "0")
    size = (SHAPE[0] // 2, SHAPE[1] // 2)
    record = RunRecord("squares.svs", identity, size, SHAPE, 0.5, MICRONS, 0.5, grid, nuclei=len(SQUARES))
    folder.write_record(record)
    return folder
