"""Read the precision of each layer from an engine's description, and compare it with the graph.

This file uses only the standard library and runs with Python 3.9, because ``msal-deploy package ... build-kit`` copies
it into build kits, which have nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

MIN_READ = 0.95  # share of the FLOPs; with less, the description of the engine is not understood
MIN_REQUESTED = 0.5  # share of the FLOPs, for a plan to be called by a precision
WIDTH = {"int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}
# "Half", "Float", or in TensorRT 8 "Two wide channel vectorized row major FP16 format"
PRECISION_OF_FORMAT = {r"\bint8": "int8", r"\bbf16|bfloat": "bf16", r"fp16|half": "fp16", r"fp32|float": "fp32"}
NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
MULTIPLIES = re.compile(r"conv|corr|gemm|matrix|matmul", re.IGNORECASE)
FUSION = re.compile(r"__myl_\w*(Conv|Corr|Deco|Fc|Gemm|MatM)")  # named after its parts, up to four letters each
REFORMATS = re.compile(r"^(Reformat|__myl_(Cast|Conc|Move|Repl|Resh|Slic|Tran)+_)")
LISTED = re.compile(
    r"Name: (?P<Name>.*?), LayerType: (?P<LayerType>\w*), Inputs: \[(?P<Inputs>.*)\], Constants: \[(?P<Weights>.*)\], "
    r"Outputs: .*, TacticName: (?P<TacticName>.*?), StreamId: .*?Metadata: (?P<Metadata>.*)"
)


Source = Literal["inspector", "log", "network"]


class GraphLayer(Protocol):
    """A layer of the graph; `msal_deploy.graph.Layer` is one."""

    @property
    def name(self) -> str:
        """Name of the ONNX node."""

    @property
    def precision(self) -> str:
        """Precision that the graph requests."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""


class LayerPrecisions(NamedTuple):
    """The precision of each layer, from one source.

    Attributes:
        source: ``inspector`` of the loaded engine, ``log`` of its build, or ``network`` before the build.
        precisions: Name of the ONNX node -> ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``unknown``.
        reformats: Number of layers that only change a layout or type; None if the source is the network.
    """

    source: Source
    precisions: dict[str, str]
    reformats: int | None = None


class PrecisionShare(NamedTuple):
    """How much of the network one precision computes."""

    layers: int
    of_layers: float
    of_flops: float


class Mismatch(NamedTuple):
    """How a plan differs from the request: what is wrong, and what to do."""

    cause: str
    remedy: str


def read_inspector_json(text: str) -> LayerPrecisions | None:
    """Read the JSON of the engine inspector, or of ``trtexec --exportLayerInfo``; None if it lists no layers.

    >>> read_inspector_json('{"Layers": ["only", "names"]}')
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        return None
    return read_layers("inspector", [layer for layer in layers if isinstance(layer, dict)])


def read_log(text: str) -> LayerPrecisions | None:
    """Read the list of layers that TensorRT-RTX logs at the end of a build; None if `text` has no such list."""
    matches = [match.groupdict() for match in map(LISTED.fullmatch, text.splitlines()) if match]
    layers = [
        {
            **layer,
            "Inputs": [{"Format/Datatype": kind} for kind in re.findall(r"Datatype: (\w+)", layer["Inputs"])],
            "Weights": {"Type": next(iter(re.findall(r"Datatype: (\w+)", layer["Weights"])), "")},
        }
        for layer in matches
    ]
    return read_layers("log", layers)


def read_layers(source: Source, layers: Sequence[Mapping[str, Any]]) -> LayerPrecisions | None:
    """Read an engine's layers; None if there are none.

    The precision of an ONNX node is the type of the first input of the engine layer that multiplies for it.

    >>> fusion = {"Name": "__myl_Fc_myl0_1", "Inputs": [{"Format/Datatype": "Half"}], "Metadata": "[ONNX Layer: /Gemm]"}
    >>> read_layers("inspector", [fusion]).precisions["/Gemm"]
    'fp16'
    """
    owners: dict[str, tuple[int, str]] = {}
    for layer in layers:
        rank = _rank(layer)
        for node in _nodes(layer):
            # Several layers may name a node: one may add its bias, another may change its layout.
            if rank > owners.get(node, (0, ""))[0]:
                owners[node] = (rank, _precision(layer))
    reformats = sum(any(REFORMATS.match(str(layer.get(key, ""))) for key in ("LayerType", "Name")) for layer in layers)
    precisions = {node: precision for node, (_, precision) in owners.items()}
    return LayerPrecisions(source, precisions, reformats) if layers else None


def _rank(layer: Mapping[str, Any]) -> int:
    """Return 2 for a layer that multiplies, 1 for a fusion in which something multiplies, 0 for all others."""
    if MULTIPLIES.search(f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"):
        return 2
    return 1 if FUSION.match(str(layer.get("Name", ""))) or MULTIPLIES.search(str(layer.get("TacticName", ""))) else 0


def _nodes(layer: Mapping[str, Any]) -> set[str]:
    """Return the ONNX nodes of an engine's layer, which its metadata lists or its name joins with +."""
    return {*NODE.findall(str(layer.get("Metadata", ""))), *re.split(r" \+ | \|\| ", str(layer.get("Name", "")))}


def _precision(layer: Mapping[str, Any]) -> str:
    """Return the first known type among a layer's inputs and weights."""
    inputs = [str(tensor.get("Format/Datatype", "")) for tensor in layer.get("Inputs") or ()]
    for text in (*inputs, str((layer.get("Weights") or {}).get("Type", ""))):
        for pattern, precision in PRECISION_OF_FORMAT.items():
            if re.search(pattern, text, re.IGNORECASE):
                return precision
    return "unknown"


def read_share(graph: Sequence[GraphLayer], precisions: Mapping[str, str]) -> float:
    """Return the share of the FLOPs whose precision is known."""
    known = sum(layer.macs for layer in graph if precisions.get(layer.name, "unknown") != "unknown")
    return known / sum(layer.macs for layer in graph)


def precision_shares(graph: Sequence[GraphLayer], precisions: Mapping[str, str]) -> dict[str, PrecisionShare]:
    """Return precision -> how much of the graph it computes."""
    total = sum(layer.macs for layer in graph)
    groups: dict[str, list[int]] = {}
    for layer in graph:
        groups.setdefault(precisions.get(layer.name, "unknown"), []).append(layer.macs)
    return {
        precision: PrecisionShare(len(macs), len(macs) / len(graph), sum(macs) / total)
        for precision, macs in sorted(groups.items())
    }


def format_flops(shares: Mapping[str, PrecisionShare]) -> str:
    """Format shares of the FLOPs, the largest first.

    >>> format_flops({"fp32": PrecisionShare(1, 0.5, 0.25), "int8": PrecisionShare(1, 0.5, 0.75)})
    '75.0% in int8, 25.0% in fp32'
    """
    largest_first = sorted(shares.items(), key=lambda item: -item[1].of_flops)
    return ", ".join(f"{share.of_flops:.1%} in {precision}" for precision, share in largest_first)


def check_requested(requested: str, graph: Sequence[GraphLayer], precisions: Mapping[str, str]) -> Mismatch | None:
    """Check that a plan computes most of its FLOPs in the requested precision; return None if it does.

    >>> from msal_deploy.graph import Layer
    >>> graph = [Layer("/Conv", "Conv", "", 1000, "int8", 10)]
    >>> check_requested("int8", graph, {"/Conv": "fp32"}).cause
    'was requested in int8, but its FLOPs are 100.0% in fp32, although its graph is int8'
    """
    shares = precision_shares(graph, precisions)
    if requested in shares and shares[requested].of_flops >= MIN_REQUESTED:
        return None
    cause = f"was requested in {requested}, but its FLOPs are {format_flops(shares)}"
    in_graph = precision_shares(graph, {layer.name: layer.precision for layer in graph})
    if requested in in_graph and in_graph[requested].of_flops >= MIN_REQUESTED:
        return Mismatch(f"{cause}, although its graph is {requested}", "choose another precision for this GPU")
    return Mismatch(f"{cause}, as in its graph", f"make the {requested} graph again")


def check_layers(graph: Sequence[GraphLayer], precisions: Mapping[str, str], *, wider: bool) -> Mismatch | None:
    """Check that no layer is computed wider (or, without `wider`, narrower) than in the graph; return None if so."""
    wrong = [layer for layer in graph if _differs(layer.precision, precisions.get(layer.name, ""), wider)]
    if not wrong:
        return None
    flops = sum(layer.macs for layer in wrong) / sum(layer.macs for layer in graph)
    named = [f"{layer.name} in {precisions[layer.name]}, not {layer.precision}" for layer in wrong[:2]]
    more = f"; and {len(wrong) - 2} more" if len(wrong) > 2 else ""
    cause = (
        f"computes {len(wrong)} of {len(graph)} layers ({flops:.1%} of the FLOPs) "
        f"{'wider' if wider else 'narrower'} than its graph ({'; '.join(named)}{more})"
    )
    accept = "accept that with --allow-wider, or choose another precision"
    return Mismatch(cause, accept if wider else "choose another precision")


def _differs(requested: str, actual: str, wider: bool) -> bool:
    if actual not in WIDTH or requested not in WIDTH or actual == requested:
        return False
    return (WIDTH[actual] > WIDTH[requested]) == wider
