"""Metrics of segmentations, and confidence bounds for the difference between two engines.

=========  =====================================================================================
`pixels`   Dice, IoU, precision and recall from counts of pixels; `METRICS`
`nuclei`   AJI, PQ, SQ, DQ and F1 from matched nuclei; `NUCLEI_METRICS`; nuclei split, merged, lost, gained
`bound`    `clustered_interval`: bounds of a mean over images, and the verdict that follows from them
=========  =====================================================================================
"""

from msal_deploy.metrics.bound import (
    CONFIDENCE,
    MIN_IMAGES,
    Interval,
    Verdict,
    clustered_interval,
    excludable_share,
    images_to_decide,
    verdict,
)
from msal_deploy.metrics.nuclei import (
    NUCLEI_METRICS,
    Changes,
    NucleiCounts,
    aji,
    changes,
    count_nuclei,
    detection_quality,
    f1,
    panoptic_quality,
    pooled_nuclei,
    segmentation_quality,
)
from msal_deploy.metrics.pixels import (
    METRICS,
    Average,
    BoolMask,
    Confusion,
    Metric,
    averages,
    confusion,
    dice,
    iou,
    pooled,
    precision,
    recall,
    signed,
)

__all__ = [
    "CONFIDENCE",
    "METRICS",
    "MIN_IMAGES",
    "NUCLEI_METRICS",
    "Average",
    "BoolMask",
    "Changes",
    "Confusion",
    "Interval",
    "Metric",
    "NucleiCounts",
    "Verdict",
    "aji",
    "averages",
    "changes",
    "clustered_interval",
    "confusion",
    "count_nuclei",
    "detection_quality",
    "dice",
    "excludable_share",
    "f1",
    "images_to_decide",
    "iou",
    "panoptic_quality",
    "pooled",
    "pooled_nuclei",
    "precision",
    "recall",
    "segmentation_quality",
    "signed",
    "verdict",
]
