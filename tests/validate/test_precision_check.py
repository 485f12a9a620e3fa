"""The precision in an engine's name against that of its graph or plan."""

from types import SimpleNamespace

import pytest
from onnx import numpy_helper
from tiny_bundle import put_graph, tiny_graph, write_tiny_bundle

from msal_deploy.graph import GraphIndex
from msal_deploy.trt import local_gpu, plan_checks
from msal_deploy.trt.plan_metadata import Share
from msal_deploy.validate.precision_check import check_precision, layer_precisions


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("engine_id", "text"),
    [
        ("onnxruntime:fp32", "model.fp32.onnx: 3 of 3 layers in FP32"),
        ("onnxruntime:fp16", "model.fp16.onnx: 3 of 3 layers in FP16"),
        ("openvino:int8", "model.int8.onnx: 3 of 3 layers in INT8"),
        ("openvino:bf16", "model.fp32.onnx: 3 of 3 layers in FP32"),
        ("torch:fp32", "torch:fp32 computes the checkpoint, whose weights are FP32"),
        ("triton:localhost", "Precision not checked: triton:localhost has no graph or plan on this machine"),
        ("unknown:int8", "Precision not checked: unknown:int8 has no graph or plan on this machine"),
    ],
)
def test_engines_that_are_what_their_names_say(tiny, engine_id, text):
    check = check_precision(tiny, engine_id)
    assert (check.name, check.passed, check.text) == ("precision", True, text)
    assert (check.max_abs_difference, check.tolerance) == (None, None)


@pytest.mark.parametrize(
    ("precision", "actual"),
    [("int8", "fp32"), ("int8", "fp16"), ("fp16", "fp32"), ("fp16", "int8"), ("fp32", "int8"), ("fp32", "fp16")],
)
def test_a_graph_under_another_name(tiny, precision, actual):
    bundle = put_graph(tiny, f"model.{precision}.onnx", tiny.path / f"model.{actual}.onnx")
    check = check_precision(bundle, f"onnxruntime:{precision}")
    assert (check.name, check.passed) == ("precision", False)
    assert check.text == (
        f"onnxruntime:{precision} opens model.{precision}.onnx, which has no {precision.upper()} layer: "
        f"3 in {actual.upper()}; it is a copy of model.{actual}.onnx"
    )


def half_quantised():
    """The INT8 graph, whose first layer takes unquantised operands."""
    model = tiny_graph("int8")
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    conv.input[0] = "x0"
    return model


def test_int8_graphs_may_keep_layers_in_fp32_and_fp32_graphs_may_not_have_others(tiny):
    bundle = put_graph(tiny, "model.int8.onnx", half_quantised())
    check = check_precision(bundle, "openvino:int8")
    assert (check.passed, check.text) == (True, "model.int8.onnx: 2 of 3 layers in INT8")
    check = check_precision(put_graph(bundle, "model.fp32.onnx", half_quantised()), "openvino:fp32")
    assert not check.passed
    assert check.text == (
        "openvino:fp32 opens model.fp32.onnx, which has layers in another precision: 2 in INT8, 1 in FP32; "
        "it is a copy of model.int8.onnx"
    )


def test_fp16_graphs_may_keep_layers_in_fp32(tiny):
    model = tiny_graph("fp16")
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored).astype("float32"), "w1"))
    check = check_precision(put_graph(tiny, "model.fp16.onnx", model), "onnxruntime:fp16")
    assert (check.passed, check.text) == (True, "model.fp16.onnx: 2 of 3 layers in FP16")


def test_each_runtime_is_checked_with_its_own_graph(tiny):
    bundle = put_graph(tiny, "model.int8.u8s8.onnx", half_quantised())
    assert check_precision(bundle, "onnxruntime:int8").text == "model.int8.u8s8.onnx: 2 of 3 layers in INT8"
    assert check_precision(bundle, "openvino:int8").text == "model.int8.onnx: 3 of 3 layers in INT8"


def test_a_graph_without_layers_has_none_of_its_precision(tiny):
    model = tiny_graph("fp32")
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.op_type = "Add"
            del node.attribute[:]
    check = check_precision(put_graph(tiny, "model.fp32.onnx", model), "openvino:fp32")
    assert not check.passed
    assert check.text == "openvino:fp32 opens model.fp32.onnx, which has no FP32 layer: no layers"


def test_a_layer_needs_both_operands_in_int8():
    model = half_quantised()
    assert layer_precisions(GraphIndex(model)) == {"int8": 2, "fp32": 1}
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    conv.input[:] = ["d0", "w_float"]
    assert layer_precisions(GraphIndex(model)) == {"int8": 2, "fp32": 1}


def test_other_nodes_are_not_layers():
    assert layer_precisions(GraphIndex(tiny_graph("fp16"))) == {"fp16": 3}
    assert layer_precisions(GraphIndex(tiny_graph("fp32"))) == {"fp32": 3}


@pytest.mark.parametrize(
    ("share", "passed", "percent"), [(0.961, True, "96%"), (0.0, False, "0%"), (None, False, "0%")]
)
def test_a_plan_is_read_from_its_metadata(tiny, monkeypatch, share, passed, percent):
    shares = {"fp32": Share(10, 0.5, 0.5)} | ({} if share is None else {"int8": Share(10, 0.5, share)})
    found = tiny.path / "model.int8.sm86.tensorrt.plan"
    asked = []
    monkeypatch.setattr(local_gpu, "current_gpu", lambda: SimpleNamespace(sm="8.6"))
    monkeypatch.setattr(plan_checks, "find_plan", lambda *arguments: asked.append(arguments) or found)
    metadata = {(tiny, found): SimpleNamespace(actual=SimpleNamespace(shares=shares))}
    monkeypatch.setattr(plan_checks, "read_plan", lambda *arguments: metadata[arguments])
    check = check_precision(tiny, "tensorrt:int8")
    assert (check.name, check.passed) == ("precision", passed)
    assert check.text == f"model.int8.sm86.tensorrt.plan computes {percent} of its FLOPs in INT8"
    assert asked == [(tiny, "int8", "tensorrt", "8.6")]
