"""Kernels: what a runtime made of a graph, and how long each part takes."""

from collections.abc import Iterator

import msgspec
import onnx

from msal_deploy.graph import ARITHMETIC, GraphIndex


class Kernel(msgspec.Struct, frozen=True):
    """A kernel of a runtime. It often computes several nodes of the graph.

    Attributes:
        name: The runtime's name of the kernel.
        kind: The runtime's name of the operator, such as ``QLinearConv``.
        milliseconds: Mean time of one call in ms, with the runtime's profiler on.
        nodes: Nodes of the graph that it computes, by name, as far as the runtime says.
    """

    name: str
    kind: str
    milliseconds: float
    nodes: tuple[str, ...] = ()


class LayerNames:
    """Finds the layer that a kernel of ONNX Runtime computes.

    A fused kernel is named by one of its nodes or by the tensor that it writes, which may belong to the activation
    after the layer; and optimisations add suffixes to either.

    >>> from onnx import helper
    >>> nodes = [helper.make_node("Conv", ["x", "w"], ["s"], "conv"), helper.make_node("Relu", ["s"], ["y"], "relu")]
    >>> names = LayerNames(helper.make_model(helper.make_graph(nodes, "g", [], [])))
    >>> names.find("conv_token_3", "QLinearConv"), names.find("y_nchwc", "Conv"), names.find("relu", "Relu")
    (('conv',), ('conv',), ())

    Args:
        model: The graph that the runtime has loaded.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._producers = GraphIndex(model).producers
        self._nodes = {**self._producers, **{node.name: node for node in model.graph.node if node.name}}

    def find(self, name: str, kind: str) -> tuple[str, ...]:
        """Return the name of the layer that a kernel computes, or nothing if it computes none."""
        if not any(arithmetic in kind for arithmetic in ARITHMETIC):
            return ()
        node = next((self._nodes[part] for part in _without_suffixes(name) if part in self._nodes), None)
        while node is not None and node.op_type not in ARITHMETIC:
            node = self._producers.get(node.input[0]) if node.input else None
        return () if node is None else (node.name,)


def _without_suffixes(name: str) -> Iterator[str]:
    """Yield ``conv_token_3``, then ``conv_token``, then ``conv``."""
    yield name
    while "_" in name:
        name = name.rpartition("_")[0]
        yield name
