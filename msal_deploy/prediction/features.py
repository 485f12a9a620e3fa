"""Features of the nuclei of a label image: sums over the pixels of each label, for all labels at once."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Optical densities of R, G and B for haematoxylin, eosin and DAB (Ruifrok and Johnston, 2001), as in skimage.color.
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# Weights of the three channels' optical densities that give the amount of haematoxylin.
HAEMATOXYLIN = np.linalg.inv(STAINS)[:, 0]
# A pixel of value v has the optical density -log10(v / 255); 0 counts as 1, because its density would be infinite.
DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255)


class Pixels(NamedTuple):
    """The pixels of N labels.

    Attributes:
        labels: int64[N], the labels, ascending.
        area: float64[N], their numbers of pixels.
        x, y: float64[N], their centroids; the centre of the first pixel is (0.5, 0.5).
        at: int64[P], row-major positions of all pixels.
        which: int64[P], the index in `labels` of each pixel.
        shape: Height and width of the label image.
    """

    labels: NDArray[np.int64]
    area: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    at: NDArray[np.int64]
    which: NDArray[np.int64]
    shape: tuple[int, int]

    def keep(self, chosen: NDArray[np.bool_]) -> "Pixels":
        """Return the pixels of some labels: bool[N]."""
        if chosen.all():
            return self
        index = np.cumsum(chosen) - 1
        kept = chosen[self.which]
        area, x, y = (column[chosen] for column in (self.area, self.x, self.y))
        return Pixels(self.labels[chosen], area, x, y, self.at[kept], index[self.which[kept]], self.shape)

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return float64[N], the sum of float64[P] over the pixels of each label."""
        return np.bincount(self.which, values, len(self.labels)).astype(np.float64)


def find_centroids(labels: NDArray[np.int32]) -> Pixels:
    """Return the pixels of all labels of int32[h,w], with areas and centroids."""
    at = np.flatnonzero(labels != 0)
    values = labels.reshape(-1)[at]
    area = np.bincount(values)
    present = np.flatnonzero(area)
    index = np.zeros(len(area), np.int64)
    index[present] = np.arange(len(present))
    height, width = labels.shape
    none = np.zeros(0)
    pixels = Pixels(present, area[present].astype(np.float64), none, none, at, index[values], (height, width))
    rows, columns = np.divmod(at, width)
    return pixels._replace(
        x=pixels.sums(columns.astype(np.float64)) / pixels.area + 0.5,
        y=pixels.sums(rows.astype(np.float64)) / pixels.area + 0.5,
    )


def measure_features(
    pixels: Pixels, labels: NDArray[np.int32], probability: NDArray[np.float32], image: NDArray[np.uint8]
) -> dict[str, NDArray[np.float64]]:
    """Return all features but the solidity, in pixels: float64[N] each.

    ``haematoxylin_od`` is the mean over the nucleus of the haematoxylin that colour deconvolution finds: an optical
    density to base 10 along the stain's vector. It is 6 times the first channel of ``skimage.color.rgb2hed``, whose
    unit is a density of 6, but a pixel may be negative (skimage sets it to 0), so that noise does not shift the mean.
    """
    return {
        "x": pixels.x,
        "y": pixels.y,
        "area_um2": pixels.area,
        "perimeter_um": _perimeters(pixels, labels),
        "eccentricity": _eccentricities(pixels),
        "mean_probability": pixels.sums(probability.reshape(-1)[pixels.at].astype(np.float64)) / pixels.area,
        "haematoxylin_od": _haematoxylin(pixels, image) / pixels.area,
    }


def _haematoxylin(pixels: Pixels, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    colours = image.reshape(-1, 3)[pixels.at]
    tables = HAEMATOXYLIN[:, None] * DENSITY
    return pixels.sums(tables[0][colours[:, 0]] + tables[1][colours[:, 1]] + tables[2][colours[:, 2]])


def _eccentricities(pixels: Pixels) -> NDArray[np.float64]:
    """Return the eccentricity of the ellipse with the same second moments."""
    rows, columns = np.divmod(pixels.at, pixels.shape[1])
    x = columns + 0.5 - pixels.x[pixels.which]
    y = rows + 0.5 - pixels.y[pixels.which]
    xx, yy, xy = (pixels.sums(value) / pixels.area for value in (x * x, y * y, x * y))
    xx, yy = xx + 1 / 12, yy + 1 / 12  # a pixel is a square, not a point
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return np.sqrt(2 * spread / (middle + spread))


def _perimeters(pixels: Pixels, labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the perimeters by Crofton's formula: how often lines in four directions cross the border.

    Discs of a radius of 5 to 30 px have 2πr to 0.5% on average over their positions. A single one of 5 px can be off
    by 8%, one of 10 px by 4%. The length of an outline through pixels would be up to 20% too long, because it climbs
    slopes in steps.
    """
    padded = np.pad(labels, 1)
    width, flat = padded.shape[1], padded.reshape(-1)
    # Lines in a direction are 1 px apart, diagonal ones 1/√2.
    directions = ((1, 1.0), (width, 1.0), (width + 1, 0.5**0.5), (width - 1, 0.5**0.5))
    rows, columns = np.divmod(pixels.at, pixels.shape[1])
    at, which = _at_border((rows + 1) * width + columns + 1, pixels.which, flat, [step for step, _ in directions])
    own, crossings = flat[at], np.zeros(len(at))
    for step, distance in directions:
        crossings += distance * ((flat[at + step] != own).astype(np.float64) + (flat[at - step] != own))
    return np.pi / 8 * np.bincount(which, crossings, len(pixels.labels)).astype(np.float64)


def _at_border(
    at: NDArray[np.int64], which: NDArray[np.int64], flat: NDArray[np.int32], steps: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pixels that differ from a neighbour: the others, which are most, add nothing to a perimeter."""
    differs = np.zeros(len(flat), bool)
    for step in steps:
        changes = flat[step:] != flat[:-step]
        differs[step:] |= changes
        differs[:-step] |= changes
    border = differs[at]
    return at[border], which[border]
