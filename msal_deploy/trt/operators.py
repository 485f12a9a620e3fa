"""Check whether a version of TensorRT supports an ONNX graph, before anything is built.

TensorRT's own parser checks this too, but only where it is installed, after minutes, and often with an error number.
This check needs neither TensorRT nor a GPU, and names the node.
"""

from collections.abc import Iterator

import msgspec
import numpy as np
import onnx

from msal_deploy.errors import BadInput
from msal_deploy.graph import GraphIndex
from msal_deploy.trt.parser import Parser, find_parser

DATA_INPUT = {"Where": 1}  # the input that the documented types apply to; 0 for all other operators
# Operators whose documented types are not those of an input.
UNTYPED = {"Constant", "ConstantOfShape", "If", "Loop", "OneHot", "Scan"}
UNTYPED |= {"BlackmanWindow", "HammingWindow", "HannWindow"}
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


class Problem(msgspec.Struct, frozen=True):
    """Something in a graph that TensorRT does not support.

    >>> print(Problem("/network/Det", "Det", "is not supported by TensorRT 8.6.1", "remove it"))
    /network/Det (Det) is not supported by TensorRT 8.6.1; remove it

    Attributes:
        node: Name of the node; empty if the problem concerns the whole graph.
        operator: Operator of the node; empty if the problem concerns the whole graph.
        cause: What is wrong, as the rest of a sentence that starts with the node.
        remedy: What to do about it.
    """

    node: str
    operator: str
    cause: str
    remedy: str

    @property
    def subject(self) -> str:
        """Where the problem is: ``/network/Det (Det)``, or ``The graph``."""
        return f"{self.node} ({self.operator})" if self.node else "The graph"

    def __str__(self) -> str:
        return f"{self.subject} {self.cause}; {self.remedy}"


def check_operators(model: onnx.ModelProto, tensorrt: str) -> tuple[Problem, ...]:
    """Compare a graph with the documented support of a TensorRT version. Bodies of If and Loop are not checked.

    >>> from pathlib import Path
    >>> from msal_deploy.graph import load_graph
    >>> check_operators(load_graph(Path("bundle/model.int8.onnx")), "8.6.1")
    ()

    Args:
        model: The typed graph to build.
        tensorrt: A version of TensorRT such as ``8.6.1``, or of TensorRT-RTX such as ``1.7.1``.

    Returns:
        The problems, in the order of the nodes; empty if everything is supported.

    Raises:
        BadInput: `tensorrt` is not a version, or is older than 8.6.
    """
    parser = find_parser(tensorrt)
    graph = GraphIndex(_infer_types(model))
    problems = [*_check_opset(model, parser, tensorrt)]
    for node in graph.nodes:
        unsupported = [*_check_operator(node, parser, tensorrt)]
        problems += unsupported or [*_check_types(node, graph, parser), *_check_inputs(node, graph, parser)]
    return tuple(problems)


def require_readable(model: onnx.ModelProto, tensorrt: str) -> None:
    """Raise `BadInput` with the first problem that `check_operators` finds, if any.

    ::

        require_readable(load_graph(bundle.file("model.fp16.onnx")), "10.4.0")
    """
    problems = check_operators(model, tensorrt)
    if problems:
        first, more = problems[0], f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        cause = f"TensorRT {tensorrt} does not support this graph: {first.subject} {first.cause}{more}"
        raise BadInput(cause, first.remedy)


def _infer_types(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:  # an operator that ONNX does not know; `_check_operator` reports it
        return model


def _problem(node: onnx.NodeProto, cause: str, remedy: str) -> Problem:
    return Problem(node.name or f"the node that writes {node.output[0]}", node.op_type, cause, remedy)


def _check_opset(model: onnx.ModelProto, parser: Parser, tensorrt: str) -> Iterator[Problem]:
    first, last = parser.opset
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not first <= opset.version <= last:
            cause = f"has opset {opset.version}, but TensorRT {tensorrt} supports {first} to {last}"
            remedy = f"export it again with opset = {min(17, last)} in the [export] table of the recipe"
            yield Problem("", "", cause, remedy)


def _check_operator(node: onnx.NodeProto, parser: Parser, tensorrt: str) -> Iterator[Problem]:
    remedy = "replace it in the network and export again"
    if node.domain not in ("", "ai.onnx"):
        yield _problem(node, f"belongs to the domain {node.domain}, which TensorRT {tensorrt} does not support", remedy)
    elif node.op_type not in QUANTISERS and node.op_type not in parser.operators:
        yield _problem(node, f"is not supported by TensorRT {tensorrt}", remedy)


def _check_types(node: onnx.NodeProto, graph: GraphIndex, parser: Parser) -> Iterator[Problem]:
    if node.op_type in UNTYPED or node.op_type not in parser.operators or not node.input:
        return
    tensor = node.input[DATA_INPUT.get(node.op_type, 0)]
    kind = graph.types.get(tensor, "")
    if kind and parser.reads_as.get(kind, kind) not in parser.operators[node.op_type]:
        remedy = "cast the image to float first" if kind == "uint8" else "cast its input to float or float16"
        yield _problem(node, f"takes {kind}, which TensorRT does not support for this operator", remedy)
    elif kind == "uint8" and tensor not in graph.inputs:
        yield _problem(node, "takes uint8 inside the graph", "use uint8 only as the input of the graph")
    if "uint8" in (graph.types.get(output) for output in node.output if output not in graph.outputs):
        yield _problem(node, "writes uint8 inside the graph", "use float instead")


def _check_inputs(node: onnx.NodeProto, graph: GraphIndex, parser: Parser) -> Iterator[Problem]:
    yield from _check_attributes(node, parser)
    index = parser.constant_inputs.get(node.op_type, len(node.input))
    if index < len(node.input) and node.input[index] and not graph.is_constant(node.input[index]):
        yield _problem(node, f"has a computed input {index} ({node.input[index]})", "make that input a constant")
    if node.op_type in parser.first_output_only and any(node.output[1:]):
        cause = f"has {len(node.output)} outputs, of which TensorRT supports the first"
        yield _problem(node, cause, "use only that one")
    if node.op_type in QUANTISERS:
        yield from _check_quantisation(node, graph, parser)


def _check_attributes(node: onnx.NodeProto, parser: Parser) -> Iterator[Problem]:
    allowed = parser.attributes.get(node.op_type, {})
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        value = value.decode() if isinstance(value, bytes) else value
        if attribute.name in allowed and value not in allowed[attribute.name]:
            supported = ", ".join(map(str, allowed[attribute.name]))
            yield _problem(node, f"has {attribute.name} = {value}", f"choose from: {supported}")


def _check_quantisation(node: onnx.NodeProto, graph: GraphIndex, parser: Parser) -> Iterator[Problem]:
    quantised = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    kind = graph.types.get(quantised, "")
    if kind == "int32":
        yield _problem(node, "dequantises int32, the type of a quantised bias", "keep biases in float")
    elif kind and kind not in parser.quantised_types:
        yield _problem(node, f"quantises to {kind}", "quantise to int8 with zero point 0")
    yield from _check_scale(node, graph, parser)
    yield from _check_zero_point(node, graph, parser)
    yield from _check_axis(node, graph, parser)


def _check_scale(node: onnx.NodeProto, graph: GraphIndex, parser: Parser) -> Iterator[Problem]:
    scale = graph.value(node.input[1])
    kind = graph.types.get(node.input[1], "")
    if scale is None:
        yield _problem(node, "has a computed scale", "quantise with constant scales")
    elif kind not in parser.scale_types:
        yield _problem(node, f"has a scale of type {kind}", "store the scales as float")
    elif not np.all(scale.astype(np.float32) > 0):
        yield _problem(node, "has a scale that is not positive", "calibrate again")


def _check_zero_point(node: onnx.NodeProto, graph: GraphIndex, parser: Parser) -> Iterator[Problem]:
    if len(node.input) < 3 or not node.input[2]:
        if parser.zero_point_needed or node.op_type == "QuantizeLinear":
            cause = "has no zero point" if parser.zero_point_needed else "has no zero point, so it quantises to uint8"
            yield _problem(node, cause, "add int8 zero points of 0")
        return
    zero_point = graph.value(node.input[2])
    if zero_point is None or np.any(zero_point.astype(np.float32)):
        yield _problem(node, "has a zero point other than 0", "quantise symmetrically")


def _check_axis(node: onnx.NodeProto, graph: GraphIndex, parser: Parser) -> Iterator[Problem]:
    scale = graph.value(node.input[1])
    if scale is None or scale.size == 1:
        return
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
    if not graph.is_constant(node.input[0]):
        yield _problem(node, "scales an activation per channel", "scale activations per tensor, weights per channel")
    elif axis is None:
        yield _problem(node, "scales per channel without an axis (ONNX assumes 1, TensorRT 0)", "set the axis")
    elif parser.deconvolution_axis not in (None, axis) and graph.is_deconvolution_weight(node.output[0]):
        cause = "scales the weights of a ConvTranspose per output channel"
        yield _problem(node, cause, "scale them per tensor, or keep that layer in float")
