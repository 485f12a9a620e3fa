"""Windows of the label image of a slide, painted from the nuclei of its regions."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from msal_deploy.prediction.nuclei import Nuclei, paint
from msal_deploy.prediction.record import Region, SlideFolder

Window = tuple[int, int, int, int]  # top, left, height, width


class LabelImage:
    """The label image of a slide at the model's resolution; the pixels of nucleus i, counted from 1, have the value i.

    A nucleus may extend past the core of its region. Where two overlap, the one with the lower number keeps the pixel.

    Attributes:
        shape: Height and width.
    """

    def __init__(self, folder: SlideFolder) -> None:
        self.shape = folder.record().shape
        self._paths = [folder.region_path(row, column) for row, column in _positions(folder)]
        counts, extents = [0], []
        for region in folder.regions():
            counts.append(len(region.nuclei))
            extents.append(_extent(region.nuclei))
        self._first = (np.cumsum(counts) + 1).tolist()
        self._extents = np.array(extents, np.int64).reshape(-1, 4)
        # A row of windows meets at most three rows of regions; without points and pictures they are small.
        self._load = lru_cache(3 * folder.record().grid[1] + 1)(self._read)

    def _read(self, index: int) -> Nuclei:
        nuclei = Region.load(self._paths[index]).nuclei
        return replace(nuclei, points=np.zeros((0, 2), np.float32), ends=np.zeros(len(nuclei), np.int64))

    def read(self, window: Window) -> NDArray[np.uint32] | None:
        """Return uint32[height,width], or None if there is no nucleus (a window may end outside the image)."""
        top, left, height, width = window
        first, last = self._extents[:, :2], self._extents[:, 2:]
        meets = (first < [top + height, left + width]).all(axis=1) & (last > [top, left]).all(axis=1)
        if not meets.any():
            return None
        labels = np.zeros((height, width), np.uint32)
        for index in np.flatnonzero(meets).tolist():
            paint(self._load(index), labels, (top, left), self._first[index])
        return labels


def _positions(folder: SlideFolder) -> Iterator[tuple[int, int]]:
    rows, columns = folder.record().grid
    every = ((row, column) for row in range(rows) for column in range(columns))
    return (position for position in every if folder.region_path(*position).is_file())


def _extent(nuclei: Nuclei) -> tuple[int, int, int, int]:
    if not len(nuclei):
        return (0, 0, 0, 0)
    first, last = nuclei.boxes[:, :2], nuclei.boxes[:, :2] + nuclei.boxes[:, 2:]
    return (*first.min(axis=0).tolist(), *last.max(axis=0).tolist())


def windows(shape: tuple[int, int], side: int) -> Iterator[Window]:
    """Yield the windows that cover an image, row by row; those at its end are smaller.

    >>> list(windows((5, 3), 4))
    [(0, 0, 4, 3), (4, 0, 1, 3)]
    """
    height, width = shape
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield top, left, min(side, height - top), min(side, width - left)
