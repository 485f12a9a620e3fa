"""Tissue: where a slide is worth computing, found on a small picture of it.

Glass is bright and colourless, and what was not scanned is black or white. Anything else is tissue. The limits are
generous: a tile is skipped only if all of it is glass, so that pale tissue costs time, and no nuclei.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from msal_deploy.prediction.grid import Window
from msal_deploy.prediction.slide import Slide

MICRONS_PER_PIXEL = 4.0
MAX_SIDE = 4096
MIN_CHROMA = 12  # of 255: the largest minus the smallest channel; scanned glass stays below 8
MIN_BRIGHT, MAX_BRIGHT = 20, 200  # of 255: the mean of the channels; darker is not scanned, brighter is glass
MARGIN = 24.0  # µm around tissue that count as tissue


class Tissue:
    """The tissue of a slide.

    Attributes:
        mask: bool[h,w], at a lower resolution.
    """

    def __init__(self, mask: NDArray[np.bool_], shape: tuple[int, int]) -> None:
        self.mask, self._shape = mask, shape
        self._factors = (mask.shape[0] / shape[0], mask.shape[1] / shape[1])

    def overlaps(self, window: Window) -> bool:
        """Return whether there is tissue in a window of the slide at the model's resolution."""
        vertical, horizontal = self._factors
        top, left = int(window.top * vertical), int(window.left * horizontal)
        bottom = int(np.ceil((window.top + window.height) * vertical))
        right = int(np.ceil((window.left + window.width) * horizontal))
        return bool(self.mask[top:bottom, left:right].any())

    def area_mm2(self, microns_per_pixel: float) -> float:
        """Return the area of the tissue, if the slide has this resolution at `shape`."""
        pixels = self._shape[0] * self._shape[1] * float(self.mask.mean())
        return pixels * microns_per_pixel**2 / 1e6


def find_tissue(slide: Slide, microns_per_pixel: float) -> Tissue:
    """Find the tissue of a slide.

    Args:
        slide: An open slide.
        microns_per_pixel: The model's resolution.
    """
    longest = max(slide.shape) * microns_per_pixel / MICRONS_PER_PIXEL
    picture = slide.thumbnail(int(np.clip(round(longest), 1, MAX_SIDE)))
    resolution = max(slide.shape) * microns_per_pixel / max(picture.shape)
    return Tissue(tissue_mask(picture, resolution), slide.shape)


def tissue_mask(picture: NDArray[np.uint8], microns_per_pixel: float) -> NDArray[np.bool_]:
    """Return bool[h,w], where a small RGB picture shows tissue.

    >>> picture = np.full((40, 40, 3), 240, np.uint8)
    >>> picture[18:22, 18:22] = (200, 130, 180)
    >>> mask = tissue_mask(picture, 8.0)
    >>> bool(mask[20, 15]), bool(mask[0, 0])  # 24 µm are 3 px
    (True, False)
    """
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0) if min(picture.shape[:2]) > 8 else picture
    brightness = smooth.mean(axis=2)
    chroma = smooth.max(axis=2).astype(np.int16) - smooth.min(axis=2)
    scanned = brightness >= MIN_BRIGHT
    mask = scanned & ((chroma >= MIN_CHROMA) | (brightness <= MAX_BRIGHT))
    reach = max(1, round(MARGIN / microns_per_pixel))
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)
