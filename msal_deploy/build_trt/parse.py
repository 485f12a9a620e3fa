"""Parse: the bundle's graph into a TensorRT network, and what the parser says against it in a sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from msal_deploy.errors import BadInput
from msal_deploy.graph import load_graph
from msal_deploy.spec import ModelSpec
from msal_deploy.trt.bindings import Backend
from msal_deploy.trt.operators import require_readable

if TYPE_CHECKING:
    import onnx
    import tensorrt as trt

# What TensorRT's parser says -> what to do about it. The first that is found is taken.
REMEDIES = {
    r"type UInt8|kUINT8|UINT8": "cast the image to float before anything else is done with it",
    r"type Int32 .*Int8|bias.*(Dequantize|DQ)|DequantizeLinear.*INT32": "leave biases in float",
    r"zero.?point": "quantise symmetrically, with zero point 0",
    r"same (input )?types": "both sides must have the same type: cast one of them",
    r"No importer|UNSUPPORTED_NODE|Plugin not found|^false$": "write the network without this operator",
    r"explicit batch": "the network must have an explicit batch",
}
NOISE = (
    r"Invalid Node - \S+\s",
    r"\[checkMacros.*",
    r"In node -?\d+ with name: .*?\(\w+\): ",
    r"In node -?\d+ \(\w+\): ",
    r"\w+::\w+: Error Code \d+: ",
)


def read_graph(path: Path, spec: ModelSpec, backend: Backend) -> onnx.ModelProto:
    """Read a graph that is msal-deploy's and that this TensorRT can read.

    Raises:
        BadInput: it is no ONNX file, one of another network, or has an opset, operator or type that is not read.
    """
    model = load_graph(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    _check_tensor(path, spec.image.name, spec.image.dtype, [t for t in model.graph.input if t.name not in stored])
    _check_tensor(path, spec.probability.name, spec.probability.dtype, list(model.graph.output))
    require_readable(model, backend.version)
    return model


def _check_tensor(path: Path, name: str, dtype: str, tensors: list[onnx.ValueInfoProto]) -> None:
    from onnx.helper import tensor_dtype_to_np_dtype

    if [tensor.name for tensor in tensors] != [name]:
        found = ", ".join(tensor.name for tensor in tensors) or "nothing"
        raise BadInput(
            f"{path} has no {name!r} but {found}; it is not a graph of msal-deploy's: export the bundle again"
        )
    found = str(tensor_dtype_to_np_dtype(tensors[0].type.tensor_type.elem_type))
    if found != dtype:
        raise BadInput(f"{name} of {path} is {found} and not {dtype}; export the bundle again")


def parse(backend: Backend, builder: trt.Builder, path: Path) -> trt.INetworkDefinition:
    """Return the network of an ONNX file, strongly typed where this TensorRT can.

    Raises:
        BadInput: the parser refuses it; the sentence names the node.
    """
    flag = backend.member("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
    if flag is None:  # 8.6
        flag = backend.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    network = builder.create_network(1 << int(flag))
    parser: trt.OnnxParser = backend.trt.OnnxParser(network, backend.messages)
    if parser.parse_from_file(str(path)):
        return network
    said = backend.errors()
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reason = _sentence(errors[0], path) if errors else said
    raise BadInput(f"{backend.name} {backend.version} cannot read {path}: {reason}")


def _sentence(error: trt.ParserError, path: Path) -> str:
    fault = error.desc()
    for noise in NOISE:
        fault = re.sub(noise, "", fault, flags=re.DOTALL)
    fault = re.sub(r"API Usage Error \((.*?)(?: In \w+ at .*)?\)$", r"\1", " ".join(fault.split()))
    remedy = next((what for pattern, what in REMEDIES.items() if re.search(pattern, fault, re.IGNORECASE)), "")
    return f"{_place(error, path)}: {fault or 'no reason is given'}{'; ' + remedy if remedy else ''}"


def _place(error: trt.ParserError, path: Path) -> str:
    """Return name and operator of the node that an error is about."""
    if hasattr(error, "node_name") and error.node_name():
        return f"{error.node_name()} ({error.node_operator()})"
    nodes = load_graph(path).graph.node
    if not 0 <= error.node() < len(nodes):
        return "the graph"
    node = nodes[error.node()]
    return f"{node.name or node.output[0]} ({node.op_type})"
