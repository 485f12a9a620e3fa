"""Where an engine differs from the reference: near which boundaries, by how much, and how calibrated it is.

A difference in the outermost pixels of nuclei is what rounding does: the annotators' own lines differ by more. A
difference far from every true boundary is a nucleus lost or invented.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.data import Patch

EDGES_UM = (0.0, 0.5, 1.0, 2.0, 4.0, math.inf)  # of the bins of distance
SHARES = (0.5, 0.9, 0.99, 0.999, 1.0)  # of the quantiles of |Δp|
BINS = 10  # of the calibration curve
HALF = 1 << 16  # values of the upper, or of the lower, 16 bits of a float32

Maps = Sequence[NDArray[np.float32]]


class DistanceBin(msgspec.Struct, frozen=True):
    """Pixels at a distance from the nearest true boundary, ``from_um`` ≤ distance < ``to_um``.

    Attributes:
        from_um, to_um: Distance in µm; ``to_um`` of the last bin is infinite.
        pixels: Number of pixels at that distance.
        flipped: Number of them whose mask differs from the reference's.
    """

    from_um: float
    to_um: float
    pixels: int
    flipped: int

    @property
    def share(self) -> float | None:
        """Share of the pixels that are flipped; None if there are no pixels."""
        return self.flipped / self.pixels if self.pixels else None

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; the end of the last bin and the share of an empty one are null."""
        return {
            "from_um": self.from_um,
            "to_um": _finite(self.to_um),
            "pixels": self.pixels,
            "flipped": self.flipped,
            "share": self.share,
        }


class CalibrationBin(msgspec.Struct, frozen=True):
    """Pixels whose probability is in a range.

    Attributes:
        low, high: The range, low ≤ p < high; the last one includes 1. The JSON keys are ``from`` and ``to``.
        pixels: Number of pixels.
        predicted: Their mean probability; None without pixels.
        observed: Share of them that are nucleus in the truth; None without pixels.
    """

    low: float = msgspec.field(name="from")
    high: float = msgspec.field(name="to")
    pixels: int
    predicted: float | None
    observed: float | None


class Differences(msgspec.Struct, frozen=True):
    """Where an engine differs from the reference, and how calibrated its probabilities are.

    Attributes:
        flips_by_distance: Flipped pixels by distance to the nearest true boundary.
        quantiles: (share, |Δp|): that share of the pixels differs from the reference by at most |Δp|.
        calibration: Of the engine's own probabilities against the truth.
    """

    flips_by_distance: tuple[DistanceBin, ...]
    quantiles: tuple[tuple[float, float], ...]
    calibration: tuple[CalibrationBin, ...]

    @property
    def expected_calibration_error(self) -> float | None:
        """Mean over pixels of their bin's |predicted − observed| (Naeini et al. 2015); None without any pixel."""
        bins = [(one.pixels, one.predicted, one.observed) for one in self.calibration]
        pixels = sum(count for count, *_ in bins)
        gaps = [n * abs(p - o) for n, p, o in bins if p is not None and o is not None]
        return sum(gaps) / pixels if pixels else None

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; what is not finite or has no pixels is null."""
        return {
            "flips_by_distance": [one.to_json() for one in self.flips_by_distance],
            "quantiles": [{"share": share, "delta": _finite(delta)} for share, delta in self.quantiles],
            "calibration": [msgspec.to_builtins(one) for one in self.calibration],
            "expected_calibration_error": self.expected_calibration_error,
        }


def differences(
    patches: Sequence[Patch], probability: Maps, expected: Maps, threshold: float, microns_per_pixel: float
) -> Differences:
    """Compare an engine's probabilities with the reference's and with the truth.

    >>> truth = np.zeros((32, 32), bool)
    >>> truth[8:24, 8:24] = True
    >>> patch = Patch("a", "top-left", np.zeros((32, 32, 3), np.uint8), truth)
    >>> expected = truth.astype(np.float32)
    >>> found = differences([patch], [np.roll(expected, 1, axis=1)], [expected], 0.5, microns_per_pixel=0.25)
    >>> found.flips_by_distance[0]
    DistanceBin(from_um=0.0, to_um=0.5, pixels=252, flipped=32)
    >>> found.quantiles[-1]
    (1.0, 1.0)

    Args:
        patches: K patches. Only the area of the mask counts: of a padded patch, not the padding.
        probability: K maps float32[H,W] of the engine, at least as large as the masks; they may differ in size.
        expected: The same of the reference. Pass the reference's own maps as `probability` for its calibration.
        threshold: Probability from which a pixel is a nucleus.
        microns_per_pixel: Resolution of the patches.
    """
    pairs = [(_scored(patch, p), _scored(patch, e)) for patch, p, e in zip(patches, probability, expected, strict=True)]
    return Differences(
        _flips_by_distance(patches, pairs, threshold, microns_per_pixel),
        _quantiles(lambda: (_apart(p, e) for p, e in pairs)),
        _calibration(patches, [p for p, _ in pairs]),
    )


def boundary_distance(labels: NDArray[np.int32] | NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return each pixel's distance to the nearest boundary, float32[H,W] in pixels; infinite if there is none.

    A boundary runs between two neighbours with different labels: a nucleus and background, or two nuclei that touch. It
    is half a pixel from the centres on both sides, so no distance is below 0.5. Straight boundaries are exact. The edge
    of the patch is not a boundary.

    >>> boundary_distance(np.int32([[0, 0, 0, 1, 1]])).tolist()
    [[2.5, 1.5, 0.5, 0.5, 1.5]]

    Args:
        labels: int32[H,W], 0 for background and a number for each nucleus; or bool[H,W], true in nuclei.
    """
    inside = np.ones(labels.shape, np.uint8)  # 0 where a neighbour differs: OpenCV measures the distance to zeros
    across, along = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    inside[1:][across] = inside[:-1][across] = 0
    inside[:, 1:][along] = inside[:, :-1][along] = 0
    if inside.all():
        return np.full(labels.shape, np.inf, np.float32)
    return cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) + np.float32(0.5)


def _scored(patch: Patch, probability: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = patch.mask.shape
    return probability[:height, :width]


def _apart(p: NDArray[np.float32], e: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):  # Inf − Inf
        apart: NDArray[np.float32] = np.abs(p - e)
    return apart


def _flips(p: NDArray[np.float32], e: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    flips: NDArray[np.bool_] = (p >= threshold) != (e >= threshold)
    return flips


def _flips_by_distance(
    patches: Sequence[Patch], pairs: Sequence[tuple[Any, Any]], threshold: float, microns_per_pixel: float
) -> tuple[DistanceBin, ...]:
    within = np.zeros((2, len(EDGES_UM)), np.int64)  # pixels and flipped pixels nearer than each edge
    for patch, (p, e) in zip(patches, pairs, strict=True):
        distance = boundary_distance(patch.mask if patch.instances is None else patch.instances)
        for row, chosen in enumerate((distance, distance[_flips(p, e, threshold)])):
            # A comparison for each edge is ten times as fast as a histogram, which sorts.
            within[row] += [_count_below(chosen, edge / microns_per_pixel) for edge in EDGES_UM]
    pixels, flipped = np.diff(within).tolist()
    return tuple(map(DistanceBin, EDGES_UM[:-1], EDGES_UM[1:], pixels, flipped))


def _count_below(distance: NDArray[np.float32], limit: float) -> int:
    return distance.size if limit == math.inf else int(np.count_nonzero(distance < limit))


def _quantiles(deltas: Callable[[], Iterator[NDArray[np.float32]]]) -> tuple[tuple[float, float], ...]:
    """Return (share, quantile) of non-negative numbers, exactly and without an array of all of them.

    The bits of a non-negative float32 are ordered as the numbers are. One pass counts the upper 16 bits, and a second
    one the lower bits of those that share the upper bits of a quantile. A quantile is the smallest number that is at
    least as large as that share of the numbers. NaN is larger than all numbers.
    """
    upper = sum((np.bincount(_bits(delta) >> 16, minlength=HALF) for delta in deltas()), np.zeros(HALF, np.int64))
    below = np.concatenate([[0], np.cumsum(upper)])
    if not (total := int(below[-1])):
        return tuple((share, math.nan) for share in SHARES)
    ranks = [math.ceil(share * total) for share in SHARES]
    prefixes = [int(np.searchsorted(below, rank)) - 1 for rank in ranks]
    lower = {prefix: np.zeros(HALF, np.int64) for prefix in prefixes}
    for delta in deltas():
        bits = _bits(delta)
        for prefix, counts in lower.items():
            counts += np.bincount(bits[bits >> 16 == prefix] & (HALF - 1), minlength=HALF)
    found = [
        prefix << 16 | int(np.searchsorted(np.cumsum(lower[prefix]), rank - below[prefix]))
        for rank, prefix in zip(ranks, prefixes, strict=True)
    ]
    return tuple(zip(SHARES, np.array(found, np.uint32).view(np.float32).tolist(), strict=True))


def _bits(delta: NDArray[np.float32]) -> NDArray[np.int32]:
    # Non-negative, so that the sign bit is 0 and the signed integers have the same order.
    return np.ascontiguousarray(delta).view(np.int32).ravel()


def _calibration(patches: Sequence[Patch], maps: Maps) -> tuple[CalibrationBin, ...]:
    sums = np.zeros((3, BINS))  # pixels, their probabilities, and how many are nucleus
    for patch, p in zip(patches, maps, strict=True):
        finite = np.isfinite(p)
        p, truth = p[finite], patch.mask[finite]
        index = np.clip(p * BINS, 0, BINS - 1).astype(np.int64)
        sums += [np.bincount(index, weights, minlength=BINS) for weights in (None, p, truth)]
    return tuple(_calibration_bin(index, *column) for index, column in enumerate(sums.T.tolist()))


def _calibration_bin(index: int, pixels: float, predicted: float, observed: float) -> CalibrationBin:
    means = (predicted / pixels, observed / pixels) if pixels else (None, None)
    return CalibrationBin(index / BINS, (index + 1) / BINS, int(pixels), *means)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
