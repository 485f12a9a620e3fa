"""Separate touching nuclei in a probability map: one label for each nucleus.

1. Foreground: pixels at or above the threshold, and small holes in it.
2. Depth: how far a pixel is inside a nucleus. The distances to the edge of the foreground and to the edges of several
   higher probability levels are summed: between touching nuclei the probability dips, which the foreground alone does
   not show. Then the sum is smoothed.
3. Basins: every pixel belongs to the peak of depth that steepest ascent leads to, as in a watershed.
4. Basins with a shallow saddle between them are one nucleus: merged.
5. Nuclei below the minimum area are removed.

How the defaults were chosen, and what limits the accuracy: benchmarks/instances.
"""

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class Separation(msgspec.Struct, frozen=True):
    """The parameters of `separate`, in physical units, so that they hold at any resolution.

    The defaults were chosen on training images only, those of MoNuSeg, CoNSeP and NuInsSeg.

    Attributes:
        min_area: Smallest nucleus, in µm².
        max_hole: Largest hole that is filled, in µm². Larger ones, and those at the border of the image, stay.
        smoothing: Standard deviation of the Gaussian that smooths the depth, in µm.
        levels: Probabilities whose edges count in the depth besides that of the threshold. One below it counts as
            the threshold again.
        saddle: From 0 to 1. Two basins are one nucleus if the saddle between them has at least this share of the lower
            peak's depth. Smaller values merge more.
    """

    min_area: float = 4.0
    max_hole: float = 30.0
    smoothing: float = 0.4
    levels: tuple[float, ...] = (0.9, 0.95, 0.98)
    saddle: float = 0.95


class _Field(msgspec.Struct, frozen=True):
    """The depth of an image with a border of one pixel, flattened: neighbours are at ±1 and ±stride.

    Attributes:
        depth: float32[(H+2)·(W+2)], −1 in the background.
        pixels: int[F], the indices of the foreground, in scan order.
        stride: W + 2.
    """

    depth: NDArray[np.float32]
    pixels: Indices
    stride: int


def separate(
    probability: NDArray[np.float32],
    *,
    threshold: float = 0.5,
    microns_per_pixel: float = 0.25,
    parameters: Separation | None = None,
) -> NDArray[np.int32]:
    """Return the nuclei of a probability map. The same map always gives the same labels.

    >>> probability = np.zeros((40, 60), np.float32)
    >>> for x in (20, 38):  # two touching discs
    ...     _ = cv2.circle(probability, (x, 20), 10, 1.0, cv2.FILLED)
    >>> labels = separate(probability)
    >>> labels.max(), labels[20, 15], labels[20, 43], labels[0, 0]
    (np.int32(2), np.int32(1), np.int32(2), np.int32(0))

    Args:
        probability: float32[H,W], without NaN, of any size from 1×1.
        threshold: Smallest probability of a nucleus.
        microns_per_pixel: Resolution, more than 0.
        parameters: Another choice than the default.

    Returns:
        int32[H,W], 0 for background and 1 to N for the nuclei, numbered by their first pixel in scan order. Each
        nucleus is 4-connected.

    Raises:
        ValueError: The map is not two-dimensional, or the resolution is not positive.
    """
    if probability.ndim != 2 or microns_per_pixel <= 0:
        raise ValueError(f"Expected float[H,W] and a resolution over 0, got {probability.shape}, {microns_per_pixel}")
    chosen, pixel = parameters or Separation(), microns_per_pixel**2
    foreground = _without_holes(probability >= threshold, chosen.max_hole / pixel)
    depth = _depth(probability, foreground, chosen.levels, chosen.smoothing / microns_per_pixel)
    field = _field(depth, foreground)
    nuclei = _merged(field, _basins(field), chosen.saddle)
    numbers = _numbered(nuclei, chosen.min_area / pixel)
    labels = np.zeros(probability.shape, np.int32)
    labels[foreground] = numbers
    return labels


def _without_holes(foreground: NDArray[np.bool_], max_pixels: float) -> NDArray[np.bool_]:
    """Fill background regions of at most `max_pixels` that do not touch the border of the image."""
    height, width = foreground.shape
    _, regions, stats, _ = cv2.connectedComponentsWithStats((~foreground).astype(np.uint8), connectivity=8)
    left, top, wide, high, area = stats.T
    inside = (left > 0) & (top > 0) & (left + wide < width) & (top + high < height)
    holes = inside & (area <= max_pixels)
    holes[0] = False  # the foreground
    return foreground | holes[regions] if holes.any() else foreground


def _depth(
    probability: NDArray[np.float32], foreground: NDArray[np.bool_], levels: tuple[float, ...], sigma: float
) -> NDArray[np.float32]:
    """Return float32[H,W]: distances to the edges of the foreground and of the levels in it, summed and smoothed."""
    depth = np.zeros(foreground.shape, np.float32)
    for mask in (foreground, *(foreground & (probability >= level) for level in levels)):
        if not mask.all():  # without an edge there is no distance to it
            depth += cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(cv2.GaussianBlur(depth, (0, 0), sigma), np.float32)


def _field(depth: NDArray[np.float32], foreground: NDArray[np.bool_]) -> _Field:
    padded = np.pad(np.where(foreground, depth, np.float32(-1)), 1, constant_values=-1)
    return _Field(padded.ravel(), np.flatnonzero(padded >= 0), padded.shape[1])


def _basins(field: _Field) -> Indices:
    """Return int[F]: for each foreground pixel the index of the peak that steepest ascent leads to.

    Of neighbours of equal depth, the one with the lower index is higher. So no two pixels are equal and no path is a
    loop.
    """
    depth, pixels = field.depth, field.pixels
    highest, goal = depth[pixels], pixels
    for offset in (-field.stride, -1, 1, field.stride):
        neighbours = pixels + offset
        there = depth[neighbours]
        higher = (there > highest) | ((there == highest) & (neighbours < goal))
        highest, goal = np.where(higher, there, highest), np.where(higher, neighbours, goal)
    return _ends(field, goal)


def _ends(field: _Field, goal: Indices) -> Indices:
    """Follow the paths from each pixel to its goal, to their ends. Each step doubles the length that is covered."""
    following = np.zeros(field.depth.size, np.int64)
    while True:
        following[field.pixels] = goal
        further = following[goal]
        if np.array_equal(further, goal):
            return goal
        goal = further


def _merged(field: _Field, peaks: Indices, saddle: float) -> Indices:
    """Return int[F], the region of each foreground pixel. Basins are merged across shallow saddles, highest first."""
    roots = field.pixels[peaks == field.pixels]
    basin_at = np.full(field.depth.size, -1, np.int64)
    basin_at[roots] = np.arange(len(roots))
    basins = basin_at[peaks]
    basin_at[field.pixels] = basins
    parents, heights = list(range(len(roots))), field.depth[roots].tolist()
    for first, second, height in _saddles(field, basin_at):
        a, b = _root(parents, first), _root(parents, second)
        if a != b and height >= saddle * min(heights[a], heights[b]):
            parents[b], heights[a] = a, max(heights[a], heights[b])
    return np.array([_root(parents, basin) for basin in parents], np.int64)[basins]


def _root(parents: list[int], basin: int) -> int:
    while parents[basin] != basin:
        parents[basin] = basin = parents[parents[basin]]
    return basin


def _saddles(field: _Field, basin_at: Indices) -> list[tuple[int, int, float]]:
    """Return the pairs of adjacent basins with the depth of the highest saddle between them, highest first."""
    here = np.concatenate([field.pixels, field.pixels])
    there = np.concatenate([field.pixels + 1, field.pixels + field.stride])
    between = (basin_at[there] >= 0) & (basin_at[there] != basin_at[here])
    here, there = here[between], there[between]
    height = np.minimum(field.depth[here], field.depth[there])
    pairs = np.sort([basin_at[here], basin_at[there]], axis=0)
    order = np.lexsort((*pairs, -height))  # by height, then by pair; a pair's lower saddles change nothing
    return list(zip(*pairs[:, order].tolist(), height[order].tolist(), strict=True))


def _numbered(regions: Indices, min_pixels: float) -> NDArray[np.int32]:
    """Number the regions 1 to N by their first pixel; 0 for those below the minimum area."""
    areas = np.bincount(regions)
    first = np.zeros(len(areas), np.int64)
    first[regions[::-1]] = np.arange(len(regions))[::-1]  # the last assignment counts
    kept = np.flatnonzero((areas > 0) & (areas >= min_pixels))
    numbers = np.zeros(len(areas), np.int32)
    numbers[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1)
    return numbers[regions]
