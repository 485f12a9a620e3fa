"""Nuclei: outlines and features of the nuclei of an image or slide, as columns."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Column -> its unit. x and y are the centroid, in pixels of level 0, counted from the corner of the first pixel.
FEATURES = {
    "x": "px",
    "y": "px",
    "area_um2": "µm²",
    "perimeter_um": "µm",
    "eccentricity": "",
    "solidity": "",
    "mean_probability": "",
    "haematoxylin_od": "",
}


@dataclass(frozen=True)
class Nuclei:
    """N nuclei in a fixed order: nucleus i has the label i + 1.

    Attributes:
        features: Name -> float64[N], the columns of `FEATURES`.
        points: float32[P,2], the vertices (x, y) of all outlines, in pixels of level 0, not closed.
        ends: int64[N], where each outline ends in `points`.
        boxes: int32[N,4], top, left, height and width of each nucleus, in pixels of the model's resolution.
        masks: uint8[M], for each nucleus np.packbits of its mask bool[height·width].
        mask_ends: int64[N], where each mask ends in `masks`.
    """

    features: Mapping[str, NDArray[np.float64]]
    points: NDArray[np.float32]
    ends: NDArray[np.int64]
    boxes: NDArray[np.int32]
    masks: NDArray[np.uint8]
    mask_ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)


def measure(
    labels: NDArray[np.int32],
    probability: NDArray[np.float32],
    image: NDArray[np.uint8],
    *,
    corner: tuple[int, int],
    core: tuple[int, int, int, int],
    scale: float,
    microns_per_pixel: float,
) -> Nuclei:
    """Return the nuclei of a window whose centroid is inside `core`, in the order of their labels.

    Args:
        labels: int32[h,w], 0 for background.
        probability: float32[h,w].
        image: uint8[h,w,3], RGB.
        corner: Row and column of the window's first pixel in the image at the model's resolution.
        core: top, left, height, width at the model's resolution; a centroid on its lower edge is inside, on its upper
            edge outside, so that cores that touch share no nucleus.
        scale: Pixels of level 0 for each pixel of the window.
        microns_per_pixel: Resolution of the window.
    """
    raise NotImplementedError


def join(parts: Iterable[Nuclei]) -> Nuclei:
    """Return the nuclei of several regions, one after the other."""
    raise NotImplementedError


def to_arrays(nuclei: Nuclei) -> dict[str, NDArray[Any]]:
    """Return every array by name, as `from_arrays` takes them."""
    raise NotImplementedError


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Nuclei:
    """Return the nuclei that `to_arrays` saved."""
    raise NotImplementedError
