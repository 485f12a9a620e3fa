"""Return nodes of an FP16 graph to float: FP32 weights, and casts where their tensors meet FP16.

Between two nodes in float, a tensor is not cast. So an overflow needs both in float, the node that writes the tensor
and those that read it.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import onnx
from onnx import TensorProto, helper

from msal_deploy.graph import attribute
from msal_deploy.validate.bisect.graphs import LowPrecisionGraph, Operand, add_constant, copy_of, drop_unused
from msal_deploy.validate.bisect.rounding import Array, round_to_half

# These operators round nothing: they follow the node that writes their input.
FOLLOWERS = ("Relu", "MaxPool", "Transpose", "Reshape", "Concat", "Identity", "Flatten", "Squeeze", "Unsqueeze")
NOT_COMPUTED = ("Cast", "Constant", *FOLLOWERS)


class Fp16Graph(LowPrecisionGraph):
    """An FP16 graph, with casts to and from FP16.

    >>> graph = Fp16Graph(onnx.load("bundle/model.fp16.onnx"), onnx.load("bundle/model.fp32.onnx"))
    >>> graph.nodes
    ('/network/encoder1/Conv', '/network/encoder2/Conv', '/network/head/Conv')
    >>> from msal_deploy.graph import layers
    >>> [layer.precision for layer in layers(graph.returned(["/network/head/Conv"]))]
    ['fp16', 'fp16', 'fp32']
    """

    def __init__(self, model: onnx.ModelProto, source: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model).graph
        half = [v.name for v in inferred.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16]
        self._half = {*half, *(t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16)}
        super().__init__(model, source)

    def returned(self, nodes: Collection[str]) -> onnx.ModelProto:
        """Return a copy of the graph in which `nodes` are computed in FP32."""
        model, members, edited = copy_of(self.model), self._with_followers(nodes), []
        written: set[str] = set()  # tensors that exist in float
        for node in model.graph.node:
            if node.name in members:
                edited += self._in_float(model.graph, node, written)
            else:
                _read_float(node, written)
                edited.append(node)
        del model.graph.node[:]
        model.graph.node.extend(edited)
        drop_unused(model.graph, ("Cast", "Constant"))
        return model

    def _with_followers(self, nodes: Collection[str]) -> set[str]:
        members = set(nodes)
        for node in self.index.nodes:
            inputs = [name for name in node.input if name in self._half and name not in self.index.constants]
            if node.op_type in FOLLOWERS and all(self._written_by(members, name) for name in inputs):
                members.add(node.name)
        return members

    def _written_by(self, members: set[str], tensor: str) -> bool:
        return tensor in self.index.producers and self.index.producers[tensor].name in members

    def _in_float(self, graph: onnx.GraphProto, node: onnx.NodeProto, written: set[str]) -> list[onnx.NodeProto]:
        """Edit a node to FP32, and return it with the casts that it needs."""
        before = []
        for index, tensor in enumerate(node.input):
            if tensor in self._half and tensor in self.index.constants:
                name = self.source_node(node).input[index]
                weights = self.source_weights(name, self._shape(tensor), node.name)
                node.input[index] = add_constant(graph, name, weights)
            elif tensor in self._half:
                node.input[index] = f"{tensor}/float"
                if tensor not in written:
                    before.append(self._cast_to_float(tensor))
                    written.add(tensor)
        after = [self._name_float(node, index, written) for index, name in enumerate(node.output) if name in self._half]
        return [*before, node, *after]

    def _shape(self, constant: str) -> tuple[int, ...]:
        return tuple(self.index.constants[constant].dims)

    def _cast_to_float(self, tensor: str) -> onnx.NodeProto:
        """Return a cast of a tensor to FP32, of its source if the tensor was itself cast from FP32."""
        producer = self.index.producers.get(tensor)
        is_cast = producer is not None and producer.op_type == "Cast" and producer.input[0] not in self._half
        source = producer.input[0] if producer is not None and is_cast else tensor
        return helper.make_node("Cast", [source], [f"{tensor}/float"], name=f"{tensor}/to_float", to=TensorProto.FLOAT)

    def _name_float(self, node: onnx.NodeProto, index: int, written: set[str]) -> onnx.NodeProto:
        """Rename an output, and return the cast to FP16 that writes it under the old name."""
        tensor = node.output[index]
        node.output[index] = f"{tensor}/float"
        written.add(tensor)
        return helper.make_node("Cast", [f"{tensor}/float"], [tensor], name=f"{tensor}/to_half", to=TensorProto.FLOAT16)

    def _can_return(self, node: onnx.NodeProto) -> bool:
        return node.op_type not in NOT_COMPUTED and any(name in self._half for name in node.output)

    def _rounded(self, node: onnx.NodeProto) -> tuple[Operand, ...]:
        source = self.source_node(node)
        return tuple(
            Operand(source.input[index], self._rounding(tensor))
            for index, tensor in enumerate(node.input)
            if tensor in self._half
        )

    def _rounding(self, tensor: str) -> partial[Array]:
        stored = self.index.value(tensor)
        return partial(_stored, stored) if stored is not None else partial(round_to_half)


def _stored(weights: Array, _: Array) -> Array:
    return weights.astype("float32")


def _read_float(node: onnx.NodeProto, written: set[str]) -> None:
    """Let a cast to FP32 read the tensor that exists in FP32: a round trip through FP16 would round it."""
    if node.op_type == "Cast" and attribute(node, "to") == TensorProto.FLOAT and node.input[0] in written:
        node.input[0] = f"{node.input[0]}/float"
