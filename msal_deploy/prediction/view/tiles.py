"""Tiles of a slide for deep zoom: from the file itself, and from the small pictures of the regions."""

import threading
from collections.abc import Callable, Iterable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.prediction.record import SHRINK
from msal_deploy.prediction.slide import Slide

TILE = 512  # px
MAX_OVERVIEW = 4096  # px along the longer side of the overview: at most 50 MB
BACKGROUND = 243  # grey of what no picture covers
Core = tuple[int, int, int, int]
Pixels = NDArray[np.uint8]


class Pyramid:
    """The tiles of a slide. Level `levels` - 1 has the model's resolution, and each below it half of the next one's.

    Attributes:
        shape: Height and width at the model's resolution.
        levels: Number of levels; level 0 has one pixel.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        slide: Slide | None,
        cores: Callable[[], dict[tuple[int, int], Core]],
        picture: Callable[[tuple[int, int]], Pixels],
    ) -> None:
        """Keep where the pixels come from.

        Args:
            shape: Height and width at the model's resolution.
            slide: The open file, or None if it is gone.
            cores: Returns the place of each region at the model's resolution.
            picture: Returns the small picture of a region.
        """
        self.shape = shape
        self.levels = (max(shape) - 1).bit_length() + 1
        self._slide, self._cores, self._picture = slide, cores, picture
        self._lock = threading.Lock()
        self._overview: Pixels | None = None
        self.jpeg = lru_cache(256)(self._jpeg)

    def size(self, level: int) -> tuple[int, int]:
        """Return height and width of a level."""
        shrink = self._shrink(level)
        return -(-self.shape[0] // shrink), -(-self.shape[1] // shrink)

    def _shrink(self, level: int) -> int:
        return 1 << (self.levels - 1 - level)

    def _jpeg(self, level: int, column: int, row: int) -> bytes | None:
        pixels = self.tile(level, column, row)
        if pixels is None:
            return None
        quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
        return bytes(cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)[1])

    def tile(self, level: int, column: int, row: int) -> Pixels | None:
        """Return a tile, uint8[h,w,3], RGB, at most `TILE` along each side, or None if there is no such tile."""
        if not 0 <= level < self.levels:
            return None
        height, width = (
            min(TILE, length - TILE * at) for length, at in zip(self.size(level), (row, column), strict=True)
        )
        if min(height, width) <= 0:
            return None
        shrink = self._shrink(level)
        window = (row * TILE, column * TILE, height, width)
        if shrink >= SHRINK:
            return self._small(window, shrink)
        return self._sharp(window, shrink) if self._slide else self._enlarged(window, shrink)

    def _sharp(self, window: Core, shrink: int) -> Pixels:
        """Read a window from the file; if the file is damaged there, enlarge the small pictures."""
        top, left, height, width = (shrink * value for value in window)
        height, width = min(height, self.shape[0] - top), min(width, self.shape[1] - left)
        assert self._slide is not None
        try:
            pixels = self._slide.read(top, left, height, width)
        except BadInput:
            return self._enlarged(window, shrink)
        return pixels if shrink == 1 else _resize(pixels, window[2:])

    def _enlarged(self, window: Core, shrink: int) -> Pixels:
        times = SHRINK // shrink
        top, left, height, width = window
        small = self._small((top // times, left // times, -(-height // times), -(-width // times)), SHRINK)
        large = cv2.resize(small, (small.shape[1] * times, small.shape[0] * times), interpolation=cv2.INTER_LINEAR)
        return large[:height, :width]  # type: ignore[return-value]

    def _small(self, window: Core, shrink: int) -> Pixels:
        """Return a window of a level with an eighth of the model's resolution or less."""
        if shrink >= self._overview_shrink:
            top, left, height, width = (value * shrink // self._overview_shrink for value in window)
            part = self.overview()[top : top + height, left : left + width]
            return part if shrink == self._overview_shrink else _resize(part, window[2:])
        return self._compose(window, shrink, self._background(window, shrink))

    @property
    def _overview_shrink(self) -> int:
        shrink = SHRINK
        while max(self.shape) > MAX_OVERVIEW * shrink:
            shrink *= 2
        return shrink

    def overview(self) -> Pixels:
        """Return the whole slide, small, from the pictures of the regions and from the file where there are none."""
        with self._lock:
            if self._overview is None:
                shrink = self._overview_shrink
                height, width = (-(-length // shrink) for length in self.shape)
                self._overview = self._compose((0, 0, height, width), shrink, self._thumbnail(height, width))
            return self._overview

    def _thumbnail(self, height: int, width: int) -> Pixels:
        everything = self.shape[0] * self.shape[1] <= sum(h * w for _, _, h, w in self._cores().values())
        if self._slide is None or everything:
            return np.full((height, width, 3), BACKGROUND, np.uint8)
        return _resize(self._slide.thumbnail(max(height, width)), (height, width))

    def _background(self, window: Core, shrink: int) -> Pixels:
        """Return a window of the overview, enlarged to a finer level."""
        times = self._overview_shrink // shrink
        top, left, height, width = window
        rows, columns = (
            slice(top // times, -(-(top + height) // times)),
            slice(left // times, -(-(left + width) // times)),
        )
        part = self.overview()[rows, columns]
        large = cv2.resize(part, (part.shape[1] * times, part.shape[0] * times), interpolation=cv2.INTER_LINEAR)
        return large[:height, :width].copy()  # type: ignore[return-value]

    def _compose(self, window: Core, shrink: int, canvas: Pixels) -> Pixels:
        """Paste the pictures of the regions that overlap a window."""
        for place, core in self._cores().items():
            target = _scaled(core, shrink)
            if all(start < end for start, end in _overlap(target, window)):
                _paste(canvas, window, target, self._picture(place))
        return canvas


def _scaled(core: Core, shrink: int) -> Core:
    """Return a core's rectangle at a coarser level. Cores that touch still touch."""
    top, left, height, width = core
    bottom, right = -(-(top + height) // shrink), -(-(left + width) // shrink)
    return top // shrink, left // shrink, bottom - top // shrink, right - left // shrink


def _overlap(a: Core, b: Core) -> Iterable[tuple[int, int]]:
    return [(max(a[i], b[i]), min(a[i] + a[i + 2], b[i] + b[i + 2])) for i in (0, 1)]


def _paste(canvas: Pixels, window: Core, target: Core, picture: Pixels) -> None:
    """Write the part of a picture that is inside a window; the whole picture covers `target`."""
    (top, bottom), (left, right) = _overlap(target, window)
    scaled = _resize(picture, target[2:])
    part = scaled[top - target[0] : bottom - target[0], left - target[1] : right - target[1]]
    canvas[top - window[0] : bottom - window[0], left - window[1] : right - window[1]] = part


def _resize(pixels: Pixels, size: tuple[int, ...]) -> Pixels:
    if pixels.shape[:2] == tuple(size):
        return pixels
    return cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
