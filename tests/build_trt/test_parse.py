"""Graphs that cannot be built are reported by node."""

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
    """A graph with an operator that no TensorRT supports."""
    model = tiny_graph("fp32")
    model.graph.node[-1].input[0] = "det"
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Det", ["last"], ["det"], name="/network/Det"))
    return model


def test_invalid_onnx_file_is_refused(tiny, tmp_path, install, make_request, files):
    (tmp_path / "text").write_text("not a graph")
    install("rtx")
    broken = put_graph(tiny, "model.fp32.onnx", tmp_path / "text")
    assert "model.fp32.onnx is not a valid ONNX file" in refused(broken, make_request("rtx", "fp32"), files)


def test_missing_graph_is_refused(tiny, install, make_request, files):
    install("rtx")
    message = refused(tiny, make_request("rtx", "int4"), files)
    assert "has no model.int4.onnx (found: model.fp16.onnx, model.fp32.onnx, model.int8.onnx)" in message


def test_changed_graph_is_refused(tiny, install, make_request, files):
    install("rtx")
    with (tiny.path / "model.fp32.onnx").open("ab") as stream:
        stream.write(b"more")
    assert "SHA-256 differs" in refused(tiny, make_request("rtx", "fp32"), files)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "input"}, "Expected a tensor named 'image' in .*, got 'input'"),
        ({"dtype": TensorProto.FLOAT}, "Expected uint8 for 'image' in .*, got float32"),
    ],
)
def test_graph_of_another_network_is_refused(changes, message, tiny, install, make_request, files):
    install("rtx")
    other = put_graph(tiny, "model.fp32.onnx", tiny_graph("fp32", **changes))
    assert re.search(message, refused(other, make_request("rtx", "fp32"), files))


@pytest.mark.parametrize("version", VERSIONS)
def test_unsupported_operator_is_refused(version, with_det, tiny, install, make_request, files):
    install(version)
    other = put_graph(tiny, "model.fp32.onnx", with_det)
    assert "/network/Det (Det)" in refused(other, make_request(version, "fp32"), files)


@pytest.mark.parametrize("version", VERSIONS)
def test_error_of_the_parser_names_the_node(version, tiny, install, make_request, files):
    """Errors of 8.6 have only the index of the node."""
    install(version, refuses=("Sigmoid",))
    message = refused(tiny, make_request(version, "fp32"), files)
    assert "/Sigmoid (Sigmoid)" in message
    assert "replace this operator" in message


def test_opset_18_needs_tensorrt_10(tiny, install, make_request, files):
    install("8.6.1")
    other = put_graph(tiny, "model.fp32.onnx", tiny_graph("fp32", opset=18))
    assert "opset 18" in refused(other, make_request("8.6.1", "fp32"), files)
    install("10.16.1.11")
    build_trt(other, make_request("10.16.1.11", "fp32"))


class Error:
    """A parser error as in TensorRT-RTX 1.7.1."""

    def __init__(self, desc: str) -> None:
        self.desc = lambda: desc
        self.node_name = lambda: "/network/Add"
        self.node_operator = lambda: "Add"


@pytest.mark.parametrize(
    ("description", "cause", "remedy"),
    [
        (
            "Invalid Node - /a\nITensor::getDimensions: Error Code 4: API Usage Error (/a: ElementWiseOperation SUM "
            "must have same input types. But they are of types Float and Half. In validateTypes at /_src/optimizer/"
            "common/nodes/elementWiseNode.cpp:40)\n[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime "
            "(In catchCudaError at /_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is "
            "insufficient))",
            "/network/Add (Add): /a: ElementWiseOperation SUM must have same input types. But they are of types Float "
            "and Half",
            "cast one side, so that both have the same type",
        ),
        (
            "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported.",
            "/network/Add (Add): Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported",
            "quantise symmetrically, with zero point 0",
        ),
        ("", "/network/Add (Add): no message", ""),
    ],
)
def test_error_of_the_parser_is_shown_without_source_files(description, cause, remedy, tmp_path):
    assert module._explain(Error(description), tmp_path) == (cause, remedy)
