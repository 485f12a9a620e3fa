"""Segmentation metrics of binary masks.

Metrics follow equations (1) to (4) of the MSAL-Net paper. They are functions of the number of true positive (tp), false
positive (fp) and false negative (fn) pixels. `METRICS` lists them; reports and tables show what is in that list.

A set of patches has two averages, and they differ:

- mean: the mean of the patches' scores, as in the paper. Each patch has the same weight.
- pooled: the score of the summed pixel counts. Patches with more nuclei have more weight.

Where a denominator is zero: if truth and prediction are both empty, every metric is 1. If only one of them is empty,
every metric is 0.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from statistics import fmean
from typing import Generic, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]
Average = Literal["mean", "pooled"]
Counts = TypeVar("Counts")  # of a patch: `Confusion`, or `NucleiCounts` in the module `nuclei`; + adds those of patches


class Confusion(msgspec.Struct, frozen=True):
    """Pixel counts of a predicted mask against the true mask.

    >>> Confusion(tp=6, fp=2, fn=4) + Confusion(tp=1, fp=0, fn=0)
    Confusion(tp=7, fp=2, fn=4)

    Attributes:
        tp: Nucleus in both masks.
        fp: Nucleus in the prediction only.
        fn: Nucleus in the truth only.
    """

    tp: int
    fp: int
    fn: int

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)


def confusion(truth: BoolMask, prediction: BoolMask) -> Confusion:
    """Count the pixels of two masks of the same shape.

    >>> confusion(np.array([[True, True, False]]), np.array([[True, False, False]]))
    Confusion(tp=1, fp=0, fn=1)

    Args:
        truth: bool[H,W], True in nuclei.
        prediction: bool[H,W].

    Raises:
        ValueError: The shapes differ.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"Expected masks of the same shape, got {truth.shape} and {prediction.shape}")
    tp = int(np.count_nonzero(truth & prediction))
    return Confusion(tp, int(np.count_nonzero(prediction)) - tp, int(np.count_nonzero(truth)) - tp)


def pooled(confusions: Iterable[Confusion]) -> Confusion:
    """Return the sum of the counts.

    >>> pooled([Confusion(tp=6, fp=2, fn=4), Confusion(tp=1, fp=0, fn=0)])
    Confusion(tp=7, fp=2, fn=4)
    """
    return sum(confusions, Confusion(0, 0, 0))


def dice(counts: Confusion) -> float:
    """Dice coefficient, or F1 score: 2·tp / (2·tp + fp + fn), from 0 to 1. Equation (1) of the paper.

    >>> dice(Confusion(tp=6, fp=2, fn=4))
    0.6666666666666666
    """
    return _ratio(counts, 2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def iou(counts: Confusion) -> float:
    """Intersection over union, or Jaccard index: tp / (tp + fp + fn), from 0 to 1. Equation (2) of the paper.

    >>> iou(Confusion(tp=6, fp=2, fn=4))
    0.5
    """
    return _ratio(counts, counts.tp, counts.tp + counts.fp + counts.fn)


def precision(counts: Confusion) -> float:
    """Share of the predicted pixels that are correct: tp / (tp + fp), from 0 to 1. Equation (3) of the paper.

    >>> precision(Confusion(tp=6, fp=2, fn=4))
    0.75
    """
    return _ratio(counts, counts.tp, counts.tp + counts.fp)


def recall(counts: Confusion) -> float:
    """Share of the true pixels that are predicted: tp / (tp + fn), from 0 to 1. Equation (4) of the paper.

    >>> recall(Confusion(tp=6, fp=2, fn=4))
    0.6
    """
    return _ratio(counts, counts.tp, counts.tp + counts.fn)


def _ratio(counts: Confusion, numerator: int, denominator: int) -> float:
    if denominator:
        return numerator / denominator
    return 1.0 if counts == Confusion(0, 0, 0) else 0.0


class Metric(msgspec.Struct, Generic[Counts], frozen=True):
    """An entry of `METRICS` or `NUCLEI_METRICS`: how to compute a metric, and how reports show it.

    Attributes:
        name: Stem of the JSON keys in the results of ``benchmarks/paper``.
        label: Table header.
        score: Function of the counts of pixels or nuclei, larger is better.
        mean_key: JSON key of the mean over patches.
        pooled_key: JSON key of the score of the pooled counts.
        meaning: One sentence for the legend of the HTML page.
        page: Averages with a column on the HTML page.
        terminal: Whether the terminal table has a column. Its 80 characters have room for four metrics.
    """

    name: str
    label: str
    score: Callable[[Counts], float]
    mean_key: str
    pooled_key: str
    meaning: str
    page: tuple[Average, ...] = ("mean", "pooled")
    terminal: bool = True

    def key(self, average: Average) -> str:
        """Return the JSON key of an average."""
        return self.mean_key if average == "mean" else self.pooled_key


# A new metric needs a function above and an entry here. The mean keys of precision and recall have no _mean because
# the JSON of released versions has none.
METRICS: tuple[Metric[Confusion], ...] = (
    Metric(
        "pixel_dice",
        "Dice",
        dice,
        "pixel_dice_mean",
        "pixel_dice_pooled",
        "Twice the overlap of prediction and truth, divided by the sum of their areas.",
    ),
    Metric(
        "pixel_iou",
        "IoU",
        iou,
        "pixel_iou_mean",
        "pixel_iou_pooled",
        "Overlap of prediction and truth, divided by their union.",
    ),
    Metric(
        "precision",
        "precision",
        precision,
        "precision",
        "precision_pooled",
        "Share of the predicted pixels that are correct; mean over patches.",
        page=("mean",),
        terminal=False,
    ),
    Metric(
        "recall",
        "recall",
        recall,
        "recall",
        "recall_pooled",
        "Share of the true pixels that are predicted; mean over patches.",
        page=("mean",),
        terminal=False,
    ),
)


def averages(score: Callable[[Counts], float], counts: Sequence[Counts]) -> dict[Average, float]:
    """Return both averages of a metric over patches, at least one.

    >>> averages(dice, [Confusion(tp=6, fp=2, fn=4), Confusion(tp=0, fp=0, fn=0)])
    {'mean': 0.8333333333333333, 'pooled': 0.6666666666666666}
    """
    return {"mean": fmean(map(score, counts)), "pooled": score(reduce(add, counts))}


def signed(value: float) -> str:
    """Format a difference with its sign: four decimals, or an exponent if they would all be zero.

    >>> signed(0.00123), signed(-3.14e-06), signed(0)
    ('+0.0012', '-3.1e-06', '0')
    """
    if value == 0:
        return "0"
    return f"{value:+.4f}" if abs(value) >= 5e-5 else f"{value:+.1e}"
