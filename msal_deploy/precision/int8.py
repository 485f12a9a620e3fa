"""FP32 graph -> INT8 graph with explicit Q/DQ, by ONNX Runtime's quantiser and TensorRT's rules.

The rules (TensorRT Developer Guide, "Working with Quantized Types"): symmetric, zero point 0; weights a scale for each
channel, but of a ConvTranspose one for all, since TensorRT changed which axis it reads; biases stay in float, because
an int32 DequantizeLinear does not parse; both operands of a residual sum are quantised, and no Conv's result by itself.
"""

import contextlib
import io
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from msal_deploy.errors import BadInput
from msal_deploy.graph import is_quantised, layers, load_graph

Form = Literal["s8s8", "u8s8"]

OPERATORS = ("Conv", "ConvTranspose", "Add", "MaxPool")
# ONNX Runtime's kernels want the results quantised too, and activations without a sign: a graph of its own.
OPERATORS_U8S8 = (*OPERATORS, "Mul", "GlobalAveragePool", "Relu")
MIN_SHARE = 1e-4  # of the multiply-accumulates: a layer with less (channel attention's) gains nothing from INT8


def quantisable(graph: Path) -> tuple[str, ...]:
    """Return the names of the nodes that INT8 pays for, in the graph's order.

    Raises:
        BadInput: the graph is quantised already, or has a node without a name.
    """
    model = load_graph(graph)
    if is_quantised(model):
        raise BadInput(f"{graph.name} is quantised already; give the FP32 graph that export wrote")
    if not all(node.name for node in model.graph.node):
        raise BadInput(f"{graph.name} has nodes without names, which cannot be chosen by name; export it again")
    found = layers(model)
    total = sum(layer.macs for layer in found)
    tiny = {layer.name for layer in found if layer.macs < MIN_SHARE * total}
    return tuple(n.name for n in model.graph.node if n.op_type in OPERATORS and n.name not in tiny)


def to_int8(graph: Path, ranges: Any, nodes: Collection[str], form: Form = "s8s8") -> onnx.ModelProto:
    """Return the INT8 graph in which `nodes` are quantised and all else is FP32.

    Args:
        graph: the FP32 graph's file.
        ranges: what `ranges.calibrate` gave.
        nodes: names from `quantisable`.
        form: ``s8s8`` for TensorRT and OpenVINO; ``u8s8``, with unsigned activations, for ONNX Runtime's CPU kernels.

    Raises:
        BadInput: an activation was constant on all tiles, so that it has no scale.
    """
    signed = form == "s8s8"
    if not nodes:  # the quantiser takes an empty list for all
        return load_graph(graph)
    model = load_model_with_shape_infer(graph)
    chosen = set(nodes) if signed else _with_followers(model, nodes)
    _require_spread(model, ranges, chosen)
    options = {
        "ActivationSymmetric": signed,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": list(OPERATORS) if signed else [],
        "TensorQuantOverrides": {
            node.input[1]: [{"quant_type": QuantType.QInt8}]
            for node in model.graph.node
            if node.op_type == "ConvTranspose" and node.name in chosen
        },
    }
    activation = QuantType.QInt8 if signed else QuantType.QUInt8
    quantizer = QDQQuantizer(
        model, True, False, QuantType.QInt8, activation, ranges, sorted(chosen), [], list(OPERATORS_U8S8), options
    )
    with _quiet():
        quantizer.quantize_model()
    _bypass_qdq(quantizer.model.model.graph, chosen)
    quantizer.model.topological_sort()
    finished: onnx.ModelProto = quantizer.model.model
    return finished


def _with_followers(model: onnx.ModelProto, nodes: Collection[str]) -> set[str]:
    """Return `nodes` with the activations, sums and pools behind them, as far as they go in INT8."""
    chosen, followers = set(nodes), {"Relu", "Mul", "GlobalAveragePool"}
    quantised = {output for node in model.graph.node if node.name in chosen for output in node.output}
    for node in model.graph.node:
        if node.op_type in followers and quantised.intersection(node.input):
            chosen.add(node.name)
            quantised.update(node.output)
    return chosen


def _require_spread(model: onnx.ModelProto, ranges: Any, chosen: Collection[str]) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        for tensor in node.input if node.name in chosen else ():
            if tensor and tensor not in weights and tensor in ranges and not _spreads(ranges[tensor]):
                raise BadInput(
                    f"The input of {node.name} is the same everywhere on all calibration tiles, so it has no scale; "
                    "calibrate on images of tissue"
                )


def _spreads(data: Any) -> bool:
    low, high = (float(np.asarray(value).reshape(-1)[0]) for value in data.range_value)
    return bool(np.isfinite([low, high]).all()) and high > low


def _bypass_qdq(graph: onnx.GraphProto, chosen: Collection[str]) -> None:
    """Give the nodes that stay in float the tensors themselves: the quantiser rounds them for every reader."""
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.name in chosen or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for index, tensor in enumerate(node.input):
            if (dequantise := makers.get(tensor)) is not None and dequantise.op_type == "DequantizeLinear":
                quantise = makers.get(dequantise.input[0])
                if quantise is not None:
                    node.input[index] = quantise.input[0]
    _drop_unused(graph)


def _drop_unused(graph: onnx.GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    for kind in ("DequantizeLinear", "QuantizeLinear"):  # in this order: the first reads the second
        used = outputs.union(*(node.input for node in graph.node))
        for node in [node for node in graph.node if node.op_type == kind and node.output[0] not in used]:
            graph.node.remove(node)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's advice on pre-processing: export has folded and named everything already."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(before)
