"""Read an ONNX graph: its layers with their multiply-accumulates, bytes and precision, and its tensors by name.

A layer is a Conv, a ConvTranspose, a Gemm or a MatMul: the operators that hold the arithmetic. Casts, unfolded norms,
activations and sums are not counted, as in the tables of most papers.
"""

import re
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from msal_deploy.documents import refuse
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.spec import ModelSpec, TensorSpec

PRECISION_OF_TYPE = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16"}  # of ONNX's types; any other is INT8
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
ARITHMETIC = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LATER_OPERATOR = re.compile(r"No Op registered for (\w+)")  # what ONNX's checker says
EXPORT_AGAIN = "export the bundle again"
PASSES_CONSTANTS = {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"}


class Layer(msgspec.Struct, frozen=True):
    """One operator that multiplies.

    Attributes:
        name: Name of the node in the graph, such as ``/network/encoder1/encoder1.0/conv1/Conv``.
        op: ONNX operator, such as ``Conv``.
        module: Module of the network that the node comes from, such as ``encoder1``.
        macs: Multiply-accumulates at the image size given to `layers`; the FLOP count is twice this.
        precision: ``fp32``, ``fp16``, ``bf16``, or ``int8`` if both operands come from DequantizeLinear.
        moved_bytes: Bytes of input, weights and output at that precision, each counted once.
    """

    name: str
    op: str
    module: str
    macs: int
    precision: str
    moved_bytes: int


class GraphIndex:
    """Types, shapes, constants and producers of an ONNX graph, by tensor name.

    >>> graph = GraphIndex(load_graph(Path("bundle/model.int8.onnx")))
    >>> graph.types["image"]
    'uint8'
    >>> graph.producers["probability"].op_type
    'Sigmoid'

    Args:
        model: The graph. Types and shapes of inner tensors are known only after ``onnx.shape_inference``.

    Attributes:
        nodes: The nodes, in execution order.
        types: ONNX's name of each tensor's type, such as ``float16``; a tensor of unknown type is missing.
        shapes: Shape of each tensor; a dynamic axis is 0.
        constants: Initialisers, and the tensors of Constant nodes.
        producers: The node that writes each tensor.
        inputs: Names of the graph's inputs.
        outputs: Names of the graph's outputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        attributes = ((node, attribute) for node in self.nodes for attribute in node.attribute)
        self.constants |= {n.output[0]: a.t for n, a in attributes if n.op_type == "Constant" and a.name == "value"}
        self.producers = {output: node for node in self.nodes for output in node.output}
        self.inputs = {value.name for value in graph.input}
        self.outputs = {value.name for value in graph.output}
        kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kinds[value.name] = value.type.tensor_type.elem_type
            self.shapes[value.name] = tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        self.types = {name: onnx.TensorProto.DataType.Name(kind).lower() for name, kind in kinds.items() if kind}

    def is_dequantised(self, tensor: str) -> bool:
        """Return whether a DequantizeLinear writes `tensor`."""
        return tensor in self.producers and self.producers[tensor].op_type == "DequantizeLinear"

    def is_deconvolution_weight(self, tensor: str) -> bool:
        """Return whether `tensor` holds the weights of a ConvTranspose."""
        return any(node.op_type == "ConvTranspose" and node.input[1] == tensor for node in self.nodes)

    def is_constant(self, tensor: str) -> bool:
        """Return whether `tensor` is known before the build: a constant, or a quantised or cast one."""
        if tensor in self.constants:
            return True
        node = self.producers.get(tensor)
        return node is not None and node.op_type in PASSES_CONSTANTS and self.is_constant(node.input[0])

    def value(self, tensor: str) -> np.ndarray[Any, Any] | None:
        """Return the elements of a constant, or None if `tensor` is not one."""
        return numpy_helper.to_array(self.constants[tensor]) if tensor in self.constants else None


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, and no other: its weights must not be in a second file, which no hash covers.

    >>> load_graph(Path("bundle/model.fp32.onnx")).graph.input[0].name
    'image'

    Raises:
        BadInput: The file is missing, is not a valid ONNX file, or reads another file.
    """
    try:
        model = onnx.load(path, "protobuf", load_external_data=False)
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist", EXPORT_AGAIN) from error
    except Exception as error:  # protobuf's DecodeError has moved between its versions
        raise BadInput(f"{path} is not a valid ONNX file ({type(error).__name__})", EXPORT_AGAIN) from error
    if not model.graph.node:
        raise BadInput(f"{path} is not a valid ONNX file (it has no nodes)", EXPORT_AGAIN)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model)):
        raise BadInput(f"{path} keeps weights in another file", EXPORT_AGAIN)
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all stored tensors: initialisers and attributes, also of functions and of graphs inside nodes."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            yield from (part for one in graph.sparse_initializer for part in (one.values, one.indices))
            nodes += graph.node
        for attribute in (attribute for node in nodes for attribute in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            sparse = (attribute.sparse_tensor, *attribute.sparse_tensors)
            yield from (part for one in sparse for part in (one.values, one.indices))
            graphs += [graph for graph in (attribute.g, *attribute.graphs) if graph.ByteSize()]
        nodes = []


def check_model(path: Path) -> None:
    """Raise `BadInput` unless ONNX's checker accepts a file. Operators of a later opset are left to the runtimes.

    >>> check_model(Path("bundle/model.fp32.onnx"))
    """
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        later = LATER_OPERATOR.match(str(error))
        if not later or not onnx.defs.has(later[1]):
            refuse(str(path), "a valid ONNX file", str(error).partition("\n")[0], EXPORT_AGAIN, error)


def check_tensors(model: onnx.ModelProto, path: Path, spec: ModelSpec) -> None:
    """Raise `BadInput` unless a graph has the one input and the one output of `spec`.

    >>> check_tensors(load_graph(Path("bundle/model.fp16.onnx")), Path("model.fp16.onnx"), ModelSpec())
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    _check_tensor(path, spec.image, [tensor for tensor in model.graph.input if tensor.name not in stored])
    _check_tensor(path, spec.probability, list(model.graph.output))


def _check_tensor(path: Path, spec: TensorSpec, tensors: list[onnx.ValueInfoProto]) -> None:
    if [tensor.name for tensor in tensors] != [spec.name]:
        names = ", ".join(f"{tensor.name[:50]!a}" for tensor in tensors[:3]) or "none"
        raise BadInput(f"Expected a tensor named {spec.name!r} in {path}, got {names}", EXPORT_AGAIN)
    kind = tensors[0].type.tensor_type
    actual = _type_name(kind.elem_type)
    if actual != spec.dtype:
        raise BadInput(f"Expected {spec.dtype} for {spec.name!r} in {path}, got {actual}", EXPORT_AGAIN)
    extents = [axis.dim_value for axis in kind.shape.dim]  # 0 for a dynamic axis
    if len(extents) != len(spec.axes) or any(
        isinstance(axis, int) and extent not in (0, axis) for axis, extent in zip(spec.axes, extents, strict=False)
    ):
        shape = ", ".join(str(extent or "?") for extent in extents)
        raise BadInput(f"Expected the axes of the manifest for {spec.name!r} in {path}, got [{shape}]", EXPORT_AGAIN)


def _type_name(kind: int) -> str:
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(kind))
    except (KeyError, ValueError):  # no type, or one that NumPy does not have
        return "another type"


def check_graph(path: Path) -> onnx.GraphProto:
    """Run ONNX's checker with full shape and type inference on an exported graph, and return the graph.

    >>> check_graph(Path("bundle/model.fp32.onnx")).output[0].name
    'probability'

    Raises:
        GateFailed: The graph is invalid.
    """
    model = onnx.load(path)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateFailed(f"The exported graph is not valid ONNX: {error}") from error
    return model.graph


def layers(model: onnx.ModelProto, *, batch: int = 1, height: int = 512, width: int = 512) -> tuple[Layer, ...]:
    """Return the layers of `model` for images uint8[batch, height, width, 3], in the order of the graph.

    >>> first, *_ = layers(load_graph(Path("bundle/model.fp16.onnx")), height=256, width=256)
    >>> first.name, first.precision, first.macs
    ('/network/encoder1/Conv', 'fp16', 28311552)

    Raises:
        BadInput: The shapes of the graph cannot be inferred at that size.
    """
    graph = GraphIndex(_infer_shapes(model, (batch, height, width, 3)))
    return tuple(_layer(node, graph) for node in graph.nodes if node.op_type in ARITHMETIC)


def int8_share(layers: Iterable[Layer]) -> float:
    """Return the share of the multiply-accumulates that is computed in INT8.

    >>> int8_share(layers(load_graph(Path("bundle/model.int8.onnx"))))
    1.0
    """
    layers = tuple(layers)
    total = sum(layer.macs for layer in layers)
    return sum(layer.macs for layer in layers if layer.precision == "int8") / total if total else 0.0


def is_quantised(model: onnx.ModelProto) -> bool:
    """Return whether the graph holds a QuantizeLinear or DequantizeLinear.

    >>> [is_quantised(load_graph(Path(f"bundle/model.{name}.onnx"))) for name in ("fp16", "int8")]
    [False, True]
    """
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)


def module_of(node_name: str) -> str:
    """Return the module of the network that a node comes from, by the names of the tracing exporter.

    >>> module_of("/network/encoder1/encoder1.0/conv1/Conv")
    'encoder1'
    """
    parts = [part for part in node_name.split("/") if part]
    return parts[1] if len(parts) > 2 and parts[0] == "network" else (parts[0] if len(parts) > 1 else "")


def _infer_shapes(model: onnx.ModelProto, image: tuple[int, ...]) -> onnx.ModelProto:
    """Return a copy of `model` with fixed shapes, for an input of shape `image`."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for axis, extent in zip(fixed.graph.input[0].type.tensor_type.shape.dim, image, strict=False):
        axis.ClearField("dim_param")
        axis.dim_value = extent
    for value in fixed.graph.output:  # their symbolic axes would contradict the fixed ones
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        return onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise BadInput(f"The shapes of the graph cannot be inferred for images of {image}: {error}") from error


def _layer(node: onnx.NodeProto, graph: GraphIndex) -> Layer:
    data, weight = node.input[:2]
    is_int8 = graph.is_dequantised(data) and graph.is_dequantised(weight)
    precision = "int8" if is_int8 else PRECISION_OF_TYPE.get(graph.types[data], "int8")
    shapes = [graph.shapes[name] for name in (data, weight, node.output[0])]
    moved = sum(prod(shape) for shape in shapes) * BYTES[precision]
    return Layer(node.name, node.op_type, module_of(node.name), _macs(node, *shapes), precision, moved)


def _macs(node: onnx.NodeProto, data: tuple[int, ...], weight: tuple[int, ...], out: tuple[int, ...]) -> int:
    if node.op_type == "Conv":  # weight: [out, in / groups, kernel]
        return prod(out) * prod(weight[1:])
    if node.op_type == "ConvTranspose":  # weight: [in, out / groups, kernel]; each input pixel meets every weight
        return prod(data) * prod(weight[1:])
    return prod(out) * (weight[-2] if len(weight) > 1 and not attribute(node, "transB", 0) else weight[-1])


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute, or `default`; a tensor is returned as an array.

    >>> node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    >>> attribute(node, "pads"), attribute(node, "group", 1)
    ([1, 1, 1, 1], 1)
    """
    for candidate in node.attribute:
        if candidate.name == name:
            value = onnx.helper.get_attribute_value(candidate)
            return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    return default
