"""A graph of low precision whose nodes can be returned to float, one by one or in sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from msal_deploy.errors import BadInput
from msal_deploy.graph import EXPORT_AGAIN, GraphIndex
from msal_deploy.validate.bisect.rounding import Affine, Array


class Operand(msgspec.Struct, frozen=True, eq=False):
    """An input of a node that the graph rounds.

    Attributes:
        tensor: Its name in the FP32 graph.
        round: Returns the values that the node gets from the FP32 values. For weights, those stored in the graph.
        affine: The rounding of an INT8 activation, or None.
    """

    tensor: str
    round: Callable[[Array], Array]
    affine: Affine | None = None


class LowPrecisionGraph(ABC):
    """An FP16 or INT8 graph beside the FP32 graph that it was made from; nodes correspond by name.

    Args:
        model: The graph of low precision; it is not changed.
        source: The FP32 graph.

    Attributes:
        model: The same graph.
        source: The FP32 graph.
        operands: Node -> its operands that are rounded, for the nodes that can be returned to float, in the order of
            the graph.

    Raises:
        BadInput: A node or its weights are not in the FP32 graph, so the graph was made from another one.
    """

    def __init__(self, model: onnx.ModelProto, source: onnx.ModelProto) -> None:
        self.model, self.source = model, source
        self.index, self.source_index = GraphIndex(model), GraphIndex(source)
        self._source_nodes = {node.name: node for node in source.graph.node}
        found = {node.name: self._rounded(node) for node in self.index.nodes if self._can_return(node)}
        self.operands = {name: operands for name, operands in found.items() if operands}

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that can be returned to float."""
        return tuple(self.operands)

    def output(self, node: str) -> str:
        """Return the name of a node's output, which is the same in both graphs."""
        return str(self._source_nodes[node].output[0])

    def inputs(self, node: str) -> tuple[str, ...]:
        """Return the names of a node's inputs in the FP32 graph that are not constant."""
        return tuple(
            name for name in self._source_nodes[node].input if name and not self.source_index.is_constant(name)
        )

    @abstractmethod
    def returned(self, nodes: Collection[str]) -> onnx.ModelProto:
        """Return a copy of the graph in which `nodes` are computed in float, from FP32 weights."""

    @abstractmethod
    def _can_return(self, node: onnx.NodeProto) -> bool: ...

    @abstractmethod
    def _rounded(self, node: onnx.NodeProto) -> tuple[Operand, ...]: ...

    def source_node(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Return the node of the same name in the FP32 graph."""
        source: onnx.NodeProto | None = self._source_nodes.get(node.name)
        if source is None or source.op_type != node.op_type or len(source.input) != len(node.input):
            raise BadInput(f"{node.op_type} {node.name} is not in the FP32 graph of the bundle", EXPORT_AGAIN)
        return source

    def source_weights(self, name: str, shape: tuple[int, ...], node: str) -> Array:
        """Return the FP32 weights `name`."""
        weights = self.source_index.value(name)
        if weights is None or weights.shape != shape:
            raise BadInput(f"The weights of {node} have another shape than in the FP32 graph", EXPORT_AGAIN)
        return weights


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph, without the types of inner tensors, which an edit may change."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return copy


def add_constant(graph: onnx.GraphProto, name: str, values: Array) -> str:
    """Add FP32 values to a graph under the name ``<name>/float``, once, and return that name."""
    name = f"{name}/float"
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
    return name


def drop_unused(graph: onnx.GraphProto, kinds: Collection[str]) -> None:
    """Remove nodes of these operators whose output nothing reads, then the constants that nothing reads."""
    used = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):  # consumers first
        if node.op_type not in kinds or used.intersection(node.output):
            kept.append(node)
            used.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
