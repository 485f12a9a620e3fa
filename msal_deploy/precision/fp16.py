"""Convert an FP32 graph to FP16 without overflow: uint8 in, half precision inside, FP32 probability out.

ONNX Runtime's transformers tools do the conversion (a maintained copy of onnxconverter-common). This module selects the
nodes that stay in FP32: those whose values come close to the largest FP16 number on calibration tiles, and the sigmoid.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from msal_deploy.errors import BadInput
from msal_deploy.graph import is_quantised

FP16_MAX = float(np.finfo(np.float16).max)  # 65,504
MARGIN = 4  # values of other tissue may be this much larger than on the calibration tiles


def to_fp16(model: onnx.ModelProto, max_abs: dict[str, float]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Convert a graph to FP16; return it with the names of the nodes that stay in FP32 because of their range.

    >>> from pathlib import Path
    >>> from msal_deploy.graph import load_graph
    >>> model, kept = to_fp16(load_graph(Path("bundle/model.fp32.onnx")), max_abs={"x1": 1e6})
    >>> kept
    ('/network/encoder1/Relu', '/network/encoder2/Conv')

    Args:
        model: The FP32 graph; it is not changed.
        max_abs: Tensor name -> largest absolute value on the calibration tiles; see `max_abs_values`.

    Raises:
        BadInput: The graph is already quantised.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    if is_quantised(model):
        raise BadInput("The graph is already quantised", "use the FP32 graph that export wrote")
    kept = overflowing(model, max_abs)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    last = model.graph.node[-1].name  # the sigmoid, whose FP32 result is the output
    converted = convert_float_to_float16(copy, keep_io_types=True, op_block_list=[], node_block_list=[*kept, last])
    _drop_round_trips(converted.graph)
    OnnxModel.graph_topological_sort(converted.graph)
    return converted, kept


def overflowing(model: onnx.ModelProto, max_abs: dict[str, float]) -> tuple[str, ...]:
    """Return the nodes with an input or output above `FP16_MAX` / `MARGIN`, or a weight above `FP16_MAX`."""
    beyond = {name for name, value in max_abs.items() if not value <= FP16_MAX / MARGIN}
    beyond |= {t.name for t in model.graph.initializer if not _fits(numpy_helper.to_array(t))}
    return tuple(node.name for node in model.graph.node if beyond.intersection((*node.input, *node.output)))


def _fits(weights: np.ndarray) -> bool:
    return weights.dtype != np.float32 or bool(np.abs(weights).max(initial=0) <= FP16_MAX)


def _drop_round_trips(graph: onnx.GraphProto) -> None:
    """Remove casts FP32 -> FP16 -> FP32 between two FP32 nodes: they would round, and could overflow."""
    makers = {output: node for node in graph.node for output in node.output}
    to_half = {
        n.output[0]: n for n in graph.node if n.op_type == "Cast" and n.attribute[0].i == onnx.TensorProto.FLOAT16
    }
    renamed: dict[str, str] = {}
    for node in list(graph.node):
        if node.op_type != "Cast" or node.attribute[0].i != onnx.TensorProto.FLOAT or node.input[0] not in to_half:
            continue
        source = to_half[node.input[0]].input[0]
        if source not in makers or not _is_float32(makers[source]):
            continue
        if node.output[0] in {value.name for value in graph.output}:
            makers[source].output[0], renamed[source] = node.output[0], node.output[0]
        else:
            renamed[node.output[0]] = source
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    _drop_unused(graph)


def _is_float32(node: onnx.NodeProto) -> bool:
    # The converter casts the results of FP32 nodes to FP16. A Cast is its own.
    return node.op_type != "Cast"


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in used]:
        graph.node.remove(node)
