"""Other bounds of a mean over images, vectorised over sets: the gate's before, and what else was tried.

Each takes float[sets, images], the mean of each image, and returns its lower bound, float[sets].
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

CONFIDENCE = 0.95
RESAMPLES = 1999

Array = NDArray[np.float64]
Bound = Callable[[Array, int], Array]


def percentile(means: Array, seed: int) -> Array:
    """The 5th percentile of the means of resamples of the images: the gate before."""
    return np.quantile(_resampled(means, seed)[0], 1 - CONFIDENCE, axis=0)


def studentized(means: Array, seed: int) -> Array:
    """Bootstrap-t: the error of the mean in units of its standard error is what is resampled."""
    resampled, error = _resampled(means, seed)
    centre, own = means.mean(1), _standard_error(means)
    with np.errstate(divide="ignore", invalid="ignore"):
        pivots = np.where(error > 1e-9 * own, (resampled - centre) / error, np.inf)
    return centre - own * np.quantile(pivots, CONFIDENCE, axis=0)


def bca(means: Array, seed: int) -> Array:
    """Bias-corrected and accelerated bootstrap."""
    resampled, _ = _resampled(means, seed)
    centre, residuals = means.mean(1), means - means.mean(1, keepdims=True)
    below = np.mean(resampled < centre, axis=0)
    bias = ndtri(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    acceleration = (residuals**3).sum(1) / (6 * (residuals**2).sum(1) ** 1.5)
    z = bias + ndtri(1 - CONFIDENCE)
    ranks = np.clip(RESAMPLES * ndtr(bias + z / (1 - acceleration * z)), 0, RESAMPLES - 1).astype(int)
    return np.take_along_axis(np.sort(resampled, axis=0), ranks[None], axis=0)[0]


def student(means: Array, seed: int) -> Array:
    """Student's t over images."""
    return means.mean(1) - _quantile(means) * _standard_error(means)


def johnson(means: Array, seed: int) -> Array:
    """Johnson's modified t: moved by the sample's skewness, to either side."""
    quantile = _quantile(means)
    return means.mean(1) - (quantile - _asymmetry(means) * (1 + 2 * quantile**2) / 6) * _standard_error(means)


def hall(means: Array, seed: int) -> Array:
    """Student's t through Hall's cubic transformation, which corrects for the sample's skewness on either side."""
    a = _asymmetry(means)
    reach = 3 * (np.cbrt(1 + a * (_quantile(means) - a / 6)) - 1) / a
    return means.mean(1) - reach * _standard_error(means)


def wider_hall(means: Array, seed: int) -> Array:
    """The further of Student's t and Hall's."""
    return np.minimum(student(means, seed), hall(means, seed))


def wider_studentized(means: Array, seed: int) -> Array:
    """The further of Student's t and the studentized bootstrap."""
    return np.minimum(student(means, seed), studentized(means, seed))


OTHERS: dict[str, Bound] = {
    "percentile bootstrap": percentile,
    "BCa bootstrap": bca,
    "studentized bootstrap": studentized,
    "Student's t": student,
    "Johnson's t": johnson,
    "Hall's t": hall,
    "wider of t and Hall's": wider_hall,
    "wider of t and studentized": wider_studentized,
}


def _resampled(means: Array, seed: int) -> tuple[Array, Array]:
    """Return the means of resamples and their standard errors, float[resamples, sets]; all sets share the resamples."""
    images = means.shape[1]
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES) / images
    centre = means.mean(1)
    residuals = means - centre[:, None]
    shift = drawn @ residuals.T
    variance = np.maximum(drawn @ (residuals**2).T - shift**2, 0) / (images - 1)
    return centre + shift, np.sqrt(variance)


def _standard_error(means: Array) -> Array:
    return means.std(1, ddof=1) / np.sqrt(means.shape[1])


def _asymmetry(means: Array) -> Array:
    """Return the skewness of each set, corrected for a small sample, over the root of the number of images."""
    images = means.shape[1]
    residuals = means - means.mean(1, keepdims=True)
    skewness = (residuals**3).mean(1) / (residuals**2).mean(1) ** 1.5
    return skewness * np.sqrt(images - 1) / (images - 2)


def _quantile(means: Array) -> float:
    return float(stdtrit(means.shape[1] - 1, CONFIDENCE))
