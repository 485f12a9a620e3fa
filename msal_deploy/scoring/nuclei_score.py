"""The nuclei of one engine: metrics of the separated nuclei, and how they differ from the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from msal_deploy import metrics
from msal_deploy.data import Patch
from msal_deploy.instances import separate
from msal_deploy.metrics import (
    Changes,
    Interval,
    NucleiCounts,
    aji,
    changes,
    clustered_interval,
    count_nuclei,
    panoptic_quality,
)
from msal_deploy.scoring.pixel_score import with_nuclei
from msal_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from msal_deploy.scoring.inference import Map

    Labels = NDArray[np.int32]


class NucleiScore(msgspec.Struct, frozen=True, eq=False):
    """The scores of the nuclei of one engine on K patches.

    Attributes:
        counts: Matched nuclei of each patch.
        scored: Indices of the patches with a true nucleus, which the means and the intervals are over.
        deltas_aji: ΔAJI of each scored patch, engine minus reference.
        deltas_pq: ΔPQ of each scored patch.
        delta_aji: Mean and bounds of ΔAJI.
        delta_pq: Mean and bounds of ΔPQ.
        changes: Nuclei split, merged, lost and gained in all patches, relative to the reference.
    """

    counts: tuple[NucleiCounts, ...]
    scored: tuple[int, ...]
    deltas_aji: tuple[float, ...]
    deltas_pq: tuple[float, ...]
    delta_aji: Interval
    delta_pq: Interval
    changes: Changes

    def averages(self) -> dict[str, float]:
        """Return both averages of each entry of `NUCLEI_METRICS` by their JSON keys."""
        with_truth = [self.counts[index] for index in self.scored]
        return {
            key: value
            for metric in metrics.NUCLEI_METRICS
            for key, value in (
                (metric.mean_key, float(np.mean([metric.score(counts) for counts in with_truth]))),
                (metric.pooled_key, metric.score(metrics.pooled_nuclei(self.counts))),
            )
        }

    def to_json(self) -> dict[str, Any]:
        """Return JSON types: the averages, the differences, then the numbers of nuclei."""
        total = metrics.pooled_nuclei(self.counts)
        return self.averages() | {
            "delta_aji": msgspec.to_builtins(self.delta_aji),
            "delta_pq": msgspec.to_builtins(self.delta_pq),
            "nuclei": {"true": total.true, "found": total.found} | msgspec.to_builtins(self.changes),
        }


def find_nuclei(patches: Sequence[Patch], probability: Sequence[Map], spec: ModelSpec) -> tuple[Labels, ...]:
    """Separate the nuclei of K patches in their probability maps; return K label maps int32[h,w], 0 for background."""
    return tuple(
        separate(one, threshold=spec.threshold, microns_per_pixel=spec.microns_per_pixel * patch.scale)
        for patch, one in zip(patches, probability, strict=True)
    )


def score_nuclei(patches: Sequence[Patch], found: Sequence[Labels], reference: Sequence[Labels]) -> NucleiScore:
    """Score an engine's nuclei against the true ones, and compare them with the reference's.

    >>> labels = np.zeros((32, 32), np.int32)
    >>> labels[8:24, 8:24] = 1
    >>> image = np.zeros((32, 32, 3), np.uint8)
    >>> patches = [Patch(stem, "top-left", image, labels > 0, labels) for stem in ("a", "b")]
    >>> score_nuclei(patches, [labels * 0, labels], [labels, labels]).changes
    Changes(split=0, merged=0, lost=1, gained=0)

    Args:
        patches: K patches, with nuclei in at least two images.
        found: K label maps int32[h,w] of the engine.
        reference: K label maps int32[h,w] of the reference.

    Raises:
        BadInput: Only one image, or none, has nuclei.
    """
    scored = with_nuclei(patches)
    stems = [patches[k].stem for k in scored]
    counts = _counts(patches, found)
    reference_counts = counts if found is reference else _counts(patches, reference)
    pairs = [(counts[k], reference_counts[k]) for k in scored]
    deltas_aji = tuple(aji(a) - aji(b) for a, b in pairs)
    deltas_pq = tuple(panoptic_quality(a) - panoptic_quality(b) for a, b in pairs)
    return NucleiScore(
        counts=counts,
        scored=scored,
        deltas_aji=deltas_aji,
        deltas_pq=deltas_pq,
        delta_aji=clustered_interval(deltas_aji, stems),
        delta_pq=clustered_interval(deltas_pq, stems),
        changes=sum((changes(b, a) for a, b in zip(found, reference, strict=True)), Changes(0, 0, 0, 0)),
    )


def _counts(patches: Sequence[Patch], found: Sequence[Labels]) -> tuple[NucleiCounts, ...]:
    return tuple(count_nuclei(patch.nuclei, labels) for patch, labels in zip(patches, found, strict=True))
