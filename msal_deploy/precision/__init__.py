"""Precision: FP32 graph -> FP16 and INT8 graphs, as ONNX files, judged by what they cost in Dice.

=============  ===================================================================================
`calibration`  which training tiles the ranges are measured on, and their hashes
`ranges`       the range of every tensor on those tiles
`fp16`         the FP16 graph; what comes near the end of FP16 stays in FP32, by name
`int8`         the INT8 graph with explicit Q/DQ, placed by TensorRT's rules
`search`       which nodes go back to float so that Dice stays within a budget
`stage`        `add_precisions`: all of that, into a bundle
=============  ===================================================================================
"""

from msal_deploy.precision.calibration_tiles import require_unseen
from msal_deploy.precision.run import PrecisionReport, add_precisions

__all__ = ["PrecisionReport", "add_precisions", "require_unseen"]
