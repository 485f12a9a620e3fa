"""FP32 graph -> FP16 graph: half precision inside, uint8 in, FP32 probability out, no overflow.

The conversion is that of ONNX Runtime's transformers tools (onnxconverter-common's, kept up to date). What is ours is
which nodes it leaves in FP32: those whose numbers come near the end of FP16 on calibration tiles, and the sigmoid.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from msal_deploy.errors import BadInput
from msal_deploy.graph import is_quantised

FP16_MAX = float(np.finfo(np.float16).max)  # 65,504
MARGIN = 4  # other tissue may go this much farther than the calibration tiles did


def to_fp16(model: onnx.ModelProto, largest: dict[str, float]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the FP16 graph, and the names of the nodes that were left in FP32 for their range.

    Args:
        model: the FP32 graph; not changed.
        largest: tensor -> largest absolute value on calibration tiles (`ranges.largest`).

    Raises:
        BadInput: the graph is quantised already.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    if is_quantised(model):
        raise BadInput("The graph is quantised already; give the FP32 graph that export wrote")
    kept = overflowing(model, largest)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    last = model.graph.node[-1].name  # the sigmoid: its FP32 result is the output itself
    converted = convert_float_to_float16(copy, keep_io_types=True, op_block_list=[], node_block_list=[*kept, last])
    _drop_round_trips(converted.graph)
    OnnxModel.graph_topological_sort(converted.graph)
    return converted, kept


def overflowing(model: onnx.ModelProto, largest: dict[str, float]) -> tuple[str, ...]:
    """Return the nodes with a result or an operand beyond `FP16_MAX` / `MARGIN`, or a weight beyond `FP16_MAX`."""
    beyond = {name for name, value in largest.items() if not value <= FP16_MAX / MARGIN}
    beyond |= {t.name for t in model.graph.initializer if not _fits(numpy_helper.to_array(t))}
    return tuple(node.name for node in model.graph.node if beyond.intersection((*node.input, *node.output)))


def _fits(weights: np.ndarray) -> bool:
    return weights.dtype != np.float32 or bool(np.abs(weights).max(initial=0) <= FP16_MAX)


def _drop_round_trips(graph: onnx.GraphProto) -> None:
    """Remove FP32 -> FP16 -> FP32 between two nodes that were both left in FP32: it would round, and could overflow."""
    makers = {output: node for node in graph.node for output in node.output}
    halves = {
        n.output[0]: n for n in graph.node if n.op_type == "Cast" and n.attribute[0].i == onnx.TensorProto.FLOAT16
    }
    renamed: dict[str, str] = {}
    for node in list(graph.node):
        if node.op_type != "Cast" or node.attribute[0].i != onnx.TensorProto.FLOAT or node.input[0] not in halves:
            continue
        source = halves[node.input[0]].input[0]
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
    # Only a node that was left in FP32 has its result cast down; a Cast is the converter's own.
    return node.op_type != "Cast"


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in used]:
        graph.node.remove(node)
