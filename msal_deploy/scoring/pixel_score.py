"""The pixel metrics of one engine, and their differences from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from msal_deploy import metrics
from msal_deploy.data import Patch
from msal_deploy.metrics import Confusion, Interval, clustered_interval, confusion, dice, iou

if TYPE_CHECKING:
    from msal_deploy.metrics import BoolMask
    from msal_deploy.scoring.inference import Map


class PixelScore(msgspec.Struct, frozen=True, eq=False):
    """The pixel scores of one engine on K patches.

    Patches without a true nucleus count in the pooled scores only: their Dice would be 1 for an engine that finds
    nothing, and 0 for one that finds a single pixel.

    Attributes:
        predictions: K masks bool[h,w], True where the probability is at or above the threshold.
        confusions: Pixel counts of each patch.
        scored: Indices of the patches with a true nucleus, which the means and the intervals are over.
        deltas_dice: ΔDice of each scored patch, engine minus reference.
        delta_dice: Its mean and bounds.
        delta_iou: Mean and bounds of ΔIoU.
        by_image: Image -> mean ΔDice of its scored patches.
        flips: Number of pixels in each patch whose mask differs from the reference's.
        flipped_pixels: Share of the pixels, from 0 to 1, whose mask differs from the reference's.
        max_abs_delta_probability: Largest absolute difference in probability of any pixel. NaN if any probability is.
    """

    predictions: tuple[BoolMask, ...]
    confusions: tuple[Confusion, ...]
    scored: tuple[int, ...]
    deltas_dice: tuple[float, ...]
    delta_dice: Interval
    delta_iou: Interval
    by_image: dict[str, float]
    flips: tuple[int, ...]
    flipped_pixels: float
    max_abs_delta_probability: float

    def averages(self) -> dict[str, float]:
        """Return both averages of each entry of `METRICS` by their JSON keys."""
        with_nuclei = [self.confusions[index] for index in self.scored]
        return {
            key: value
            for metric in metrics.METRICS
            for key, value in (
                (metric.mean_key, float(np.mean([metric.score(counts) for counts in with_nuclei]))),
                (metric.pooled_key, metric.score(metrics.pooled(self.confusions))),
            )
        }

    def dice_of(self, index: int) -> float | None:
        """Return the Dice of a patch, None without a true nucleus."""
        return dice(self.confusions[index]) if index in self.scored else None

    def to_json(self) -> dict[str, Any]:
        """Return JSON types: the averages, then the differences."""
        largest = self.max_abs_delta_probability
        return self.averages() | {
            "delta_dice": msgspec.to_builtins(self.delta_dice),
            "delta_iou": msgspec.to_builtins(self.delta_iou),
            "smallest_detectable_drop": self.delta_dice.mean - self.delta_dice.lower,
            "max_abs_delta_probability": largest if np.isfinite(largest) else None,
            "flipped_pixels": self.flipped_pixels,
        }


def score_pixels(
    patches: Sequence[Patch], probability: Sequence[Map], expected: Sequence[Map], threshold: float
) -> PixelScore:
    """Score an engine's probabilities against the true masks, and compare them with the reference's.

    Differences are paired: ΔDice of a patch is the engine's Dice minus the reference's Dice on the same patch. Their
    intervals are over images, because patches of one image are correlated (`clustered_interval`).

    >>> truth = np.zeros((32, 32), bool)
    >>> truth[8:24, 8:24] = True
    >>> patches = [Patch(stem, "top-left", np.zeros((32, 32, 3), np.uint8), truth) for stem in ("a", "b")]
    >>> expected = np.stack([truth, truth]).astype(np.float32)
    >>> shifted = np.roll(expected, 1, axis=2)
    >>> score_pixels(patches, shifted, expected, threshold=0.5).delta_dice
    Interval(mean=-0.0625, lower=-0.0625, upper=-0.0625)

    Args:
        patches: K patches, with nuclei in at least two images.
        probability: K maps float32[h,w] of the engine.
        expected: K maps float32[h,w] of the reference.
        threshold: Probability from which a pixel is a nucleus.

    Raises:
        BadInput: Only one image, or none, has nuclei.
    """
    predictions = tuple(one >= threshold for one in probability)
    references = tuple(one >= threshold for one in expected)
    scored = with_nuclei(patches)
    counts, reference_counts = _confusions(patches, predictions), _confusions(patches, references)
    deltas = tuple(dice(counts[k]) - dice(reference_counts[k]) for k in scored)
    stems = [patches[k].stem for k in scored]
    flips = tuple(int(np.count_nonzero(a != b)) for a, b in zip(predictions, references, strict=True))
    return PixelScore(
        predictions=predictions,
        confusions=counts,
        scored=scored,
        deltas_dice=deltas,
        delta_dice=clustered_interval(deltas, stems),
        delta_iou=clustered_interval([iou(counts[k]) - iou(reference_counts[k]) for k in scored], stems),
        by_image=_image_means(deltas, stems),
        flips=flips,
        flipped_pixels=sum(flips) / sum(mask.size for mask in predictions),
        max_abs_delta_probability=_max_abs_delta(probability, expected),
    )


def with_nuclei(patches: Sequence[Patch]) -> tuple[int, ...]:
    """Return the indices of the patches with at least one true nucleus."""
    return tuple(index for index, patch in enumerate(patches) if patch.mask.any())


def _confusions(patches: Sequence[Patch], predictions: Sequence[BoolMask]) -> tuple[Confusion, ...]:
    return tuple(confusion(patch.mask, mask) for patch, mask in zip(patches, predictions, strict=True))


def _image_means(deltas: Sequence[float], stems: Sequence[str]) -> dict[str, float]:
    of_image: dict[str, list[float]] = {}
    for stem, delta in zip(stems, deltas, strict=True):
        of_image.setdefault(stem, []).append(delta)
    return {stem: float(np.mean(values)) for stem, values in of_image.items()}


def _max_abs_delta(probability: Sequence[Map], expected: Sequence[Map]) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.max([np.abs(a - b).max() for a, b in zip(probability, expected, strict=True)]))
