"""Nodes returned to float, in small graphs that ONNX's reference implementation runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tiny_bundle import CONVOLUTIONS, tiny_graph

from msal_deploy.errors import BadInput
from msal_deploy.graph import layers
from msal_deploy.validate.bisect.fp16 import Fp16Graph
from msal_deploy.validate.bisect.int8 import Int8Graph

FIRST, SECOND, HEAD = CONVOLUTIONS


def run(model: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    newer = onnx.ModelProto()
    newer.CopyFrom(model)
    newer.opset_import[0].version = 19  # the reference implementation has no older Q/DQ; for INT8 it is the same
    return ReferenceEvaluator(newer).run(None, {model.graph.input[0].name: values})[0]


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, 8, 8, 3), np.uint8)


def precisions(model: onnx.ModelProto) -> list[str]:
    return [layer.precision for layer in layers(model, height=32, width=32)]


@pytest.mark.parametrize(("kind", "precision"), [(Int8Graph, "int8"), (Fp16Graph, "fp16")])
def test_all_nodes_in_float_are_the_fp32_graph(kind, precision):
    source = tiny_graph("fp32", seed=4, gain=0.003)  # so that probabilities differ
    graph = kind(tiny_graph(precision, seed=4, gain=0.003), source)
    assert graph.nodes == CONVOLUTIONS
    returned, expected = run(graph.returned(graph.nodes), image()), run(source, image())
    np.testing.assert_array_equal(returned, expected)
    assert not np.array_equal(run(graph.returned(()), image()), expected)


@pytest.mark.parametrize(("kind", "precision"), [(Int8Graph, "int8"), (Fp16Graph, "fp16")])
def test_only_the_named_node_is_returned(kind, precision):
    graph = kind(tiny_graph(precision), tiny_graph("fp32"))
    assert precisions(graph.returned([SECOND])) == [precision, "fp32", precision]
    assert precisions(graph.returned([])) == [precision] * 3
    assert precisions(graph.model) == [precision] * 3  # the given graph is not changed
    names = [tensor.name for tensor in graph.returned([SECOND]).graph.initializer]
    assert "w1/float" in names
    assert "w1" not in names


@pytest.mark.parametrize(("kind", "precision"), [(Int8Graph, "int8"), (Fp16Graph, "fp16")])
def test_a_graph_of_another_network_is_refused(kind, precision):
    source = tiny_graph("fp32")
    source.graph.node[2].name = "/network/other/Conv"
    with pytest.raises(BadInput, match=r"Conv /network/encoder1/Conv is not in the FP32 graph"):
        kind(tiny_graph(precision), source)
    other = tiny_graph("fp32")
    other.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros((32, 16, 1, 1), np.float32), "w1"))
    with pytest.raises(BadInput, match=f"weights of {SECOND} have another shape"):
        kind(tiny_graph(precision), other).returned([SECOND])


def affine_graph(quantised: bool, *, scale: float = 0.5, kind: Any = np.int8, relu: bool = False) -> onnx.ModelProto:
    """Return x float32[1,2,4,4] -> [Relu] -> two 1×1 convolutions of the same tensor -> sum; the FP32 or INT8 graph."""
    w = np.array([[1.0, 0.3], [-0.7, 2.0]], np.float32).reshape(2, 2, 1, 1)
    stored = [numpy_helper.from_array(np.array([0.1, 0.2], np.float32), "bias")]
    nodes, source = [], "x"
    if relu:
        nodes.append(helper.make_node("Conv", ["x", "eye"], ["s"], name="/network/first/Conv"))
        stored.append(numpy_helper.from_array(np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1), "eye"))
        source = "t"
        if kind is np.int8 or not quantised:
            nodes.append(helper.make_node("Relu", ["s"], ["t"], name="/network/first/Relu"))
        else:
            nodes[0].output[0] = "t"  # uint8 with zero point 0 clips at 0, as Relu does
    data, weights = [source, source], ["wa", "wb"]
    if quantised:
        nodes += [
            helper.make_node("QuantizeLinear", [source, "scale", "zero"], ["q"], name="q"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="d"),
        ]
        stored.append(numpy_helper.from_array(np.float32(scale), "scale"))
        stored.append(numpy_helper.from_array(kind(0), "zero"))
        stored.append(numpy_helper.from_array(np.array([0.01, 0.02], np.float32), "wscale"))
        stored.append(numpy_helper.from_array(np.zeros(2, np.int8), "wzero"))
        data = ["d", "d"]
        for name in weights:
            integers = np.rint(w / np.array([0.01, 0.02]).reshape(2, 1, 1, 1)).astype(np.int8)
            stored.append(numpy_helper.from_array(integers, f"{name}_q"))
            inputs = [f"{name}_q", "wscale", "wzero"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_d"], name=f"{name}_d", axis=0))
        weights = [f"{name}_d" for name in weights]
    else:
        stored += [numpy_helper.from_array(w, name) for name in weights]
    nodes += [
        helper.make_node("Conv", [data[0], weights[0], "bias"], ["a"], name="/network/a/Conv"),
        helper.make_node("Conv", [data[1], weights[1], "bias"], ["b"], name="/network/b/Conv"),
        helper.make_node("Add", ["a", "b"], ["y"], name="/network/Add"),
    ]
    value = [helper.make_tensor_value_info(name, T.FLOAT, [1, 2, 4, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "affine", value[:1], value[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def values() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 3, (1, 2, 4, 4)).astype(np.float32)


def test_a_tensor_stays_rounded_for_its_other_readers():
    graph = Int8Graph(affine_graph(True), affine_graph(False))
    assert graph.nodes == ("/network/a/Conv", "/network/b/Conv")
    returned = graph.returned(["/network/a/Conv"])
    producers = {node.name: list(node.input) for node in returned.graph.node}
    assert producers["/network/a/Conv"] == ["x", "wa/float", "bias"]
    assert producers["/network/b/Conv"] == ["d", "wb_d", "bias"]
    half = (run(affine_graph(False), values()) + run(affine_graph(True), values())) / 2
    np.testing.assert_allclose(run(returned, values()), half, atol=1e-5)


def test_a_pair_without_readers_is_removed():
    graph = Int8Graph(affine_graph(True), affine_graph(False))
    returned = graph.returned(graph.nodes)
    assert [node.op_type for node in returned.graph.node] == ["Conv", "Conv", "Add"]
    assert {tensor.name for tensor in returned.graph.initializer} == {"bias", "wa/float", "wb/float"}


def test_weights_of_both_nodes_are_added_once():
    source, model = affine_graph(False), affine_graph(True)
    for graph, name in ((source, "wa"), (model, "wa_d")):
        graph.graph.node[-2].input[1] = name  # both convolutions share their weights
    returned = Int8Graph(model, source).returned(["/network/a/Conv", "/network/b/Conv"])
    assert [tensor.name for tensor in returned.graph.initializer].count("wa/float") == 1


def test_operands_round_as_the_graph_does():
    graph = Int8Graph(affine_graph(True, scale=0.25), affine_graph(False))
    activation, weights = graph.operands["/network/b/Conv"]
    assert (activation.tensor, weights.tensor) == ("x", "wb")
    assert (activation.affine.scale, activation.affine.zero) == (0.25, 0)
    assert (activation.affine.low, activation.affine.high) == (-128, 127)
    np.testing.assert_array_equal(activation.round(np.array([0.3, 99.0])), [0.25, 31.75])
    assert weights.affine is None
    w = np.zeros((2, 2, 1, 1))
    np.testing.assert_allclose(weights.round(w).reshape(2, 2), [[1.0, 0.3], [-0.7, 2.0]], atol=0.011)
    np.testing.assert_allclose(weights.round(w).reshape(2, 2)[1], [-0.7, 2.0], atol=1e-6)


def test_inputs_and_outputs_have_the_names_of_the_fp32_graph():
    graph = Int8Graph(affine_graph(True), affine_graph(False))
    assert (graph.inputs("/network/a/Conv"), graph.output("/network/a/Conv")) == (("x",), "a")


def test_a_relu_that_uint8_replaces_comes_back():
    model, source = affine_graph(True, kind=np.uint8, relu=True, scale=0.05), affine_graph(False, relu=True)
    graph = Int8Graph(model, source)
    np.testing.assert_array_equal(run(graph.returned(()), values()), run(model, values()))
    returned = run(graph.returned(graph.nodes), values())
    np.testing.assert_array_equal(returned, run(source, values()))
    assert graph.operands["/network/a/Conv"][0].affine.high == 255


def test_a_relu_of_int8_stays_as_it_is():
    graph = Int8Graph(affine_graph(True, relu=True), affine_graph(False, relu=True))
    assert [node.op_type for node in graph.model.graph.node].count("Relu") == 1


def half_graph(source: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    copy = onnx.ModelProto()
    copy.CopyFrom(source)
    converted = convert_float_to_float16(copy, keep_io_types=True)
    OnnxModel.graph_topological_sort(converted.graph)
    return converted


def chain(gains: Sequence[float]) -> onnx.ModelProto:
    """Return x -> Conv, Relu, Conv, Relu, … -> y, with one gain for each convolution."""
    nodes, stored = [], []
    for index, gain in enumerate(gains):
        stored.append(numpy_helper.from_array(np.full((1, 1, 1, 1), gain, np.float32), f"w{index}"))
        inputs = [f"x{index}", f"w{index}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{index}"], name=f"/network/{index}/Conv"))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"x{index + 1}"], name=f"/network/{index}/Relu"))
    value = [helper.make_tensor_value_info(name, T.FLOAT, [1, 1, 2, 2]) for name in ("x0", f"x{len(gains)}")]
    graph = helper.make_graph(nodes, "chain", value[:1], value[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.filterwarnings("ignore:overflow")
def test_an_overflow_needs_its_writer_and_its_reader():
    source, ones = chain([1e4, 1e-3, 1.0]), np.full((1, 1, 2, 2), 10, np.float32)
    graph = Fp16Graph(half_graph(source), source)
    writer, reader, last = graph.nodes
    assert last == "/network/2/Conv"
    assert np.isinf(run(graph.returned([]), ones)).all()
    assert np.isinf(run(graph.returned([writer]), ones)).all()
    assert np.isinf(run(graph.returned([reader]), ones)).all()
    np.testing.assert_allclose(run(graph.returned([writer, reader]), ones), 100, rtol=1e-3)


def test_neighbours_in_float_are_not_cast_between():
    source = chain([1.0, 1.0, 1.0])
    graph = Fp16Graph(half_graph(source), source)
    kinds = [node.op_type for node in graph.returned(graph.nodes[:2]).graph.node]
    assert kinds == ["Cast", "Conv", "Relu", "Conv", "Relu", "Cast", "Conv", "Relu", "Cast"]


def test_half_operands_round_to_half():
    source = chain([1.0, 0.1])
    activation, weights = Fp16Graph(half_graph(source), source).operands["/network/1/Conv"]
    assert (activation.tensor, weights.tensor) == ("x1", "w1")
    np.testing.assert_array_equal(activation.round(np.array([1.0001, 7e4], np.float32)), [1.0, np.inf])
    assert weights.round(np.zeros(1)).dtype == np.float32
    np.testing.assert_array_equal(weights.round(np.zeros(1)).ravel(), np.float32(np.float16(0.1)))
    assert activation.affine is None
