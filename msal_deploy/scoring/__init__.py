"""Scoring: the metrics of an engine on labelled patches, and its differences from a reference engine. No timing.

===============  ============================================================================
`inference`      `probabilities` runs an open engine on patches
`pixel_score`    `score_pixels`: Dice, IoU, precision and recall, and their differences
`nuclei_score`   `score_nuclei`: AJI, PQ and the nuclei that were split, merged, lost, gained
===============  ============================================================================
"""

from msal_deploy.scoring.nuclei_score import NucleiScore, find_nuclei, score_nuclei
from msal_deploy.scoring.pixel_score import PixelScore, score_pixels, with_nuclei
from msal_deploy.scoring.inference import probabilities

__all__ = [
    "NucleiScore",
    "PixelScore",
    "find_nuclei",
    "probabilities",
    "score_nuclei",
    "score_pixels",
    "with_nuclei",
]
