"""Can this TensorRT read this graph? Asked before anything is built, and answered by the name of the node.

TensorRT's own parser says so too, where it is installed, with an error number and after minutes; and what it refuses
on the machine with the GPU is found here without one.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from msal_deploy.errors import BadInput
from msal_deploy.trt.parser import Parser, find_parser

DATA_INPUT = {"Where": 1}  # which input the documented types are about; 0 otherwise
# Their documented types are not those of an input.
UNTYPED = {"Constant", "ConstantOfShape", "If", "Loop", "OneHot", "Scan"}
UNTYPED |= {"BlackmanWindow", "HammingWindow", "HannWindow"}
PASSES_CONSTANTS = {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"}


class Problem(msgspec.Struct, frozen=True):
    """What TensorRT does not read, and what to do; `node` and `operator` are empty where it is the whole graph."""

    node: str
    operator: str
    fault: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.node} ({self.operator})" if self.node else "The graph"
        return f"{place} {self.fault}; {self.remedy}"


class Graph:
    """What the checks ask of a graph: types and constants, by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.types = _types(model)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        stored = ((node, attribute) for node in self.nodes for attribute in node.attribute)
        self.constants |= {n.output[0]: a.t for n, a in stored if n.op_type == "Constant" and a.name == "value"}
        self.made_by = {output: node for node in self.nodes for output in node.output}
        self.inputs = {value.name for value in model.graph.input}
        self.outputs = {value.name for value in model.graph.output}

    def is_kernel_of_deconvolution(self, tensor: str) -> bool:
        """Return whether a ConvTranspose has `tensor` as its weights."""
        return any(node.op_type == "ConvTranspose" and node.input[1] == tensor for node in self.nodes)

    def is_constant(self, tensor: str) -> bool:
        """Return whether `tensor` is known before the build: a constant, quantised or cast perhaps."""
        if tensor in self.constants:
            return True
        node = self.made_by.get(tensor)
        return node is not None and node.op_type in PASSES_CONSTANTS and self.is_constant(node.input[0])

    def value(self, tensor: str) -> np.ndarray[Any, Any] | None:
        """Return the elements of a constant, None where `tensor` is not one."""
        return numpy_helper.to_array(self.constants[tensor]) if tensor in self.constants else None


def check_operators(model: onnx.ModelProto, tensorrt: str) -> tuple[Problem, ...]:
    """Compare a graph with what a TensorRT documents that it reads. Bodies of If and Loop are not looked into.

    Args:
        model: the typed graph that is to be built.
        tensorrt: a version such as ``8.6.1``; of TensorRT-RTX its own, such as ``1.7.1``.

    Returns:
        What is not read, in the order of the nodes; nothing where all of it is.

    Raises:
        BadInput: `tensorrt` is no version, or one from before 8.6.
    """
    parser = find_parser(tensorrt)
    graph = Graph(model)
    problems = [*_opset(model, parser, tensorrt)]
    for node in graph.nodes:
        problems += _operator(node, parser, tensorrt) or [*_types_of(node, graph, parser), *_rest(node, graph, parser)]
    return tuple(problems)


def require_readable(model: onnx.ModelProto, tensorrt: str) -> None:
    """Refuse a graph that a TensorRT does not read.

    Raises:
        BadInput: with the first problem, and how many more there are.
    """
    problems = check_operators(model, tensorrt)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BadInput(f"TensorRT {tensorrt} does not read this graph: {problems[0]}{more}")


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """Return tensor name -> ONNX's name of its type, of the tensors whose type can be inferred."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:  # an operator that ONNX itself does not know: named by its own check
        graph = model.graph
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    return {name: onnx.TensorProto.DataType.Name(kind).lower() for name, kind in found.items() if kind}


def _problem(node: onnx.NodeProto, fault: str, remedy: str) -> Problem:
    return Problem(node.name or f"the node that writes {node.output[0]}", node.op_type, fault, remedy)


def _opset(model: onnx.ModelProto, parser: Parser, tensorrt: str) -> Iterator[Problem]:
    smallest, largest = parser.opset
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not smallest <= opset.version <= largest:
            fault = f"has opset {opset.version}, and TensorRT {tensorrt} reads {smallest} to {largest}"
            yield Problem("", "", fault, f"export it again with opset = {min(17, largest)} in the recipe's [export]")


def _operator(node: onnx.NodeProto, parser: Parser, tensorrt: str) -> list[Problem]:
    quantises = node.op_type in ("QuantizeLinear", "DequantizeLinear")
    if node.domain not in ("", "ai.onnx"):
        fault = f"is an operator of the domain {node.domain}, which TensorRT {tensorrt} does not have"
    elif not quantises and node.op_type not in parser.operators:
        fault = f"is an operator that TensorRT {tensorrt} does not have"
    else:
        return []
    return [_problem(node, fault, "write the network without it, and export it again")]


def _types_of(node: onnx.NodeProto, graph: Graph, parser: Parser) -> Iterator[Problem]:
    if node.op_type in UNTYPED or node.op_type not in parser.operators or not node.input:
        return
    tensor = node.input[DATA_INPUT.get(node.op_type, 0)]
    kind = graph.types.get(tensor, "")
    if kind and parser.reads_as.get(kind, kind) not in parser.operators[node.op_type]:
        remedy = "cast the image to float first" if kind == "uint8" else "cast it to float or float16 before"
        yield _problem(node, f"takes {kind}, which is not read there", remedy)
    elif kind == "uint8" and tensor not in graph.inputs:
        yield _problem(node, "takes uint8 inside the graph", "uint8 is read as the graph's input only: cast that")
    if "uint8" in (graph.types.get(output) for output in node.output if output not in graph.outputs):
        yield _problem(node, "makes uint8 inside the graph", "uint8 is read as the graph's input only: use float")


def _rest(node: onnx.NodeProto, graph: Graph, parser: Parser) -> Iterator[Problem]:
    yield from _attributes(node, parser)
    index = parser.constant_inputs.get(node.op_type, len(node.input))
    if index < len(node.input) and node.input[index] and not graph.is_constant(node.input[index]):
        yield _problem(node, f"computes its input {index} ({node.input[index]})", "make that a constant")
    if node.op_type in parser.first_output_only and any(node.output[1:]):
        yield _problem(
            node, f"has {len(node.output)} outputs, of which only the first is read", "do without the others"
        )
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        yield from _quantisation(node, graph, parser)


def _attributes(node: onnx.NodeProto, parser: Parser) -> Iterator[Problem]:
    allowed = parser.attributes.get(node.op_type, {})
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        value = value.decode() if isinstance(value, bytes) else value
        if attribute.name in allowed and value not in allowed[attribute.name]:
            known = ", ".join(map(str, allowed[attribute.name]))
            yield _problem(node, f"has {attribute.name} = {value}", f"TensorRT reads {known}")


def _quantisation(node: onnx.NodeProto, graph: Graph, parser: Parser) -> Iterator[Problem]:
    quantised = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    kind = graph.types.get(quantised, "")
    if kind == "int32":
        yield _problem(node, "dequantises int32, as quantised biases are", "leave biases in float")
    elif kind and kind not in parser.quantised_types:
        yield _problem(node, f"quantises to {kind}", "quantise to int8, symmetrically: zero point 0")
    yield from _scale(node, graph, parser)
    yield from _zero_point(node, graph, parser)
    yield from _axis(node, graph, parser)


def _scale(node: onnx.NodeProto, graph: Graph, parser: Parser) -> Iterator[Problem]:
    scale = graph.value(node.input[1])
    kind = graph.types.get(node.input[1], "")
    if scale is None:
        yield _problem(node, "has a scale that is computed", "quantise with constant scales")
    elif kind not in parser.scale_types:
        yield _problem(node, f"has a scale of type {kind}", "store the scales as float")
    elif not np.all(scale.astype(np.float32) > 0):
        yield _problem(node, "has a scale that is not positive", "calibrate again")


def _zero_point(node: onnx.NodeProto, graph: Graph, parser: Parser) -> Iterator[Problem]:
    if len(node.input) < 3 or not node.input[2]:
        if parser.zero_point_needed or node.op_type == "QuantizeLinear":
            fault = "has no zero point" if parser.zero_point_needed else "has no zero point, and so quantises to uint8"
            yield _problem(node, fault, "give it one of int8 zeros")
        return
    zero = graph.value(node.input[2])
    if zero is None or np.any(zero.astype(np.float32)):
        yield _problem(node, "has a zero point other than 0", "quantise symmetrically")


def _axis(node: onnx.NodeProto, graph: Graph, parser: Parser) -> Iterator[Problem]:
    scale = graph.value(node.input[1])
    if scale is None or scale.size == 1:
        return
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
    if not graph.is_constant(node.input[0]):
        yield _problem(node, "scales an activation by channel", "scale activations by one number, weights by channel")
    elif axis is None:
        yield _problem(node, "scales by channel and names no axis: ONNX takes 1, TensorRT 0", "name the axis")
    elif parser.deconvolution_axis not in (None, axis) and graph.is_kernel_of_deconvolution(node.output[0]):
        fault = "scales the weights of a ConvTranspose by output channel"
        yield _problem(node, fault, "scale them by one number, or leave that layer in float")
