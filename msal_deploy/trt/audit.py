"""Audit: read the precision that a plan computes in. Builders fall back to a wider type silently.

There are three sources, the best first:

1. The engine inspector, once the engine can be loaded.
2. The build log of TensorRT-RTX, which builds without a driver but cannot load the engine without one.
3. The network's types. They bind a strongly typed builder, except between QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from msal_deploy.errors import GateFailed
from msal_deploy.trt.bindings import Backend
from msal_deploy.trt.layer_precisions import (
    MIN_READ,
    NODE,
    LayerPrecisions,
    precision_shares,
    read_inspector_json,
    read_share,
)
from msal_deploy.trt.plan_metadata import ActualPrecision, Share

if TYPE_CHECKING:
    import tensorrt as trt

    from msal_deploy.graph import Layer

ARITHMETIC = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED")
PRECISION_OF_DATA_TYPE = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8"}


def read_network(backend: Backend, network: trt.INetworkDefinition) -> LayerPrecisions:
    """Read the types of the layers that multiply.

    A layer whose inputs both come from DequantizeLinear is INT8: TensorRT multiplies before it dequantises.
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
    nodes = NODE.findall(layer.metadata or "")
    return nodes[0] if len(nodes) == 1 else layer.name


def _precision(layer: trt.ILayer, dequantised: set[str]) -> str:
    inputs = [tensor for tensor in (layer.get_input(index) for index in range(min(2, layer.num_inputs))) if tensor]
    if inputs and all(tensor.name in dequantised for tensor in inputs):
        return "int8"
    return PRECISION_OF_DATA_TYPE.get(inputs[0].dtype.name, "unknown") if inputs else "unknown"


def read_inspector(backend: Backend, plan: memoryview) -> LayerPrecisions | None:
    """Load a plan and query its inspector; None if the plan does not load or the inspector lists no layers."""
    runtime: trt.Runtime = backend.trt.Runtime(backend.logger)
    runtime.engine_host_code_allowed = True  # version-compatible plans contain code; this one was built just now
    engine = runtime.deserialize_cuda_engine(plan)
    backend.errors()
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    return read_inspector_json(inspector.get_engine_information(backend.trt.LayerInformationFormat.JSON))


def choose_layer_precisions(graph: Sequence[Layer], sources: Sequence[LayerPrecisions | None]) -> LayerPrecisions:
    """Return the first of `sources` that knows the precision of nearly all of the graph's FLOPs.

    >>> from msal_deploy.graph import Layer
    >>> graph = [Layer("/Conv", "Conv", "", 1000, "fp16", 10)]
    >>> silent, network = LayerPrecisions("inspector", {}), LayerPrecisions("network", {"/Conv": "fp16"})
    >>> choose_layer_precisions(graph, [silent, None, network]).source
    'network'

    Raises:
        GateFailed: None of them does.
    """
    for source in sources:
        if source is not None and read_share(graph, source.precisions) >= MIN_READ:
            return source
    raise GateFailed("The precision of the plan cannot be read from its engine", "use another version of TensorRT")


def actual_precision(graph: Sequence[Layer], layers: LayerPrecisions) -> ActualPrecision:
    """Return how much of the graph each precision computes.

    >>> from msal_deploy.graph import Layer
    >>> graph = [Layer("/Conv", "Conv", "", 1000, "fp16", 10)]
    >>> actual_precision(graph, LayerPrecisions("network", {"/Conv": "fp16"})).shares
    {'fp16': Share(layers=1, of_layers=1.0, of_flops=1.0)}
    """
    shares = precision_shares(graph, layers.precisions)
    return ActualPrecision(layers.source, {name: Share(*share) for name, share in shares.items()}, layers.reformats)
