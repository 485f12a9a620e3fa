"""Confidence bounds of a mean over images, and the verdict on an engine that follows from them."""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from msal_deploy.errors import BadInput

CONFIDENCE = 0.95
MIN_IMAGES = 5  # with fewer, no verdict: see benchmarks/gate

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


def clustered_interval(
    deltas: ArrayLike, clusters: Sequence[str], *, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """Return the mean of `deltas` with one-sided bounds, whose clusters are images.

    >>> clustered_interval([0.01, 0.01, 0.01], ["a", "a", "b"])
    Interval(mean=0.01, lower=0.01, upper=0.01)

    Args:
        deltas: float[K], a paired difference for each patch.
        clusters: K names. Patches of the same image have the same name.
        confidence: Between 0 and 1.
        seed: Seed of the random generator. The same seed gives the same bounds.

    Raises:
        BadInput: All patches are from one image, so the spread between images is unknown.
    """
    from scipy.stats import t

    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        raise BadInput("Expected patches of at least two images, got patches of one image", "add images")
    values = np.asarray(deltas, float)
    mean, count = float(values.mean()), len(names)
    residuals = np.bincount(index, weights=values - mean)
    error = float(np.sqrt(count / (count - 1) * np.sum(residuals**2)) / len(values))
    reach = float(t.ppf(confidence, count - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


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
    """Estimate how many images would decide, at the observed mean and spread; None if no number would.

    >>> images_to_decide([0.0, 0.0, 0.0], ["a", "b", "c"], budget=0.002)
    5
    """
    raise NotImplementedError


def excludable_share(images: int, confidence: float = CONFIDENCE) -> float:
    """Return the largest share of ruined images that is compatible with seeing none in `images` of them.

    >>> round(excludable_share(14), 3)
    0.193
    """
    return float(1 - (1 - confidence) ** (1 / images))
