"""Scoring: the metrics of an engine on labelled patches, and its differences from a reference engine. No timing.

Differences are paired: ΔDice of a patch is the engine's Dice minus the reference's Dice on the same patch. The lower
bound of the mean comes from a bootstrap over images (`msal_deploy.metrics.clustered_lower_bound`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track

from msal_deploy import metrics
from msal_deploy.data import Patch
from msal_deploy.metrics import Confusion, Interval, clustered_interval, confusion, dice, iou
from msal_deploy.runtimes import Engine

if TYPE_CHECKING:
    from msal_deploy.metrics import BoolMask
    from msal_deploy.spec import Float32Maps


class EngineScore(msgspec.Struct, frozen=True, eq=False):
    """The scores of one engine on K patches.

    Attributes:
        predictions: bool[K,H,W], True where the probability is at or above the threshold. Not in the JSON.
        confusions: Pixel counts of each patch.
        delta_dice: Dice, engine minus reference.
        delta_iou: IoU, engine minus reference.
        max_abs_delta_probability: Largest absolute difference in probability of any pixel, from 0 to 1. NaN if any
            probability is NaN.
        flipped_pixels: Share of the pixels, from 0 to 1, whose mask differs from the reference's.
        finite: Whether all probabilities are finite.
        passed: Whether all probabilities are finite and ``delta_dice.lower`` is at least −budget.
    """

    predictions: BoolMask
    confusions: tuple[Confusion, ...]
    delta_dice: Interval
    delta_iou: Interval
    max_abs_delta_probability: float
    flipped_pixels: float
    finite: bool
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """Return JSON types: both averages of each entry of `METRICS`, then the differences."""
        largest = self.max_abs_delta_probability
        return self._averages() | {
            "delta_dice": msgspec.to_builtins(self.delta_dice),
            "delta_iou": msgspec.to_builtins(self.delta_iou),
            "smallest_detectable_drop": self.delta_dice.mean - self.delta_dice.lower,
            "max_abs_delta_probability": largest if math.isfinite(largest) else None,
            "flipped_pixels": self.flipped_pixels,
            "finite": self.finite,
            "passed": self.passed,
        }

    def _averages(self) -> dict[str, Any]:
        return {
            metric.key(average): value
            for metric in metrics.METRICS
            for average, value in metrics.averages(metric.score, self.confusions).items()
        }


def probabilities(engine: Engine, patches: Sequence[Patch], batch: int, progress: bool) -> Float32Maps:
    """Open `engine`, run it on the patches in batches, and close it.

    >>> from pathlib import Path
    >>> from msal_deploy.bundle import Bundle
    >>> from msal_deploy.runtimes import open_engine
    >>> patch = Patch("a", "top-left", np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool))
    >>> engine = open_engine(Bundle(Path("bundle")), "onnxruntime:fp32")
    >>> probabilities(engine, [patch] * 3, batch=2, progress=False).shape
    (3, 64, 64)

    Returns:
        float32[K,H,W], one map for each patch.
    """
    starts = range(0, len(patches), batch)
    with engine:
        return np.concatenate(
            [
                engine(np.stack([patch.image for patch in patches[start : start + batch]]))[:, 0]
                for start in track(starts, engine.id, console=Console(stderr=True), disable=not progress)
            ]
        )


def score_engine(
    patches: Sequence[Patch], probability: Float32Maps, expected: Float32Maps, threshold: float, budget: float
) -> EngineScore:
    """Score an engine's probabilities against the true masks, and compare them with the reference's.

    >>> truth = np.zeros((32, 32), bool)
    >>> truth[8:24, 8:24] = True
    >>> patches = [Patch(stem, "top-left", np.zeros((32, 32, 3), np.uint8), truth) for stem in ("a", "b")]
    >>> expected = np.stack([truth, truth]).astype(np.float32)
    >>> shifted = np.roll(expected, 1, axis=2)
    >>> score_engine(patches, shifted, expected, threshold=0.5, budget=0.002).delta_dice
    Interval(mean=-0.0625, lower=-0.0625, upper=-0.0625)

    Args:
        patches: K patches with masks, of at least two images.
        probability: float32[K,H,W] of the engine.
        expected: float32[K,H,W] of the reference.
        threshold: Probability from which a pixel is a nucleus.
        budget: Largest acceptable loss of mean Dice.

    Raises:
        BadInput: All patches are from one image.
    """
    prediction, reference = probability >= threshold, expected >= threshold
    counts, reference_counts = _confusions(patches, prediction), _confusions(patches, reference)
    delta_dice = _difference(patches, [dice(a) - dice(b) for a, b in zip(counts, reference_counts, strict=True)])
    finite = bool(np.isfinite(probability).all())
    return EngineScore(
        predictions=prediction,
        confusions=counts,
        delta_dice=delta_dice,
        delta_iou=_difference(patches, [iou(a) - iou(b) for a, b in zip(counts, reference_counts, strict=True)]),
        max_abs_delta_probability=_max_abs_delta(probability, expected),
        flipped_pixels=float(np.mean(prediction != reference)),
        finite=finite,
        passed=finite and delta_dice.lower >= -budget,
    )


def _confusions(patches: Sequence[Patch], predictions: BoolMask) -> tuple[Confusion, ...]:
    return tuple(confusion(patch.mask, mask) for patch, mask in zip(patches, predictions, strict=True))


def _difference(patches: Sequence[Patch], deltas: list[float]) -> Interval:
    stems = [patch.stem for patch in patches]
    return clustered_interval(deltas, stems)


def _max_abs_delta(probability: Float32Maps, expected: Float32Maps) -> float:
    # Patch by patch: the difference of the whole set would be a third array of the same size.
    with np.errstate(invalid="ignore"):
        return float(np.max([np.abs(a - b).max() for a, b in zip(probability, expected, strict=True)]))
