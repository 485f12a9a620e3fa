"""Graphs that cannot be built, told by the name of the node."""

import re

import onnx
import pytest
from fake_tensorrt import VERSIONS
from onnx import TensorProto, helper
from tiny_bundle import put_graph, tiny_graph

from msal_deploy.build_trt import build_trt
from msal_deploy.build_trt import parse as module
from msal_deploy.errors import BadInput


def refused(bundle, request, files) -> str:
    before = files(bundle)
    with pytest.raises(BadInput) as caught:
        build_trt(bundle, request)
    assert files(bundle) == before
    return str(caught.value)


@pytest.fixture
def with_det() -> onnx.ModelProto:
    """A graph with an operator that no TensorRT reads."""
    model = tiny_graph("fp32")
    model.graph.node[-1].input[0] = "det"
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Det", ["last"], ["det"], name="/network/Det"))
    return model


def test_no_onnx_file(tiny, tmp_path, install, an_order, files):
    (tmp_path / "text").write_text("not a graph")
    install("rtx")
    broken = put_graph(tiny, "model.fp32.onnx", tmp_path / "text")
    assert "model.fp32.onnx is no ONNX file" in refused(broken, an_order("rtx", "fp32"), files)


def test_a_graph_that_is_not_there(tiny, install, an_order, files):
    install("rtx")
    sentence = refused(tiny, an_order("rtx", "int4"), files)
    assert "holds no model.int4.onnx (it has model.fp16.onnx, model.fp32.onnx, model.int8.onnx)" in sentence


def test_a_graph_that_was_changed(tiny, install, an_order, files):
    install("rtx")
    with (tiny.path / "model.fp32.onnx").open("ab") as stream:
        stream.write(b"more")
    assert "SHA-256 differs" in refused(tiny, an_order("rtx", "fp32"), files)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": "input"}, "has no 'image' but input"),
        ({"dtype": TensorProto.FLOAT}, "image of .* is float32 and not uint8"),
    ],
)
def test_a_graph_of_another_network(changes, sentence, tiny, install, an_order, files):
    install("rtx")
    other = put_graph(tiny, "model.fp32.onnx", tiny_graph("fp32", **changes))
    assert re.search(sentence, refused(other, an_order("rtx", "fp32"), files))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_operator_that_the_target_does_not_have(version, with_det, tiny, install, an_order, files):
    install(version)
    other = put_graph(tiny, "model.fp32.onnx", with_det)
    assert "/network/Det (Det)" in refused(other, an_order(version, "fp32"), files)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_only_the_parser_refuses_is_told_by_node_too(version, tiny, install, an_order, files):
    """8.6's errors have the node's number only."""
    install(version, refuses=("Sigmoid",))
    sentence = refused(tiny, an_order(version, "fp32"), files)
    assert "/Sigmoid (Sigmoid)" in sentence
    assert "without this operator" in sentence


def test_an_opset_that_8_6_does_not_read(tiny, install, an_order, files):
    install("8.6.1")
    other = put_graph(tiny, "model.fp32.onnx", tiny_graph("fp32", opset=18))
    assert "opset 18" in refused(other, an_order("8.6.1", "fp32"), files)
    install("10.16.1.11")
    build_trt(other, an_order("10.16.1.11", "fp32"))


class Error:
    """A parser's error as TensorRT-RTX 1.7.1 gives it."""

    def __init__(self, desc: str) -> None:
        self.desc = lambda: desc
        self.node_name = lambda: "/network/Add"
        self.node_operator = lambda: "Add"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "Invalid Node - /a\nITensor::getDimensions: Error Code 4: API Usage Error (/a: ElementWiseOperation SUM "
            "must have same input types. But they are of types Float and Half. In validateTypes at /_src/optimizer/"
            "common/nodes/elementWiseNode.cpp:40)\n[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime "
            "(In catchCudaError at /_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is "
            "insufficient))",
            "/network/Add (Add): /a: ElementWiseOperation SUM must have same input types. But they are of types Float "
            "and Half.; both sides must have the same type: cast one of them",
        ),
        (
            "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported.",
            "/network/Add (Add): Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported.; "
            "quantise symmetrically, with zero point 0",
        ),
        ("", "/network/Add (Add): no reason is given"),
    ],
)
def test_the_parser_s_words_without_its_source_files(said, sentence, tmp_path):
    assert module._sentence(Error(said), tmp_path) == sentence
