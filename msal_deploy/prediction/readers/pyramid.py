"""Resample windows of a pyramid to the model's resolution, with the same pixels in every window."""

import math
import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise, product

import cv2
import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.prediction.slide import Slide

BLOCK = 512  # side of the blocks that are resampled, at the model's resolution
CACHED_BLOCKS = 64  # 50 MB
SAME = 0.005  # resolutions this close count as the same: 512 px then differ by 2.6 px
BAND = 1 << 24  # pixels of a level that a thumbnail reads at once
SMALLEST = 128  # side in pixels of a level below which a damaged part is not divided further
DAMAGED = 128  # grey level of what cannot be read, in thumbnails
MARGIN = 3  # source pixels around a block, more than cubic interpolation needs


class PyramidSlide(Slide):
    """A slide that is read from the levels of a pyramid.

    Windows are put together from blocks that do not depend on the window. If the resolution is the model's, within
    0.5%, the pixels are those of the file and `scale` is 1.
    """

    def __init__(
        self,
        name: str,
        source: str,
        levels: Sequence[tuple[int, int]],
        microns_per_pixel: float,
        model_mpp: float,
        notes: Sequence[str] = (),
    ) -> None:
        """Choose the coarsest level that is at least as fine as the model's resolution."""
        self.name, self.source, self.size, self.microns_per_pixel = name, source, levels[0], microns_per_pixel
        ratio = model_mpp / microns_per_pixel
        self.scale = 1.0 if abs(ratio - 1) <= SAME else ratio
        self.shape = (self._scaled(self.size[0]), self._scaled(self.size[1]))
        self.levels = [(level, (self.size[0] / level[0] + self.size[1] / level[1]) / 2) for level in levels]
        self._level = self._choose(self.scale)
        self.notes = (*notes, *_about(name, microns_per_pixel, model_mpp))
        self._blocks: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    @abstractmethod
    def read_level(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return uint8[height,width,3], a window inside a level."""

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a window at the model's resolution."""
        if self.scale == 1.0:
            return self.read_level(0, top, left, height, width)
        window = np.empty((height, width, 3), np.uint8)
        rows = range(top // BLOCK, -(-(top + height) // BLOCK))
        columns = range(left // BLOCK, -(-(left + width) // BLOCK))
        for i, j in product(rows, columns):
            block = self._block(i, j)
            y0, x0 = max(i * BLOCK, top), max(j * BLOCK, left)
            y1 = min(i * BLOCK + block.shape[0], top + height)
            x1 = min(j * BLOCK + block.shape[1], left + width)
            part = block[y0 - i * BLOCK : y1 - i * BLOCK, x0 - j * BLOCK : x1 - j * BLOCK]
            window[y0 - top : y1 - top, x0 - left : x1 - left] = part
        return window

    def thumbnail(self, longest: int) -> NDArray[np.uint8]:
        """Return the whole image from the coarsest level that has enough pixels, row of blocks by row of blocks."""
        factor = max(1.0, max(self.size) / longest)
        level = self._choose(factor)
        (height, width), _ = self.levels[level]
        size = (max(1, round(self.size[0] / factor)), max(1, round(self.size[1] / factor)))
        bands = -(-height * width // BAND)
        edges = [round(size[0] * index / bands) for index in range(bands + 1)]
        parts = []
        for first, last in pairwise(edges):
            if first == last:
                continue
            top, bottom = height * first // size[0], max(height * last // size[0], height * first // size[0] + 1)
            band = self._readable(level, top, 0, bottom - top, width)
            parts.append(cv2.resize(band, (size[1], last - first), interpolation=cv2.INTER_AREA))
        return np.concatenate(parts)

    def _readable(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Read a window; what is damaged in it is grey, which counts as tissue: so it is tried, and reported."""
        try:
            return self.read_level(level, top, left, height, width)
        except BadInput:
            if max(height, width) <= SMALLEST:
                return np.full((height, width, 3), DAMAGED, np.uint8)
        half_h, half_w = (height // 2, 0) if height >= width else (0, width // 2)
        if half_h:
            upper = self._readable(level, top, left, half_h, width)
            return np.concatenate([upper, self._readable(level, top + half_h, left, height - half_h, width)])
        first = self._readable(level, top, left, height, half_w)
        return np.concatenate([first, self._readable(level, top, left + half_w, height, width - half_w)], axis=1)

    def _scaled(self, pixels: int) -> int:
        return max(1, round(pixels / self.scale))

    def _choose(self, factor: float) -> int:
        """Return the coarsest level whose pixels are at most `factor` times those of level 0, within 2%."""
        fine = [index for index, (_, downsample) in enumerate(self.levels) if downsample <= factor * 1.02]
        return fine[-1] if fine else 0

    def _block(self, i: int, j: int) -> NDArray[np.uint8]:
        with self._lock:
            if (i, j) in self._blocks:
                self._blocks.move_to_end((i, j))
                return self._blocks[i, j]
        block = self._resampled(i * BLOCK, j * BLOCK)
        with self._lock:
            self._blocks[i, j] = block
            while len(self._blocks) > CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        return block

    def _resampled(self, top: int, left: int) -> NDArray[np.uint8]:
        """Compute a block of the model's resolution from the level."""
        (height, width), downsample = self.levels[self._level]
        factor = self.scale / downsample  # pixels of the level for each of the block
        sigma = 0.5 * factor if factor > 1.1 else 0.0
        margin = MARGIN + math.ceil(3 * sigma)
        rows, columns = min(BLOCK, self.shape[0] - top), min(BLOCK, self.shape[1] - left)
        y0, x0 = math.floor(top * factor) - margin, math.floor(left * factor) - margin
        y1, x1 = math.ceil((top + rows) * factor) + margin, math.ceil((left + columns) * factor) + margin
        inside = (max(y0, 0), max(x0, 0), min(y1, height), min(x1, width))
        source = self.read_level(self._level, inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1])
        source = cv2.copyMakeBorder(  # type: ignore[assignment]
            source, inside[0] - y0, y1 - inside[2], inside[1] - x0, x1 - inside[3], cv2.BORDER_REPLICATE
        )
        if sigma:  # without it, details finer than a pixel become patterns
            source = cv2.GaussianBlur(source, (0, 0), sigma)  # type: ignore[assignment]
        # The centre of pixel x of the block is at (left + x + ½)·factor - ½ of the level.
        shift = [(start + 0.5) * factor - 0.5 - origin for start, origin in ((left, x0), (top, y0))]
        matrix = np.array([[factor, 0, shift[0]], [0, factor, shift[1]]])
        kind = (cv2.INTER_LINEAR if factor >= 1 else cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(source, matrix, (columns, rows), flags=kind)  # type: ignore[return-value]


def _about(name: str, microns_per_pixel: float, model_mpp: float) -> list[str]:
    """Say what a coarse scan means for the result."""
    if microns_per_pixel < 1.5 * model_mpp:
        return []
    times = microns_per_pixel / model_mpp
    return [f"{name} has {microns_per_pixel:.3g} µm/px and was enlarged {times:.1f}×: expect fewer and rougher nuclei"]
