"""LayerPrecisions: in which precision does each layer compute? Three sources, the best first.

The engine inspector knows, once the engine can be loaded. TensorRT-RTX builds without a driver and loads only with one,
but ends its build with a list of the engine's layers in the log. Otherwise there are the types of the network, which
bind the builder where it is strongly typed, except for what lies between QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from msal_deploy.trt.bindings import Backend

if TYPE_CHECKING:
    import tensorrt as trt

ARITHMETIC = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED")
PRECISION_OF_DATA_TYPE = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8"}
# "Half", "Float", or in TensorRT 8 "Two wide channel vectorized row major FP16 format"
PRECISION_OF_FORMAT = {r"\bint8": "int8", r"\bbf16|bfloat": "bf16", r"fp16|half": "fp16", r"fp32|float": "fp32"}
NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
MULTIPLIES = re.compile(r"conv|corr|gemm|matrix|matmul", re.IGNORECASE)
FUSION = re.compile(r"__myl_\w*(Conv|Corr|Deco|Fc|Gemm|MatM)")  # named by what it fuses, four letters each
REFORMATS = re.compile(r"^(Reformat|__myl_(Cast|Conc|Move|Repl|Resh|Slic|Tran)+_)")
LISTED = re.compile(
    r"Name: (?P<Name>.*?), LayerType: (?P<LayerType>\w*), Inputs: \[(?P<Inputs>.*)\], Constants: \[(?P<Weights>.*)\], "
    r"Outputs: .*, TacticName: (?P<TacticName>.*?), StreamId: .*?Metadata: (?P<Metadata>.*)"
)


class LayerPrecisions(msgspec.Struct, frozen=True):
    """What a source says: ONNX node -> precision, and how many layers only change layout or type."""

    source: Literal["inspector", "log", "network"]
    precisions: dict[str, str]
    reformats: int | None = None


def read_network(backend: Backend, network: trt.INetworkDefinition) -> LayerPrecisions:
    """Read the types of the layers that multiply.

    A layer whose inputs both come from DequantizeLinear is INT8: it is meant to multiply before it dequantises.
    """
    kinds = {backend.member("LayerType", name) for name in ARITHMETIC} - {None}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantised = {
        tensor.name for layer in layers if layer.type == backend.trt.LayerType.DEQUANTIZE for tensor in _outputs(layer)
    }
    return LayerPrecisions(
        "network", {_node(layer): _precision(layer, dequantised) for layer in layers if layer.type in kinds}
    )


def _outputs(layer: trt.ILayer) -> Iterable[trt.ITensor]:
    return filter(None, (layer.get_output(index) for index in range(layer.num_outputs)))


def _node(layer: trt.ILayer) -> str:
    found = NODE.findall(layer.metadata or "")
    return found[0] if len(found) == 1 else layer.name


def _precision(layer: trt.ILayer, dequantised: set[str]) -> str:
    inputs = [tensor for tensor in (layer.get_input(index) for index in range(min(2, layer.num_inputs))) if tensor]
    if inputs and all(tensor.name in dequantised for tensor in inputs):
        return "int8"
    return PRECISION_OF_DATA_TYPE.get(inputs[0].dtype.name, "unknown") if inputs else "unknown"


def read_inspector(backend: Backend, plan: memoryview) -> LayerPrecisions | None:
    """Load a plan and ask its inspector; None where it cannot be loaded or says nothing."""
    runtime: trt.Runtime = backend.trt.Runtime(backend.messages)
    runtime.engine_host_code_allowed = True  # ours, built a moment ago; version-compatible plans carry code
    engine = runtime.deserialize_cuda_engine(plan)
    backend.errors()
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(backend.trt.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        return None
    return read_layers("inspector", [layer for layer in layers if isinstance(layer, dict)])


def read_log(text: str) -> LayerPrecisions | None:
    """Read the list of layers from a build's log; None where there is none."""
    found = [match.groupdict() for match in map(LISTED.fullmatch, text.splitlines()) if match]
    layers = [
        layer
        | {"Inputs": [{"Format/Datatype": kind} for kind in re.findall(r"Datatype: (\w+)", layer["Inputs"])]}
        | {"Weights": {"Type": next(iter(re.findall(r"Datatype: (\w+)", layer["Weights"])), "")}}
        for layer in found
    ]
    return read_layers("log", layers)


def read_layers(source: Literal["inspector", "log"], layers: Sequence[Mapping[str, Any]]) -> LayerPrecisions | None:
    """Read an engine's layers: a node has the type of the first input of the layer that multiplies for it."""
    owners: dict[str, tuple[int, str]] = {}
    for layer in layers:
        rank = _rank(layer)
        for node in _nodes(layer):
            # Several layers may name a node: one adds its bias, another one changes its layout.
            if rank > owners.get(node, (0, ""))[0]:
                owners[node] = (rank, _format(layer))
    reformats = sum(any(REFORMATS.match(str(layer.get(key, ""))) for key in ("LayerType", "Name")) for layer in layers)
    return (
        LayerPrecisions(source, {node: precision for node, (_, precision) in owners.items()}, reformats)
        if layers
        else None
    )


def _rank(layer: Mapping[str, Any]) -> int:
    """Return 2 for a layer that multiplies, 1 for a fusion in which something does, 0 for the others."""
    if MULTIPLIES.search(f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"):
        return 2
    return 1 if FUSION.match(str(layer.get("Name", ""))) or MULTIPLIES.search(str(layer.get("TacticName", ""))) else 0


def _nodes(layer: Mapping[str, Any]) -> set[str]:
    """Return the ONNX nodes of an engine's layer: named in its metadata, or joined by + in its name."""
    return {*NODE.findall(str(layer.get("Metadata", ""))), *re.split(r" \+ | \|\| ", str(layer.get("Name", "")))}


def _format(layer: Mapping[str, Any]) -> str:
    inputs = [str(tensor.get("Format/Datatype", "")) for tensor in layer.get("Inputs") or ()]
    for text in (*inputs, str((layer.get("Weights") or {}).get("Type", ""))):
        for pattern, precision in PRECISION_OF_FORMAT.items():
            if re.search(pattern, text, re.IGNORECASE):
                return precision
    return "unknown"
