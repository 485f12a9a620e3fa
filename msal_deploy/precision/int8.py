"""Quantise an FP32 graph to INT8 with explicit Q/DQ nodes: ONNX Runtime's quantiser, TensorRT's rules.

The rules (TensorRT Developer Guide, "Working with Quantized Types"): Quantisation is symmetric, with zero point 0.
Weights are quantised per channel, except ConvTranspose (per tensor: TensorRT changed the axis it reads). Biases stay
FP32, because TensorRT cannot parse an INT32 DequantizeLinear. Both inputs of a residual Add are quantised; convolution
outputs are not.
"""

import contextlib
import io
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from msal_deploy.errors import BadInput
from msal_deploy.graph import is_quantised, layers, load_graph

Form = Literal["s8s8", "u8s8"]


class Rule(msgspec.Struct, frozen=True):
    """How an operator is quantised.

    Attributes:
        follows: False if its nodes are quantised by name, in both forms. True if they are quantised whenever an input
            is INT8, in ``u8s8`` only: ONNX Runtime's CPU kernels also need quantised outputs.
        per_channel: Whether its weights have one scale per channel, or one per tensor.
    """

    follows: bool = False
    per_channel: bool = True


OPERATORS = {
    "Conv": Rule(),
    "ConvTranspose": Rule(per_channel=False),
    "Add": Rule(),
    "MaxPool": Rule(),
    "Mul": Rule(follows=True),
    "GlobalAveragePool": Rule(follows=True),
    "Relu": Rule(follows=True),
}
SELECTABLE = [operator for operator, rule in OPERATORS.items() if not rule.follows]
MIN_SHARE = 1e-4  # of all multiply-accumulates; a smaller layer (in channel attention) gains nothing from INT8


def quantisable(graph: Path) -> tuple[str, ...]:
    """Return the names of the nodes that gain from INT8, in the graph's order.

    >>> quantisable(Path("bundle/model.fp32.onnx"))
    ('/network/encoder1/Conv', '/network/encoder2/Conv', '/network/head/Conv')

    Raises:
        BadInput: The graph is already quantised, or has a node without a name.
    """
    model = load_graph(graph)
    if is_quantised(model):
        raise BadInput(f"{graph.name} is already quantised", "use the FP32 graph that export wrote")
    if not all(node.name for node in model.graph.node):
        raise BadInput(f"{graph.name} has nodes without names", "export the bundle again")
    counted = layers(model)
    total = sum(layer.macs for layer in counted)
    small = {layer.name for layer in counted if layer.macs < MIN_SHARE * total}
    return tuple(n.name for n in model.graph.node if n.op_type in SELECTABLE and n.name not in small)


def to_int8(graph: Path, ranges: Any, nodes: Collection[str], form: Form = "s8s8") -> onnx.ModelProto:
    """Return the INT8 graph in which `nodes` are quantised and all other nodes are FP32.

    >>> from msal_deploy.data import find_dataset
    >>> from msal_deploy.precision.calibrate import calibrate
    >>> from msal_deploy.precision.calibration_tiles import select_tiles, tissue_tiles
    >>> graph = Path("bundle/model.fp32.onnx")
    >>> ranges = calibrate(graph, select_tiles(tissue_tiles(find_dataset(Path("monuseg")).train), 2))
    >>> model = to_int8(graph, ranges, quantisable(graph))
    >>> [layer.precision for layer in layers(model)]
    ['int8', 'int8', 'int8']

    Args:
        graph: File of the FP32 graph.
        ranges: The ranges that `calibrate` returned.
        nodes: Names from `quantisable`.
        form: ``s8s8`` for TensorRT and OpenVINO; ``u8s8``, with unsigned activations, for ONNX Runtime's CPU kernels.

    Raises:
        BadInput: An activation is constant on all calibration tiles, so that it has no scale.
    """
    signed = form == "s8s8"
    if not nodes:  # the quantiser would quantise all nodes
        return load_graph(graph)
    model = load_model_with_shape_infer(graph)
    quantised = set(nodes) if signed else _with_followers(model, nodes)
    _require_spread(model, ranges, quantised)
    options = {
        "ActivationSymmetric": signed,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": SELECTABLE if signed else [],
        "TensorQuantOverrides": {
            node.input[1]: [{"quant_type": QuantType.QInt8}]
            for node in model.graph.node
            if node.name in quantised and not OPERATORS[node.op_type].per_channel
        },
    }
    activation = QuantType.QInt8 if signed else QuantType.QUInt8
    quantizer = QDQQuantizer(
        model, True, False, QuantType.QInt8, activation, ranges, sorted(quantised), [], list(OPERATORS), options
    )
    with _quiet():
        quantizer.quantize_model()
    _bypass_qdq(quantizer.model.model.graph, quantised)
    quantizer.model.topological_sort()
    finished: onnx.ModelProto = quantizer.model.model
    return finished


def _with_followers(model: onnx.ModelProto, nodes: Collection[str]) -> set[str]:
    """Return `nodes` and the nodes that follow them in INT8 (see `Rule`)."""
    names = set(nodes)
    tensors = {output for node in model.graph.node if node.name in names for output in node.output}
    for node in model.graph.node:
        if OPERATORS.get(node.op_type, Rule()).follows and tensors.intersection(node.input):
            names.add(node.name)
            tensors.update(node.output)
    return names


def _require_spread(model: onnx.ModelProto, ranges: Any, quantised: Collection[str]) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        for tensor in node.input if node.name in quantised else ():
            if tensor and tensor not in weights and tensor in ranges and not _has_spread(ranges[tensor]):
                raise BadInput(
                    f"The input of {node.name} is constant on all calibration tiles", "calibrate on images of tissue"
                )


def _has_spread(data: Any) -> bool:
    low, high = (float(np.asarray(value).reshape(-1)[0]) for value in data.range_value)
    return bool(np.isfinite([low, high]).all()) and high > low


def _bypass_qdq(graph: onnx.GraphProto, quantised: Collection[str]) -> None:
    """Connect float nodes to the unrounded tensors, because the quantiser rounds a tensor for all its consumers."""
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.name in quantised or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for index, tensor in enumerate(node.input):
            if (dequantise := makers.get(tensor)) is not None and dequantise.op_type == "DequantizeLinear":
                quantise = makers.get(dequantise.input[0])
                if quantise is not None:
                    node.input[index] = quantise.input[0]
    _drop_unused(graph)


def _drop_unused(graph: onnx.GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    for kind in ("DequantizeLinear", "QuantizeLinear"):  # in this order: the first consumes the second
        used = outputs.union(*(node.input for node in graph.node))
        for node in [node for node in graph.node if node.op_type == kind and node.output[0] not in used]:
            graph.node.remove(node)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the quantiser's advice on pre-processing: export has already folded and named all nodes."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(before)
