"""Metrics of separated nuclei: a label map found by an engine against the true one."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

LabelMap = NDArray[np.int32]


class NucleiCounts(msgspec.Struct, frozen=True):
    """What the metrics of nuclei are computed from. Counts of patches can be added.

    Attributes:
        intersection: AJI's numerator in pixels.
        union: AJI's denominator in pixels.
        matched: True and found nuclei with an IoU over 0.5 (true positives).
        matched_iou: Sum of the IoU of the matched pairs.
        true: Number of true nuclei.
        found: Number of found nuclei.
    """

    intersection: int
    union: int
    matched: int
    matched_iou: float
    true: int
    found: int

    def __add__(self, other: "NucleiCounts") -> "NucleiCounts":
        return NucleiCounts(*(a + b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other))))


class Changes(msgspec.Struct, frozen=True):
    """How the nuclei of an engine differ from the reference's: numbers of nuclei split, merged, lost and gained."""

    split: int
    merged: int
    lost: int
    gained: int

    def __add__(self, other: "Changes") -> "Changes":
        return Changes(*(a + b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other))))


def count_nuclei(truth: LabelMap, found: LabelMap) -> NucleiCounts:
    """Match the nuclei of two label maps, int32[H,W] with 0 for background."""
    raise NotImplementedError


def changes(reference: LabelMap, found: LabelMap) -> Changes:
    """Compare the nuclei of an engine with those of the reference, int32[H,W] with 0 for background."""
    raise NotImplementedError


def pooled_nuclei(counts: Iterable[NucleiCounts]) -> NucleiCounts:
    """Return the sum of the counts."""
    return sum(counts, NucleiCounts(0, 0, 0, 0.0, 0, 0))


def aji(counts: NucleiCounts) -> float:
    """Aggregated Jaccard index (Kumar et al. 2017), from 0 to 1."""
    raise NotImplementedError


def detection_quality(counts: NucleiCounts) -> float:
    """DQ."""
    raise NotImplementedError


def segmentation_quality(counts: NucleiCounts) -> float:
    """SQ."""
    raise NotImplementedError


def panoptic_quality(counts: NucleiCounts) -> float:
    """PQ = SQ·DQ (Kirillov et al. 2019)."""
    raise NotImplementedError


def f1(counts: NucleiCounts) -> float:
    """F1 of detection at IoU 0.5."""
    raise NotImplementedError


NUCLEI_METRICS: tuple[Any, ...] = ()
_ = Callable
