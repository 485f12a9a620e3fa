"""Scoring: the metrics of an engine on labelled patches, and its differences from a reference engine. No timing.

==============  ============================================================================
`inference`     `run_engine` runs an open engine on patches
`outputs`       `check_output`: shape, range, NaN
`pixel_score`   `score_pixels`: Dice, IoU, precision and recall, and their differences
`nuclei_score`  `score_nuclei`: AJI, PQ and the nuclei that were split, merged, lost, gained
`trials`        what searches over graphs share: a log of trials, and the smallest number that passes
==============  ============================================================================
"""

from msal_deploy.scoring.inference import Outputs, run_engine
from msal_deploy.scoring.nuclei_score import NucleiScore, find_nuclei, score_nuclei
from msal_deploy.scoring.outputs import OutputFindings, check_output
from msal_deploy.scoring.pixel_score import PixelScore, score_pixels, with_nuclei

__all__ = [
    "NucleiScore",
    "OutputFindings",
    "Outputs",
    "PixelScore",
    "check_output",
    "find_nuclei",
    "run_engine",
    "score_nuclei",
    "score_pixels",
    "with_nuclei",
]
