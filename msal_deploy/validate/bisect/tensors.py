"""Compare the inner tensors of a graph of low precision with those of the FP32 graph, by Polygraphy.

The graph runs on ONNX Runtime, or on TensorRT if the engine is TensorRT's and there is a GPU. TensorRT fuses fewer
layers when inner tensors are outputs, so its tensors come close to those of the plan, but need not equal them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx

from msal_deploy.data import Patch
from msal_deploy.errors import translate_missing_extra
from msal_deploy.fp16_emulation import emulate_fp16
from msal_deploy.validate.bisect.graphs import LowPrecisionGraph, Operand
from msal_deploy.validate.bisect.rounding import Array, added, combined, relative_rms

if TYPE_CHECKING:
    from msal_deploy.spec import UInt8Images

COMPARED_IMAGES = 4
COMPARED_SIZE = 256  # pixels; the inner tensors of four such crops take about 0.5 GB


class NodeError(msgspec.Struct, frozen=True):
    """The error of one node, on a few crops.

    Attributes:
        node: Name of the node.
        tensor: Its operand, an activation or weights, that loses most by rounding.
        rounding_error: Relative RMS error of its operands by rounding alone, given the values of the FP32 graph.
        scale_ratio: Scale of `tensor`, relative to the smallest scale that clips no value; None if it is not INT8 or
            holds weights.
        tensor_error: Relative RMS error of its output in the whole graph, against the FP32 graph.
        added_error: Part of `tensor_error` that its inputs did not have.
    """

    node: str
    tensor: str
    rounding_error: float
    scale_ratio: float | None
    tensor_error: float
    added_error: float


def compare_tensors(graph: LowPrecisionGraph, images: UInt8Images, *, on_gpu: bool = False) -> tuple[NodeError, ...]:
    """Return the errors of all nodes that can be returned to float, in the order of the graph.

    >>> from msal_deploy.validate.bisect.int8 import Int8Graph
    >>> graph = Int8Graph(onnx.load("bundle/model.int8.onnx"), onnx.load("bundle/model.fp32.onnx"))
    >>> images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    >>> [error.tensor for error in compare_tensors(graph, images)]
    ['x0', 'x1', 'x2']

    Args:
        graph: The graph, beside its FP32 graph.
        images: uint8[N,H,W,3], see `crops`.
        on_gpu: Run the graph on TensorRT instead of ONNX Runtime.

    Raises:
        MissingExtra: Polygraphy, or TensorRT's bindings, are not installed.
    """
    tensors = _tensors(graph)
    with translate_missing_extra(), _quiet():
        from polygraphy.comparator import Comparator

        runners = [_onnx_runtime(graph.source, tensors), _low_precision(graph, tensors, images.shape, on_gpu)]
        results = Comparator.run(runners, data_loader=[{graph.source.graph.input[0].name: images}])
    (_, (expected,)), (_, (actual,)) = results.items()
    errors = {name: relative_rms(actual[name], expected[name]) for name in tensors}
    return tuple(_node_error(graph, node, errors, expected) for node in graph.nodes)


def crops(patches: Sequence[Patch], images: int = COMPARED_IMAGES, size: int = COMPARED_SIZE) -> UInt8Images:
    """Return crops of the first patches of different images, uint8[N,S,S,3].

    >>> patch = Patch("a", "top-left", np.zeros((512, 512, 3), np.uint8), np.zeros((512, 512), bool))
    >>> crops([patch, patch]).shape
    (1, 256, 256, 3)
    """
    first: dict[str, Patch] = {}
    for patch in patches:
        first.setdefault(patch.stem, patch)
    chosen = list(first.values())[:images]
    height, width = (min(size, *extents) for extents in zip(*(p.image.shape[:2] for p in chosen), strict=True))
    return np.stack([patch.image[:height, :width] for patch in chosen])


def _tensors(graph: LowPrecisionGraph) -> list[str]:
    """Return the inputs and outputs of all nodes that can be returned, which both graphs compute."""
    produced = graph.index.producers.keys() & graph.source_index.producers.keys()
    names = [name for node in graph.nodes for name in (*graph.inputs(node), graph.output(node))]
    return [name for name in dict.fromkeys(names) if name in produced]


def _node_error(
    graph: LowPrecisionGraph, node: str, errors: Mapping[str, float], expected: Mapping[str, Array]
) -> NodeError:
    operands = graph.operands[node]
    values = [_fp32(graph, operand, expected) for operand in operands]
    losses = [relative_rms(operand.round(fp32), fp32) for operand, fp32 in zip(operands, values, strict=True)]
    worst = int(np.argmax(losses))
    affine = operands[worst].affine
    return NodeError(
        node,
        operands[worst].tensor,
        combined(losses),
        affine.scale_ratio(values[worst]) if affine else None,
        errors[graph.output(node)],
        added(errors[graph.output(node)], [errors.get(name, 0.0) for name in graph.inputs(node)]),
    )


def _fp32(graph: LowPrecisionGraph, operand: Operand, expected: Mapping[str, Array]) -> Array:
    weights = graph.source_index.value(operand.tensor)
    return expected[operand.tensor] if weights is None else weights


def _onnx_runtime(model: onnx.ModelProto, tensors: Sequence[str]) -> Any:
    from polygraphy.backend.onnx import BytesFromOnnx, ModifyOutputs
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx

    return OnnxrtRunner(SessionFromOnnx(BytesFromOnnx(ModifyOutputs(model, outputs=list(tensors), copy=True))))


def _low_precision(graph: LowPrecisionGraph, tensors: Sequence[str], shape: tuple[int, ...], on_gpu: bool) -> Any:
    if on_gpu:
        return _tensorrt(graph.model, tensors, shape)
    return _onnx_runtime(emulate_fp16(graph.model), tensors)  # an INT8 graph has no FP16 tensor to emulate


def _tensorrt(model: onnx.ModelProto, tensors: Sequence[str], shape: tuple[int, ...]) -> Any:
    """Return a runner that builds an engine at one shape, strongly typed: the graph alone sets the precision."""
    from polygraphy.backend.onnx import BytesFromOnnx
    from polygraphy.backend.trt import (
        CreateConfig,
        EngineFromNetwork,
        ModifyNetworkOutputs,
        NetworkFromOnnxBytes,
        Profile,
        TrtRunner,
    )

    network = NetworkFromOnnxBytes(BytesFromOnnx(model), strongly_typed=True)
    profile = Profile().add(model.graph.input[0].name, min=shape, opt=shape, max=shape)
    marked = ModifyNetworkOutputs(network, outputs=list(tensors))
    return TrtRunner(EngineFromNetwork(marked, config=CreateConfig(profiles=[profile])))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Polygraphy's log off stdout, where results are printed."""
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield
