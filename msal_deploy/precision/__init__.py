"""Precision: make FP16 and INT8 graphs from an FP32 graph, as ONNX files, and measure their loss in Dice.

===================  =============================================================================
`calibration_tiles`  selects the training tiles to calibrate on, and records their hashes
`calibrate`          measures the range of every tensor on those tiles
`fp16`               the FP16 graph; nodes that could overflow stay in FP32
`int8`               the INT8 graph with explicit Q/DQ, placed by TensorRT's rules
`search`             selects the nodes to keep in float so that Dice stays within a budget
`run`                `add_precisions`: adds the graphs to a bundle
===================  =============================================================================
"""

from msal_deploy.precision.calibration_tiles import require_unseen
from msal_deploy.precision.run import PrecisionReport, add_precisions, choose_tiles

__all__ = ["PrecisionReport", "add_precisions", "choose_tiles", "require_unseen"]
