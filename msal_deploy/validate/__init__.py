"""Validate: compare the segmentation of engines with a reference engine on labelled images. No timing.

=============  ========================================================================================
`run`          `validate`: all engines, one after the other
`compare`      runs and scores each engine against the reference
`gate`         `Limits`, and the judgement: within budget, over budget or undecided; the worst image
`report`       `ValidationReport`
`checks`       checks that need no labels: batches, crops, repetition, builds
`differences`  where an engine differs: by distance from a boundary, quantiles, calibration
`diagnose`     names the likely cause of a loss, such as exchanged colour channels
`bisect`       `bisect` finds the nodes of an FP16 or INT8 graph that cause its loss
=============  ========================================================================================
"""

from msal_deploy.validate.bisect import BisectReport, bisect
from msal_deploy.validate.gate import Limits
from msal_deploy.validate.report import EngineResult, ValidationReport
from msal_deploy.validate.run import validate

__all__ = ["BisectReport", "EngineResult", "Limits", "ValidationReport", "bisect", "validate"]
