"""What an ONNX graph computes: its layers with their multiply-accumulates, bytes and precision.

A layer here is a Conv, a ConvTranspose, a Gemm or a MatMul: the operators that hold the arithmetic. Casts, norms that
were not folded, activations and sums are left out of the counts, as they are in the tables of most papers.
"""

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import onnx
from onnx import numpy_helper

from msal_deploy.errors import BadInput, GateFailed

PRECISION_OF_TYPE = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
}
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
ARITHMETIC = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Layer(msgspec.Struct, frozen=True):
    """One operator that multiplies.

    Attributes:
        name: the node's name in the graph, such as ``/network/encoder1/encoder1.0/conv1/Conv``.
        module: the module of the network that it comes from, such as ``encoder1``.
        macs: multiply-accumulates at the size that `layers` was asked for; a FLOP count is twice this.
        precision: ``fp32``, ``fp16``, ``bf16``, or ``int8`` where both operands come from DequantizeLinear.
        moved_bytes: bytes of input, weights and output at that precision, each counted once.
    """

    name: str
    op: str
    module: str
    macs: int
    precision: str
    moved_bytes: int


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        BadInput: it is missing or no ONNX.
    """
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        raise BadInput(f"There is no ONNX file {path}") from error
    except Exception as error:  # protobuf's DecodeError has moved between its versions
        raise BadInput(f"{path} is no ONNX file ({type(error).__name__}); export the bundle again") from error
    if not model.graph.node:
        raise BadInput(f"{path} is no ONNX file, or an empty one; export the bundle again")
    return model


def check_graph(path: Path) -> onnx.GraphProto:
    """Run ONNX's checker with full shape and type inference on a graph that was just written.

    Raises:
        GateFailed: the graph is invalid.
    """
    model = onnx.load(path)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateFailed(f"The exported graph is not valid ONNX: {error}") from error
    return model.graph


def layers(model: onnx.ModelProto, *, batch: int = 1, height: int = 512, width: int = 512) -> tuple[Layer, ...]:
    """Return the layers of `model` for images uint8[batch, height, width, 3], in the graph's order.

    Raises:
        BadInput: the shapes of the graph cannot be inferred at that size.
    """
    tensors = _tensors(model, (batch, height, width, 3))
    quantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return tuple(_layer(node, tensors, quantised) for node in model.graph.node if node.op_type in ARITHMETIC)


def int8_share(found: Iterable[Layer]) -> float:
    """Return the share of the multiply-accumulates that is done in INT8."""
    found = tuple(found)
    total = sum(layer.macs for layer in found)
    return sum(layer.macs for layer in found if layer.precision == "int8") / total if total else 0.0


def is_quantised(model: onnx.ModelProto) -> bool:
    """Return whether the graph holds a QuantizeLinear or DequantizeLinear."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)


def module_of(node_name: str) -> str:
    """Return the module that a node comes from: ``encoder1`` of the tracing exporter's ``/network/encoder1/…/Conv``."""
    parts = [part for part in node_name.split("/") if part]
    return parts[1] if len(parts) > 2 and parts[0] == "network" else (parts[0] if len(parts) > 1 else "")


def _tensors(model: onnx.ModelProto, image: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return tensor name -> (shape, precision), of the initialisers too."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for dimension, extent in zip(fixed.graph.input[0].type.tensor_type.shape.dim, image, strict=False):
        dimension.ClearField("dim_param")
        dimension.dim_value = extent
    for value in fixed.graph.output:  # their symbolic axes would contradict the fixed ones
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        graph = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise BadInput(f"The shapes of the graph cannot be inferred for images of {image}: {error}") from error
    found = {
        value.name: (tuple(d.dim_value for d in value.type.tensor_type.shape.dim), value.type.tensor_type.elem_type)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    found |= {tensor.name: (tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer}
    return {name: (shape, PRECISION_OF_TYPE.get(kind, "int8")) for name, (shape, kind) in found.items()}


def _layer(node: onnx.NodeProto, tensors: dict[str, tuple[tuple[int, ...], str]], quantised: set[str]) -> Layer:
    operands = node.input[:2]
    precision = "int8" if quantised.issuperset(operands) else tensors[operands[0]][1]
    shapes = [tensors[name][0] for name in (*operands, node.output[0])]
    moved = sum(prod(shape) for shape in shapes) * BYTES[precision]
    return Layer(node.name, node.op_type, module_of(node.name), _macs(node, *shapes), precision, moved)


def _macs(node: onnx.NodeProto, data: tuple[int, ...], weight: tuple[int, ...], out: tuple[int, ...]) -> int:
    if node.op_type == "Conv":  # weight: [out, in / groups, kernel]
        return prod(out) * prod(weight[1:])
    if node.op_type == "ConvTranspose":  # weight: [in, out / groups, kernel]; each input pixel meets every weight
        return prod(data) * prod(weight[1:])
    return prod(out) * (weight[-2] if len(weight) > 1 and not attribute(node, "transB", 0) else weight[-1])


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute, a tensor as an array."""
    for found in node.attribute:
        if found.name == name:
            value = onnx.helper.get_attribute_value(found)
            return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    return default
