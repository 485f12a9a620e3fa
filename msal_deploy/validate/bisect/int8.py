"""Return nodes of an INT8 graph to float: read their inputs before Q/DQ, and their weights from the FP32 graph.

A Q/DQ pair rounds a tensor for its consumers. It is bypassed for the nodes that are returned, and stays for all other
consumers. So a wrong scale belongs to the nodes that read the tensor.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import helper

from msal_deploy.graph import GraphIndex, attribute
from msal_deploy.validate.bisect.graphs import LowPrecisionGraph, Operand, add_constant, copy_of, drop_unused
from msal_deploy.validate.bisect.rounding import Affine, Array

QDQ = ("QuantizeLinear", "DequantizeLinear")


class Int8Graph(LowPrecisionGraph):
    """An INT8 graph with explicit Q/DQ nodes.

    >>> graph = Int8Graph(onnx.load("bundle/model.int8.onnx"), onnx.load("bundle/model.fp32.onnx"))
    >>> graph.nodes
    ('/network/encoder1/Conv', '/network/encoder2/Conv', '/network/head/Conv')
    >>> from msal_deploy.graph import int8_share
    >>> from msal_deploy.graph import layers
    >>> [layer.precision for layer in layers(graph.returned(["/network/head/Conv"]))]
    ['int8', 'int8', 'fp32']
    """

    def __init__(self, model: onnx.ModelProto, source: onnx.ModelProto) -> None:
        super().__init__(_with_activations(model, source), source)

    def returned(self, nodes: Collection[str]) -> onnx.ModelProto:
        """Return a copy of the graph in which `nodes` read unrounded inputs and FP32 weights."""
        model = copy_of(self.model)
        for node in model.graph.node:
            if node.name in nodes:
                for index, tensor in enumerate(node.input):
                    if self.index.is_dequantised(tensor):
                        node.input[index] = self._unrounded(model.graph, node, index)
        drop_unused(model.graph, QDQ)
        return model

    def _unrounded(self, graph: onnx.GraphProto, node: onnx.NodeProto, index: int) -> str:
        quantised = self.index.producers[node.input[index]].input[0]
        if quantised not in self.index.constants:
            return str(self.index.producers[quantised].input[0])
        name = self.source_node(node).input[index]
        return add_constant(graph, name, self.source_weights(name, self.index.shapes[quantised], node.name))

    def _can_return(self, node: onnx.NodeProto) -> bool:
        return node.op_type not in QDQ and any(map(self.index.is_dequantised, node.input))

    def _rounded(self, node: onnx.NodeProto) -> tuple[Operand, ...]:
        source = self.source_node(node)
        return tuple(
            self._operand(self.index.producers[tensor], source.input[index])
            for index, tensor in enumerate(node.input)
            if self.index.is_dequantised(tensor)
        )

    def _operand(self, dequantise: onnx.NodeProto, name: str) -> Operand:
        if dequantise.input[0] in self.index.constants:
            stored = _dequantised(self.index, dequantise)
            return Operand(name, lambda _: stored)
        affine = _affine(self.index, dequantise)
        return Operand(name, affine.round, affine)


def _affine(index: GraphIndex, dequantise: onnx.NodeProto) -> Affine:
    scale, zero = _scale(index, dequantise)
    limits = np.iinfo(zero.dtype)
    return Affine(float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), int(limits.min), int(limits.max))


def _scale(index: GraphIndex, dequantise: onnx.NodeProto) -> tuple[Any, Any]:
    """Return the scale and the zero point, whose type is that of the integers."""
    scale = index.value(dequantise.input[1])
    zero = index.value(dequantise.input[2]) if len(dequantise.input) > 2 else None
    return scale, np.uint8(0) if zero is None else zero


def _dequantised(index: GraphIndex, dequantise: onnx.NodeProto) -> Array:
    values, (scale, zero) = index.value(dequantise.input[0]), _scale(index, dequantise)
    assert values is not None
    if scale.ndim and scale.size > 1:  # one for each channel
        shape = [1] * values.ndim
        shape[attribute(dequantise, "axis", 1)] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape) if np.ndim(zero) else zero
    return np.asarray((values.astype(np.float32) - np.asarray(zero, np.float32)) * scale)


def _with_activations(model: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` with the Relu nodes that quantisation to uint8 replaces by clipping at 0."""
    copy, producers = copy_of(model), {node.output[0]: node for node in source.graph.node}
    nodes = []
    for node in copy.graph.node:
        nodes.append(node)
        relu = producers.get(node.output[0])
        if relu is not None and relu.op_type == "Relu" and node.op_type not in ("Relu", *QDQ):
            nodes.append(helper.make_node("Relu", [relu.input[0]], [relu.output[0]], name=relu.name))
            node.output[0] = relu.input[0]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    drop_unused(copy.graph, ())
    return copy
