"""Emulate an FP16 graph by an FP32 graph that rounds every tensor to FP16.

ONNX Runtime's CPU provider has no FP16 kernels. It computes an FP16 graph in FP32 and removes the casts in between,
which hides rounding and overflow. The emulation casts each result to FP16 and back, and ONNX Runtime keeps these casts.
So sums of products are rounded once, as in tensor cores, and values outside the range of FP16 become Inf.
"""

import onnx
from onnx import TensorProto, helper, numpy_helper


def emulate_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the FP32 graph that computes the results of the FP16 graph `model`, which is left unchanged.

    >>> model = emulate_fp16(onnx.load("bundle/model.fp16.onnx"))
    >>> {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT}
    True
    """
    fp16_tensors = _fp16_tensors(model)
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    del emulated.graph.value_info[:]
    for tensor in emulated.graph.initializer:
        _widen(tensor)
    nodes = []
    for node in emulated.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            _widen(attribute.t)
        rounded = [index for index, name in enumerate(node.output) if name in fp16_tensors]
        nodes += [node, *(cast for index in rounded for cast in _round_output(node, index))]
    del emulated.graph.node[:]
    emulated.graph.node.extend(nodes)
    return emulated


def _fp16_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of the FP16 tensors."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}


def _widen(tensor: TensorProto) -> None:
    """Convert a stored FP16 tensor to FP32, in place."""
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))


def _round_output(node: onnx.NodeProto, index: int) -> list[onnx.NodeProto]:
    """Rename an output of `node`, and return the two casts that round it and write it under the old name."""
    name = node.output[index]
    node.output[index] = f"{name}/unrounded"
    down = helper.make_node("Cast", [f"{name}/unrounded"], [f"{name}/half"], to=TensorProto.FLOAT16)
    return [down, helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT)]
