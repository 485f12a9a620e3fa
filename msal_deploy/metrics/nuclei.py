"""Metrics of separated nuclei: the label map that an engine found against the true one.

A label map is int32[H,W]: 0 for background, and a positive number of its own for each nucleus. The numbers need not be
consecutive, so crops of label maps are label maps. All metrics are functions of `NucleiCounts`, from 0 to 1, larger is
better:

======  ===============================================================================================
AJI     Aggregated Jaccard index: pixels of nuclei, each true nucleus against the one found in its place
DQ, F1  Detection quality: how many nuclei were found, and how many of the found ones are true
SQ      Segmentation quality: mean IoU of the nuclei that were found
PQ      Panoptic quality: DQ·SQ
======  ===============================================================================================

Nothing true and nothing found: every metric is 1. Nothing true, or nothing found, or no pair of them with an IoU over
0.5: DQ, SQ, PQ and F1 are 0. AJI is 0 if no true nucleus overlaps a found one.
"""

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.metrics.pixels import Metric

LabelMap = NDArray[np.int32]
MATCH_IOU = 0.5  # above it, a nucleus has at most one partner, so pairs need no assignment


class NucleiCounts(msgspec.Struct, frozen=True):
    """What the metrics of nuclei are computed from. Counts of patches can be added.

    Attributes:
        intersection: Numerator of the AJI, in pixels.
        union: Denominator of the AJI, in pixels.
        matched: Pairs of a true and a found nucleus with an IoU over 0.5.
        matched_iou: Sum of the IoU of these pairs.
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
        return NucleiCounts(
            self.intersection + other.intersection,
            self.union + other.union,
            self.matched + other.matched,
            self.matched_iou + other.matched_iou,
            self.true + other.true,
            self.found + other.found,
        )


class Changes(msgspec.Struct, frozen=True):
    """How the nuclei of an engine differ from the reference's; see `changes`. Changes of patches can be added.

    Attributes:
        split: Nuclei of the reference that the engine found in several pieces.
        merged: Nuclei of the engine that are several nuclei of the reference.
        lost: Nuclei of the reference that the engine did not find.
        gained: Nuclei of the engine that are not in the reference.
    """

    split: int
    merged: int
    lost: int
    gained: int

    def __add__(self, other: "Changes") -> "Changes":
        return Changes(
            self.split + other.split,
            self.merged + other.merged,
            self.lost + other.lost,
            self.gained + other.gained,
        )


class _Overlaps(msgspec.Struct, frozen=True):
    """A sparse contingency table of two label maps, background left out.

    Attributes:
        first, second: int[P], the indices of the two nuclei of each overlapping pair, ordered by label.
        pixels: int[P], their overlap.
        first_areas, second_areas: int[A] and int[B], the areas of all nuclei.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    pixels: NDArray[np.int64]
    first_areas: NDArray[np.int64]
    second_areas: NDArray[np.int64]

    @property
    def unions(self) -> NDArray[np.int64]:
        """int[P], the area of each pair's union."""
        return self.first_areas[self.first] + self.second_areas[self.second] - self.pixels


def count_nuclei(truth: LabelMap, found: LabelMap) -> NucleiCounts:
    """Match the nuclei of two label maps.

    The AJI follows the code of the MoNuSeg challenge, so that figures are comparable: each true nucleus is
    paired with the found nucleus of largest IoU (of equals, the one with the lowest label), and a found nucleus may be
    paired with several true ones. True nuclei without any overlap and found nuclei without a partner add their areas to
    the union. (The later AJI+ pairs each nucleus once. Two nuclei of equal area found as one: AJI 1/2, AJI+ 1/3.)

    >>> truth = np.array([[1, 1, 1, 0, 2, 2]], np.int32)
    >>> found = np.array([[5, 5, 0, 0, 0, 7]], np.int32)
    >>> count_nuclei(truth, found)  # IoU 2/3 and 1/2: the second is not over 0.5
    NucleiCounts(intersection=3, union=5, matched=1, matched_iou=0.6666666666666666, true=2, found=2)

    Args:
        truth: int32[H,W].
        found: int32[H,W].

    Raises:
        ValueError: The shapes differ.
    """
    table = _overlaps(truth, found)
    ious = table.pixels / table.unions
    intersection, union = _aggregated(table, ious)
    matched = ious[ious > MATCH_IOU]
    sizes = len(table.first_areas), len(table.second_areas)
    return NucleiCounts(intersection, union, len(matched), float(matched.sum()), *sizes)


def pooled_nuclei(counts: Iterable[NucleiCounts]) -> NucleiCounts:
    """Return the sum of the counts.

    >>> pooled_nuclei([NucleiCounts(3, 5, 1, 0.75, 2, 2), NucleiCounts(4, 4, 1, 1.0, 1, 1)])
    NucleiCounts(intersection=7, union=9, matched=2, matched_iou=1.75, true=3, found=3)
    """
    return sum(counts, NucleiCounts(0, 0, 0, 0.0, 0, 0))


def aji(counts: NucleiCounts) -> float:
    """Aggregated Jaccard index: intersection / union (Kumar et al. 2017, doi 10.1109/TMI.2017.2677499).

    >>> aji(NucleiCounts(3, 5, 1, 0.75, 2, 2))
    0.6
    """
    return _ratio(counts, counts.intersection, counts.union)


def detection_quality(counts: NucleiCounts) -> float:
    """DQ: 2·matched / (true + found), from 0 to 1 (Kirillov et al. 2019, arXiv 1801.00868).

    >>> detection_quality(NucleiCounts(3, 5, 1, 0.75, 2, 2))
    0.5
    """
    return _ratio(counts, 2 * counts.matched, counts.true + counts.found)


def segmentation_quality(counts: NucleiCounts) -> float:
    """SQ: mean IoU of the matched pairs, from 0.5 to 1; 0 if there are none (Kirillov et al. 2019).

    >>> segmentation_quality(NucleiCounts(3, 5, 1, 0.75, 2, 2))
    0.75
    """
    return _ratio(counts, counts.matched_iou, counts.matched)


def panoptic_quality(counts: NucleiCounts) -> float:
    """PQ: DQ·SQ, which is 2·matched_iou / (true + found), from 0 to 1 (Kirillov et al. 2019).

    >>> panoptic_quality(NucleiCounts(3, 5, 1, 0.75, 2, 2))
    0.375
    """
    return _ratio(counts, 2 * counts.matched_iou, counts.true + counts.found)


def f1(counts: NucleiCounts) -> float:
    """F1 score of detection at IoU 0.5, from 0 to 1. It is the DQ under the name that detection papers use.

    Matched pairs are the true positives, found nuclei without a partner the false positives, and true nuclei without
    one the false negatives: 2·tp / (2·tp + fp + fn) = 2·matched / (true + found).

    >>> f1(NucleiCounts(3, 5, 1, 0.75, 2, 2))
    0.5
    """
    return detection_quality(counts)


def changes(reference: LabelMap, found: LabelMap) -> Changes:
    """Count the nuclei that were split, merged, lost or gained, relative to the reference.

    A nucleus lies in another if more than half of its area does.

    - Split: a reference nucleus in which two or more found nuclei lie.
    - Merged: a found nucleus in which two or more reference nuclei lie.
    - Lost: a reference nucleus that lies in no found nucleus, and in which none lies.
    - Gained: a found nucleus that lies in no reference nucleus, and in which none lies.

    An outline that moves by a pixel is none of these. With the maps exchanged, split and merged are exchanged, and so
    are lost and gained.

    >>> reference = np.array([[1, 1, 1, 1, 0, 2, 2, 3, 3, 0, 4]], np.int32)
    >>> found = np.array([[1, 1, 2, 2, 0, 3, 3, 3, 3, 0, 0]], np.int32)
    >>> changes(reference, found)
    Changes(split=1, merged=1, lost=1, gained=0)

    Args:
        reference: int32[H,W].
        found: int32[H,W].

    Raises:
        ValueError: The shapes differ.
    """
    table = _overlaps(reference, found)
    found_inside = 2 * table.pixels > table.second_areas[table.second]
    reference_inside = 2 * table.pixels > table.first_areas[table.first]
    related = found_inside | reference_inside
    return Changes(
        split=int(np.sum(np.bincount(table.first[found_inside]) > 1)),
        merged=int(np.sum(np.bincount(table.second[reference_inside]) > 1)),
        lost=len(table.first_areas) - len(np.unique(table.first[related])),
        gained=len(table.second_areas) - len(np.unique(table.second[related])),
    )


def _aggregated(table: _Overlaps, ious: NDArray[np.float64]) -> tuple[int, int]:
    """Return the AJI's intersection and union."""
    order = np.lexsort((-ious, table.first))  # best partner first; of equals, the lower label, as in the table
    paired, position = np.unique(table.first[order], return_index=True)
    best = order[position]
    union = table.unions[best].sum()
    union += np.delete(table.first_areas, paired).sum()
    union += np.delete(table.second_areas, table.second[best]).sum()
    return int(table.pixels[best].sum()), int(union)


def _overlaps(first: LabelMap, second: LabelMap) -> _Overlaps:
    if first.shape != second.shape:
        raise ValueError(f"Expected label maps of the same shape, got {first.shape} and {second.shape}")
    rows, columns, pixels = _pairs(first, second)
    row_labels, i = np.unique(rows, return_inverse=True)
    column_labels, j = np.unique(columns, return_inverse=True)
    first_nuclei, second_nuclei = row_labels.astype(bool), column_labels.astype(bool)  # all but the background
    both = first_nuclei[i] & second_nuclei[j]
    return _Overlaps(
        first=(np.cumsum(first_nuclei) - 1)[i[both]],
        second=(np.cumsum(second_nuclei) - 1)[j[both]],
        pixels=pixels[both],
        first_areas=_sums(i, pixels)[first_nuclei],
        second_areas=_sums(j, pixels)[second_nuclei],
    )


def _pairs(first: LabelMap, second: LabelMap) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of labels that occur at a pixel, each once, and the pixels of each."""
    codes = first.ravel().astype(np.int64) << 32 | second.ravel()
    # Neighbours mostly have the same labels: sorting runs of equal pixels is ten times as fast as sorting pixels.
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    lengths = np.diff(starts, append=len(codes))
    pairs, run = np.unique(codes[starts], return_inverse=True)
    return pairs >> 32, pairs & 0xFFFFFFFF, _sums(run, lengths)


def _sums(groups: NDArray[np.intp], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64[G], the sum of the values of each group 0 to G − 1."""
    return np.bincount(groups, values).astype(np.int64)  # sums of weights are float64, exact up to 2⁵³


NUCLEI_METRICS: tuple[Metric[NucleiCounts], ...] = (
    Metric(
        "aji",
        "AJI",
        aji,
        "aji_mean",
        "aji_pooled",
        "Overlap of the true nuclei with those found in their place, divided by their union and false nuclei.",
    ),
    Metric(
        "pq",
        "PQ",
        panoptic_quality,
        "pq_mean",
        "pq_pooled",
        "Panoptic quality: DQ times SQ.",
    ),
    Metric(
        "sq",
        "SQ",
        segmentation_quality,
        "sq_mean",
        "sq_pooled",
        "Mean IoU of the matched nuclei; a true and a found nucleus match if their IoU is over 0.5.",
        page=("mean",),
        terminal=False,
    ),
    Metric(
        "dq",
        "DQ",
        detection_quality,
        "dq_mean",
        "dq_pooled",
        "Twice the number of matches, divided by the number of true and found nuclei.",
        page=("mean",),
        terminal=False,
    ),
    Metric(
        "f1",
        "F1",
        f1,
        "f1_mean",
        "f1_pooled",
        "F1 score of detection at IoU 0.5, which is the DQ.",
        page=(),
        terminal=False,
    ),
)


def _ratio(counts: NucleiCounts, numerator: float, denominator: float) -> float:
    if denominator:
        return numerator / denominator
    return 0.0 if counts.true or counts.found else 1.0
