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
        depth: float32[(H+2)·(W+2)], more than 0 in the foreground and 0 in the background.
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
    >>> labels[20, [0, 15, 43]].tolist()
    [0, 1, 2]

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
    padded = np.pad(depth * foreground, 1)
    field = _Field(padded.ravel(), np.flatnonzero(padded != 0), padded.shape[1])
    nuclei = _merged(field, _basins(field), chosen.saddle)
    numbers = _numbered(nuclei, chosen.min_area / pixel)
    labels = np.zeros(probability.shape, np.int32)
    labels[foreground] = numbers
    return labels


def _without_holes(foreground: NDArray[np.bool_], max_pixels: float) -> NDArray[np.bool_]:
    """Fill 8-connected background regions of at most `max_pixels` that do not touch the border of the image."""
    background = np.pad(~foreground, 1, constant_values=True)  # all that touches the border is one region, the first
    _, regions, stats, _ = cv2.connectedComponentsWithStats(background.astype(np.uint8))
    holes = stats[:, cv2.CC_STAT_AREA] <= max_pixels
    holes[1] = False
    return np.asarray(foreground | holes[regions[1:-1, 1:-1]])


def _depth(
    probability: NDArray[np.float32], foreground: NDArray[np.bool_], levels: tuple[float, ...], sigma: float
) -> NDArray[np.float32]:
    """Return float32[H,W]: distances to the edges of the foreground and of the levels in it, summed and smoothed."""
    depth = _distance(foreground)
    for level in levels:
        depth = depth + _distance(foreground & (probability >= level))
    return cv2.GaussianBlur(depth, (0, 0), sigma)  # type: ignore[return-value]


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return float32[H,W]: the distance to the nearest pixel outside the mask, or to the image's border without one."""
    if mask.all():
        return _distance(np.pad(mask, 1))[1:-1, 1:-1]
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)  # type: ignore[return-value]


def _basins(field: _Field) -> Indices:
    """Return int[F]: for each foreground pixel the index of the peak that steepest ascent leads to.

    Each pixel of a plateau is a peak. Merging makes one of them.
    """
    highest, goal = field.depth[field.pixels], field.pixels
    for offset in (-field.stride, -1, 1, field.stride):
        neighbours = field.pixels + offset
        higher = field.depth[neighbours] > highest
        goal = np.where(higher, neighbours, goal)
        highest = field.depth[goal]
    return _ends(field, goal)


def _ends(field: _Field, goal: Indices) -> Indices:
    """Follow the paths from each pixel to its goal, to their ends. Each step doubles the length that is covered."""
    following = np.zeros(field.depth.size, np.int64)
    while True:
        following[field.pixels] = goal
        further = following[goal]
        if (further == goal).all():
            return goal
        goal = further


def _merged(field: _Field, peaks: Indices, saddle: float) -> Indices:
    """Return int[F], the region of each foreground pixel. Basins are merged across shallow saddles, highest first."""
    basin_at = np.zeros(field.depth.size, np.int64)
    basin_at[peaks] = True
    roots = np.flatnonzero(basin_at)
    basin_at[roots] = np.arange(1, len(roots) + 1)  # 0 is the background
    basin_at[field.pixels] = basin_at[peaks]
    parents, heights = list(range(len(roots) + 1)), [0.0, *field.depth[roots].tolist()]
    for first, second, height in _saddles(field, basin_at):
        a, b = _root(parents, first), _root(parents, second)
        if a != b and height >= saddle * min(heights[a], heights[b]):
            parents[b], heights[a] = a, max(heights[a], heights[b])
    return np.array([_root(parents, basin) for basin in parents])[basin_at[peaks]]


def _root(parents: list[int], basin: int) -> int:
    while parents[basin] != basin:
        parents[basin] = basin = parents[parents[basin]]
    return basin


def _saddles(field: _Field, basin_at: Indices) -> list[tuple[int, int, float]]:
    """Return the pairs of adjacent basins with the highest saddle between them, highest first, then by basin.

    Lower saddles of a pair would change nothing: merging only raises the peaks that a saddle is compared with.
    """
    here, ends = basin_at[field.pixels], []
    for offset in (1, field.stride):
        there = basin_at[field.pixels + offset]
        border = field.pixels[(there != 0) & (there != here)]
        ends.append(np.stack([border, border + offset]))
    both = np.concatenate(ends, axis=1)
    height, pairs = field.depth[both].min(axis=0), np.sort(basin_at[both], axis=0)
    order = np.lexsort((*pairs, -height))
    _, first = np.unique(pairs[0][order] * len(field.depth) + pairs[1][order], return_index=True)
    chosen = order[np.sort(first)]
    return list(zip(*pairs[:, chosen].tolist(), height[chosen].tolist(), strict=True))


def _numbered(regions: Indices, min_pixels: float) -> Indices:
    """Number the regions 1 to N by their first pixel; 0 for those below the minimum area."""
    areas = np.bincount(regions)
    first, numbers = np.zeros_like(areas), np.zeros_like(areas)
    first[regions[::-1]] = np.arange(len(regions))[::-1]  # the last assignment counts
    kept = np.flatnonzero(areas >= max(min_pixels, 1))
    numbers[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1)
    return numbers[regions]
