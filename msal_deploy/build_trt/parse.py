"""Parse the bundle's graph into a TensorRT network, and turn the parser's errors into causes and remedies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from msal_deploy.errors import BadInput
from msal_deploy.graph import check_tensors, load_graph
from msal_deploy.spec import ModelSpec
from msal_deploy.trt.bindings import Backend
from msal_deploy.trt.operators import require_readable

if TYPE_CHECKING:
    import onnx
    import tensorrt as trt

# Pattern in an error of TensorRT's parser -> remedy. The first match is used.
REMEDIES = {
    r"type UInt8|kUINT8|UINT8": "cast the image to float first",
    r"type Int32 .*Int8|bias.*(Dequantize|DQ)|DequantizeLinear.*INT32": "keep biases in float",
    r"zero.?point": "quantise symmetrically, with zero point 0",
    r"same (input )?types": "cast one side, so that both have the same type",
    r"No importer|UNSUPPORTED_NODE|Plugin not found|^false$": "replace this operator in the network",
    r"explicit batch": "create the network with an explicit batch",
}
# Parts of TensorRT's messages that name its own source code.
NOISE = (
    r"Invalid Node - \S+\s",
    r"\[checkMacros.*",
    r"In node -?\d+ with name: .*?\(\w+\): ",
    r"In node -?\d+ \(\w+\): ",
    r"\w+::\w+: Error Code \d+: ",
)


def read_graph(path: Path, spec: ModelSpec, backend: Backend) -> onnx.ModelProto:
    """Read a graph, and check that msal-deploy exported it and that this TensorRT supports it.

    Raises:
        BadInput: The file is not valid ONNX, has other tensors, or has an unsupported opset, operator or type.
    """
    model = load_graph(path)
    check_tensors(model, path, spec)
    require_readable(model, backend.version)
    return model


def parse(backend: Backend, builder: trt.Builder, path: Path) -> trt.INetworkDefinition:
    """Return the network of an ONNX file, strongly typed from TensorRT 10 on.

    Raises:
        BadInput: The parser rejects it; the cause names the node.
    """
    flag = backend.member("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
    if flag is None:  # 8.6
        flag = backend.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    network = builder.create_network(1 << int(flag))
    parser: trt.OnnxParser = backend.trt.OnnxParser(network, backend.logger)
    if parser.parse_from_file(str(path)):
        return network
    logged = backend.errors()
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reason, remedy = _explain(errors[0], path) if errors else (logged, "")
    raise BadInput(f"{backend.name} {backend.version} cannot parse {path}: {reason}", remedy)


def _explain(error: trt.ParserError, path: Path) -> tuple[str, str]:
    """Return the cause and the remedy of a parser error."""
    message = error.desc()
    for noise in NOISE:
        message = re.sub(noise, "", message, flags=re.DOTALL)
    message = re.sub(r"API Usage Error \((.*?)(?: In \w+ at .*)?\)$", r"\1", " ".join(message.split()))
    remedy = next((what for pattern, what in REMEDIES.items() if re.search(pattern, message, re.IGNORECASE)), "")
    return f"{_node(error, path)}: {message.rstrip('.') or 'no message'}", remedy


def _node(error: trt.ParserError, path: Path) -> str:
    """Return the name and the operator of the node that an error refers to."""
    if hasattr(error, "node_name") and error.node_name():
        return f"{error.node_name()} ({error.node_operator()})"
    nodes = load_graph(path).graph.node
    if not 0 <= error.node() < len(nodes):
        return "the graph"
    node = nodes[error.node()]
    return f"{node.name or node.output[0]} ({node.op_type})"
