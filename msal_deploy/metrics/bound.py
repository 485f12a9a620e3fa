"""Confidence bounds of a mean over images, and the verdict on an engine that follows from them.

A bound is Student's t over images, moved further out on the side of the longer tail in proportion to the skewness of
the images. The form of that correction is Johnson's. Its size was chosen by simulation (``benchmarks/gate``), because
his own is meant for many images. Of engines whose loss equals the budget, at most 5% pass with normal or heavy-tailed
differences, and 7% with exponential ones at 14 images. By the percentile bootstrap that this replaces, 7% and 14% pass.
A studentized bootstrap passes 5 to 8%, and has no finite bound if few images differ, because many of its resamples then
have no spread.

Sources: Johnson, "Modified t tests and confidence intervals for asymmetrical populations", J. Am. Stat. Assoc. 73
(1978) 536; Kish, "Survey Sampling" (1965), for images with different numbers of patches.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from msal_deploy.errors import BadInput

CONFIDENCE = 0.95
MIN_IMAGES = 5  # with fewer, no verdict: see benchmarks/gate
MAX_IMAGES = 10_000  # more than this is not worth annotating: `images_to_decide` returns None
SKEWNESS_FACTOR = 2.5  # times Johnson's correction: a small sample shows less skewness than its population has
MIN_EFFECTIVE_IMAGES = 2  # Student's t needs a degree of freedom, even if one image has nearly all patches

Verdict = Literal["within", "over", "undecided"]


class Interval(msgspec.Struct, frozen=True):
    """A mean over patches with its one-sided confidence bounds.

    Attributes:
        mean: Mean over patches.
        lower: One-sided lower bound of the mean, at `CONFIDENCE`.
        upper: One-sided upper bound of the mean, at `CONFIDENCE`.
    """

    mean: float
    lower: float
    upper: float


class _Spread(msgspec.Struct, frozen=True):
    """What the bounds are computed from.

    Attributes:
        mean: Mean over patches.
        deviation: Standard deviation between images.
        skewness: Of the images.
        images: Number of images.
        effective: Number of images that would be as informative if all had the same number of patches.
    """

    mean: float
    deviation: float
    skewness: float
    images: int
    effective: float


def clustered_interval(deltas: ArrayLike, clusters: Sequence[str], *, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of `deltas` with one-sided bounds, whose clusters are images.

    Patches of one image resemble each other, so the images are what is counted: four patches of one image are hardly
    more evidence than one.

    >>> clustered_interval([0.01, 0.01, 0.01], ["a", "a", "b"])
    Interval(mean=0.01, lower=0.01, upper=0.01)

    Args:
        deltas: float[K], a paired difference for each patch.
        clusters: K names. Patches of the same image have the same name.
        confidence: Of each bound, from 0.5 to less than 1.

    Raises:
        BadInput: All patches are from one image, so the spread between images is unknown.
    """
    spread = _spread(deltas, clusters)
    lower, upper = _bounds(spread, spread.effective, confidence)
    return Interval(spread.mean, float(lower), float(upper))


def _spread(deltas: ArrayLike, clusters: Sequence[str]) -> _Spread:
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        raise BadInput("Expected patches of at least two images, got patches of one image", "add images")
    values = np.asarray(deltas, float)
    mean = float(values[0] + np.mean(values - values[0]))  # of equal values exactly their value
    weights = np.bincount(index) / len(values)
    residuals = np.bincount(index, weights=values - mean) / len(values)  # an image's share in the error of the mean
    # The expected square of x - mean, in units of x's variance: an image with most patches is close to the mean that
    # it makes itself. With n equal images it is (n - 1) / n.
    expected = 1 - 2 * weights + np.sum(weights**2)
    effective = max(float(1 / np.sum(weights**2)), MIN_EFFECTIVE_IMAGES)
    deviation = float(np.sqrt(effective * np.sum(residuals**2 / expected)))
    return _Spread(mean, deviation, _skewness(residuals), len(names), effective)


def _skewness(residuals: Any) -> float:
    """Return the skewness of values whose mean is 0, with the usual correction for a small sample."""
    count, second = len(residuals), float(np.mean(residuals**2))
    if count < 3 or second == 0:
        return 0.0
    sample = float(np.mean(residuals**3)) / second**1.5
    return float(sample * np.sqrt(count * (count - 1)) / (count - 2))


def _bounds(spread: _Spread, images: Any, confidence: float) -> tuple[Any, Any]:
    """Return the bounds of the mean at a number of images, float or float[...], with the same mean and spread."""
    from scipy.special import stdtrit

    quantile = stdtrit(images - 1, confidence)
    error = spread.deviation / np.sqrt(images)
    correction = SKEWNESS_FACTOR * spread.skewness / np.sqrt(images) * (1 + 2 * quantile**2) / 6
    lower = spread.mean - error * (quantile + np.maximum(0, -correction))
    upper = spread.mean + error * (quantile + np.maximum(0, correction))
    return lower, upper


def verdict(interval: Interval, budget: float, images: int) -> Verdict:
    """Return whether a loss is within the budget, over it, or undecided.

    >>> verdict(Interval(mean=-0.001, lower=-0.0015, upper=-0.0005), budget=0.002, images=14)
    'within'

    Args:
        interval: Of the difference, engine minus reference.
        budget: Largest acceptable loss, at least 0.
        images: Number of images; with fewer than `MIN_IMAGES` it is always undecided.
    """
    if images < MIN_IMAGES:
        return "undecided"
    if interval.lower >= -budget:
        return "within"
    return "over" if interval.upper < -budget else "undecided"


def images_to_decide(deltas: ArrayLike, clusters: Sequence[str], budget: float) -> int | None:
    """Estimate how many images would decide, if more images had the mean and spread of these.

    It is the smallest number from `MIN_IMAGES` to `MAX_IMAGES` at which the bound is clear of the budget: the lower one
    at or above −budget if the mean is, the upper one below it otherwise. The mean of other images differs, so this
    number decides about every second time, and twice as many about three times in four.

    >>> images_to_decide([-0.0025, -0.0005, -0.0015, -0.0005, -0.0025], list("abcde"), budget=0.002)
    13

    Args:
        deltas: float[K], a paired difference for each patch.
        clusters: K names. Patches of the same image have the same name.
        budget: Largest acceptable loss, at least 0.

    Returns:
        The number of images; `MIN_IMAGES` if these have no spread; None if `MAX_IMAGES` would not decide, because the
        mean is too close to the budget.

    Raises:
        BadInput: All patches are from one image, so the spread between images is unknown.
    """
    spread = _spread(deltas, clusters)
    images = np.arange(MIN_IMAGES, MAX_IMAGES + 1)
    lower, upper = _bounds(spread, images * spread.effective / spread.images, CONFIDENCE)
    decides = lower >= -budget if spread.mean >= -budget else upper < -budget
    return int(images[decides.argmax()]) if decides.any() else None


def excludable_share(images: int, confidence: float = CONFIDENCE) -> float:
    """Return the largest share of ruined images that is compatible with seeing none in `images` of them.

    With a larger share s, at least one of n images would be ruined with a probability of 1 − (1 − s)ⁿ, more than the
    confidence.

    >>> round(excludable_share(14), 3)
    0.193

    Args:
        images: At least 1.
        confidence: Between 0 and 1.
    """
    return float(1 - (1 - confidence) ** (1 / images))
