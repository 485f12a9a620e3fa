"""Parity: how an engine's probabilities compare with a reference's on labelled patches. Scores, and never times.

What decides is paired: ΔDice of a patch is the engine's Dice minus the reference's on the same patch, and the bound of
its mean is by a bootstrap over images (`msal_deploy.metrics.clustered_lower_bound`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track

from msal_deploy.data import Patch
from msal_deploy.metrics import (
    Confusion,
    clustered_lower_bound,
    confusion,
    dice,
    iou,
    pooled,
    precision,
    recall,
)
from msal_deploy.runtimes import Engine

if TYPE_CHECKING:
    from msal_deploy.metrics import BoolMask
    from msal_deploy.spec import Float32Maps

CONFIDENCE = 0.95


class Difference(msgspec.Struct, frozen=True):
    """Engine minus reference: the mean over patches, and the one-sided lower bound of that mean."""

    mean: float
    lower: float


class EngineScore(msgspec.Struct, frozen=True, eq=False):
    """How one engine did.

    Attributes:
        predictions: bool[K,H,W], probability at or above the threshold, for overlays; not in the JSON.
        max_abs_delta_probability: largest |Δp| of any pixel; NaN where a probability is NaN.
        flipped_pixels: share of pixels that the reference puts on the other side of the threshold.
        finite: whether every probability is a finite number.
    """

    predictions: BoolMask
    confusions: tuple[Confusion, ...]
    delta_dice: Difference
    delta_iou: Difference
    max_abs_delta_probability: float
    flipped_pixels: float
    finite: bool
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """Return the scores under the keys that reports and the benchmark results keep."""
        total, largest = pooled(self.confusions), self.max_abs_delta_probability
        return {
            "pixel_dice_mean": fmean(dice(c) for c in self.confusions),
            "pixel_dice_pooled": dice(total),
            "pixel_iou_mean": fmean(iou(c) for c in self.confusions),
            "pixel_iou_pooled": iou(total),
            "precision": fmean(precision(c) for c in self.confusions),
            "precision_pooled": precision(total),
            "recall": fmean(recall(c) for c in self.confusions),
            "recall_pooled": recall(total),
            "delta_dice": msgspec.to_builtins(self.delta_dice),
            "delta_iou": msgspec.to_builtins(self.delta_iou),
            "smallest_detectable_drop": self.delta_dice.mean - self.delta_dice.lower,
            "max_abs_delta_probability": largest if math.isfinite(largest) else None,
            "flipped_pixels": self.flipped_pixels,
            "finite": self.finite,
            "passed": self.passed,
        }


def probabilities(engine: Engine, patches: Sequence[Patch], batch: int, progress: bool) -> Float32Maps:
    """Return what `engine` makes of the patches, float32[K,H,W]; the engine is entered and left."""
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
    """Score an engine's float32[K,H,W] against the patches' masks, beside what the reference `expected`."""
    prediction, reference = probability >= threshold, expected >= threshold
    counts, reference_counts = _confusions(patches, prediction), _confusions(patches, reference)
    delta_dice = _difference(patches, [dice(a) - dice(b) for a, b in zip(counts, reference_counts, strict=True)])
    finite = bool(np.isfinite(probability).all())
    return EngineScore(
        predictions=prediction,
        confusions=counts,
        delta_dice=delta_dice,
        delta_iou=_difference(patches, [iou(a) - iou(b) for a, b in zip(counts, reference_counts, strict=True)]),
        max_abs_delta_probability=_largest_difference(probability, expected),
        flipped_pixels=float(np.mean(prediction != reference)),
        finite=finite,
        passed=finite and delta_dice.lower >= -budget,
    )


def _confusions(patches: Sequence[Patch], predictions: BoolMask) -> tuple[Confusion, ...]:
    return tuple(confusion(patch.mask, mask) for patch, mask in zip(patches, predictions, strict=True))


def _difference(patches: Sequence[Patch], deltas: list[float]) -> Difference:
    stems = [patch.stem for patch in patches]
    return Difference(fmean(deltas), clustered_lower_bound(deltas, stems, confidence=CONFIDENCE))


def _largest_difference(probability: Float32Maps, expected: Float32Maps) -> float:
    # Patch by patch: the difference of a whole set would be a third array of that size.
    with np.errstate(invalid="ignore"):
        return float(np.max([np.abs(a - b).max() for a, b in zip(probability, expected, strict=True)]))
