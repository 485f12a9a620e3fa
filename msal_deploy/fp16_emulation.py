"""An FP16 graph as an FP32 graph that rounds every tensor to FP16.

ONNX Runtime's CPU provider has no FP16 kernels. It computes an FP16 graph in FP32 and drops the casts between, which
hides rounding and overflow: a silent FP32. Here each result is cast to FP16 and back, and ONNX Runtime keeps the casts.
Products are therefore rounded after summation, as in tensor cores, and values outside FP16's range become Inf.
"""

import onnx
from onnx import TensorProto, helper, numpy_helper


def emulate_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the FP32 graph that computes what the FP16 graph `model` does."""
    halves = _halves(model)
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    del twin.graph.value_info[:]
    for tensor in twin.graph.initializer:
        _widen(tensor)
    nodes = []
    for node in twin.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            _widen(attribute.t)
        nodes += [
            node,
            *(pair for index, name in enumerate(node.output) if name in halves for pair in _cut(node, index)),
        ]
    del twin.graph.node[:]
    twin.graph.node.extend(nodes)
    return twin


def _halves(model: onnx.ModelProto) -> set[str]:
    """Return the names of the FP16 tensors."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))


def _cut(node: onnx.NodeProto, index: int) -> list[onnx.NodeProto]:
    name = node.output[index]
    node.output[index] = f"{name}/unrounded"
    down = helper.make_node("Cast", [f"{name}/unrounded"], [f"{name}/half"], to=TensorProto.FLOAT16)
    return [down, helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT)]
