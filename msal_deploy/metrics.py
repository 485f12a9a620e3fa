"""How well a mask agrees with the truth, and how sure one can be that an engine did not make it worse.

Scores follow equations (1) to (4) of the MSAL-Net paper, written with counts of pixels: true positives (tp), false
positives (fp) and false negatives (fn). A score of a *set* of patches comes in two forms, which differ:
the mean of the patches' scores (the paper's), and the score of the pooled counts, in which large nuclei weigh more.

Conventions where a formula divides by zero: an empty prediction of an empty truth scores 1 in all four; otherwise
an empty truth or an empty prediction scores 0 in all four.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from msal_deploy.errors import BadInput

BoolMask = NDArray[np.bool_]


class Confusion(msgspec.Struct, frozen=True):
    """Pixels of a prediction by what they are: true positives, false positives, false negatives."""

    tp: int
    fp: int
    fn: int

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)


def confusion(truth: BoolMask, prediction: BoolMask) -> Confusion:
    """Count the pixels of `prediction` (bool[H,W]) against `truth` (bool[H,W])."""
    if truth.shape != prediction.shape:
        raise ValueError(f"the truth is {truth.shape}, the prediction {prediction.shape}")
    tp = int(np.count_nonzero(truth & prediction))
    return Confusion(tp, int(np.count_nonzero(prediction)) - tp, int(np.count_nonzero(truth)) - tp)


def pooled(confusions: Iterable[Confusion]) -> Confusion:
    """Return the sum of `confusions`: the counts of the whole set."""
    return sum(confusions, Confusion(0, 0, 0))


def dice(counts: Confusion) -> float:
    """2·tp / (2·tp + fp + fn): the Dice coefficient, which is the F1 score. Paper, equation (1)."""
    return _share(counts, 2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def iou(counts: Confusion) -> float:
    """tp / (tp + fp + fn): intersection over union, the Jaccard index. Paper, equation (2)."""
    return _share(counts, counts.tp, counts.tp + counts.fp + counts.fn)


def precision(counts: Confusion) -> float:
    """tp / (tp + fp): the share of the prediction that is right. Paper, equation (3)."""
    return _share(counts, counts.tp, counts.tp + counts.fp)


def recall(counts: Confusion) -> float:
    """tp / (tp + fn): the share of the truth that was found. Paper, equation (4)."""
    return _share(counts, counts.tp, counts.tp + counts.fn)


def _share(counts: Confusion, part: int, whole: int) -> float:
    if whole:
        return part / whole
    return 1.0 if counts == Confusion(0, 0, 0) else 0.0


def clustered_lower_bound(
    deltas: ArrayLike,
    clusters: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> float:
    """Return the one-sided lower confidence bound of the mean of `deltas`, by a bootstrap over clusters.

    Whole clusters are drawn with replacement, since patches of one image resemble each other: patches drawn one by
    one would promise more than so few images can tell. Percentile method (Efron and Tibshirani, An Introduction to
    the Bootstrap, chapter 13; Davison and Hinkley, Bootstrap Methods, section 3.8 for clusters), computed by
    `scipy.stats.bootstrap`.

    Args:
        deltas: float[K], paired differences, one a patch.
        clusters: K names; patches of one image have the same name.

    Raises:
        BadInput: all patches are of one cluster, from which no spread between clusters can be told.
    """
    from scipy.stats import bootstrap

    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        raise BadInput("A confidence bound needs patches of at least two images; give more images")
    sums, counts = np.bincount(index, weights=np.asarray(deltas, float)), np.bincount(index)
    result = bootstrap(
        (sums, counts),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        confidence_level=confidence,
        alternative="greater",
        method="percentile",
        random_state=np.random.default_rng(seed),  # called rng from SciPy 1.15 on, which still takes this name
    )
    return float(result.confidence_interval.low)


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64], axis: int = -1) -> Any:
    # Mean over patches, not over images: images may have different numbers of patches.
    return sums.sum(axis=axis) / counts.sum(axis=axis)


def signed(value: float) -> str:
    """Write a difference with its sign, such as ``+0.0012``, or ``-3.1e-06`` where four digits would show zero."""
    if value == 0:
        return "0"
    return f"{value:+.4f}" if abs(value) >= 5e-5 else f"{value:+.1e}"
