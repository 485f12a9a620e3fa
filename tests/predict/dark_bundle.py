"""A bundle whose graph calls dark pixels nuclei: on drawn tissue it finds most of them, with no training."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from tiny_bundle import put_graph, write_tiny_bundle

from msal_deploy import Bundle

DARK = 150  # the mean of red around a pixel at which its probability is ½


def write_dark_bundle(folder: Path) -> Bundle:
    """Write a bundle whose FP32 graph is `dark_graph`."""
    return put_graph(write_tiny_bundle(folder), "model.fp32.onnx", dark_graph())


def dark_graph() -> onnx.ModelProto:
    """Return uint8[N,H,W,3] -> sigmoid((DARK - mean of red in 5 × 5 px) / 8)."""
    weights = np.zeros((1, 3, 5, 5), np.float32)
    weights[0, 0] = -1 / 25 / 8
    stored = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([DARK / 8], np.float32), "bias"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=T.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Pad", ["planes", "pads"], ["padded"], mode="edge"),
        helper.make_node("Conv", ["padded", "weights", "bias"], ["logit"], kernel_shape=[5, 5]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    stored.append(numpy_helper.from_array(np.array([0, 0, 2, 2, 0, 0, 2, 2], np.int64), "pads"))
    image = helper.make_tensor_value_info("image", T.UINT8, ["n", "h", "w", 3])
    probability = helper.make_tensor_value_info("probability", T.FLOAT, ["n", 1, "h", "w"])
    graph = helper.make_graph(nodes, "dark", [image], [probability], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
