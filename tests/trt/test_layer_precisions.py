"""Reading layer precisions from the output of TensorRT 8.6, 10 and TensorRT-RTX 1.7.1, and comparing them."""

import ast
from pathlib import Path

import pytest

from msal_deploy.graph import Layer
from msal_deploy.trt import layer_precisions
from msal_deploy.trt.layer_precisions import check_layers, check_requested, read_layers, read_log

CONV = "/network/encoder1/Conv"


def layer(name: str, kind: str, *formats: str, metadata: str = "", **more: object) -> dict[str, object]:
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "x", "Format/Datatype": text} for text in formats],
        "Metadata": metadata,
        **more,
    }


def precision_of(*layers: dict[str, object]) -> str | None:
    read = read_layers("inspector", layers)
    assert read is not None
    return read.precisions.get(CONV)


def test_formats_of_tensorrt_8():
    for text, precision in {
        "Row major linear FP32": "fp32",
        "Two wide channel vectorized row major FP16 format": "fp16",
        "Thirty-two wide channel vectorized row major Int8 format": "int8",
        "Channel major FP16 format where channel % 8 == 0": "fp16",
    }.items():
        assert precision_of(layer(f"w + {CONV} + PWN(/Relu)", "CaskConvolution", text)) == precision


def test_formats_of_tensorrt_10():
    for text, precision in {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8"}.items():
        metadata = f"[ONNX Layer: /q_QuantizeLinear]\x1e[ONNX Layer: {CONV}]"
        assert precision_of(layer("__myl_a_b_myl0_1", "gemm", text, metadata=metadata)) == precision


def test_bias_and_reformat_layers_do_not_decide_the_precision():
    metadata = f"[ONNX Layer: {CONV}]"
    first = layer("Reformatting CopyNode for Input Tensor 0 to " + CONV, "Reformat", "Float", metadata=metadata)
    real = layer(CONV, "CaskConvolution", "Half", metadata=metadata)
    last = layer("__myl_AddRelu_myl0_3", "kgen", "Float", metadata=metadata, TacticName="__myl_AddRelu_0xfc")
    assert precision_of(first, real, last) == "fp16"
    assert precision_of(first, last) is None
    assert read_layers("inspector", [first, real, last]).reformats == 1


def test_fusion_decides_if_no_layer_of_its_own_does():
    metadata = f"[ONNX Layer: {CONV}]"
    fusion = layer("__myl_CorrAddAdd_myl0_42", "runtime_fusion", "Int32", "Half", metadata=metadata)
    assert precision_of(fusion) == "fp16"
    assert precision_of(layer("__myl_FcAddRelu_myl0_45", "runtime_fusion", "Half", metadata=metadata)) == "fp16"
    assert precision_of(fusion, layer(CONV, "correlation", "Int8", metadata=metadata)) == "int8"


def test_log_of_tensorrt_rtx():
    read = read_log(
        "Layers:\n"
        "Name: __mye8190_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , "
        "StreamId: 0, Metadata: \n"
        f"Name: {CONV}_myl0_3, LayerType: correlation, Inputs: [ {{ Name: __mye1, Dimensions: [-1,4,-1,-1], Strides: "
        "[-1,1,-1,4], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { "
        "Name: __mye2, Dimensions: [64,4,7,7], Datatype: Int8, Format: (NHWC) Channel major format }, { Name: __mye3, "
        "Datatype: Float }], Outputs: [ { Name: y, Dimensions: [-1,64,-1,-1], Datatype: Float }], TacticName: "
        f"__myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: {CONV}]\x1f[ONNX Layer: w_DequantizeLinear]\n"
        "Name: __myl_MoveReplConc_myl0_2, LayerType: kgen, Inputs: [], Constants: [], Outputs: [], TacticName: "
        "__myl_MoveReplConc_0x1, StreamId: 0, Metadata: [ONNX Layer: /Transpose]\n\n"
        "I/O Tensors:\n Name: image, IOMode: Input, DataType: UInt8, Dimensions: [-1,-1,-1,3]\n"
    )
    assert read is not None
    assert (read.precisions[CONV], read.reformats) == ("int8", 1)
    assert "/Transpose" not in read.precisions


def test_nothing_to_read_gives_none():
    assert read_log("") is None
    assert read_layers("inspector", []) is None


GRAPH = [Layer("/a", "Conv", "", 600, "int8", 1), Layer("/b", "Conv", "", 400, "fp32", 1)]


def test_requested_precision_must_have_half_of_the_flops():
    assert check_requested("int8", GRAPH, {"/a": "int8", "/b": "fp32"}) is None
    mismatch = check_requested("int8", GRAPH, {"/a": "fp32", "/b": "fp32"})
    assert mismatch is not None
    assert mismatch.cause == "was requested in int8, but its FLOPs are 100.0% in fp32, although its graph is int8"
    mismatch = check_requested("fp16", GRAPH, {"/a": "int8", "/b": "fp32"})
    assert mismatch is not None
    assert mismatch.cause.endswith("its FLOPs are 60.0% in int8, 40.0% in fp32, as in its graph")
    assert mismatch.remedy == "make the fp16 graph again"


@pytest.mark.parametrize(
    ("precisions", "wider", "cause"),
    [
        ({"/a": "int8", "/b": "fp32"}, True, None),
        ({"/a": "int8", "/b": "unknown"}, True, None),
        ({"/a": "fp16", "/b": "fp16"}, True, "computes 1 of 2 layers (60.0% of the FLOPs) wider than its graph"),
        ({"/a": "fp16", "/b": "fp16"}, False, "computes 1 of 2 layers (40.0% of the FLOPs) narrower than its graph"),
    ],
)
def test_layers_must_have_the_precision_of_the_graph(precisions, wider, cause):
    mismatch = check_layers(GRAPH, precisions, wider=wider)
    assert mismatch is None if cause is None else mismatch.cause.startswith(cause)


def test_module_runs_with_python_3_9_and_the_standard_library():
    """Build kits contain a copy of it."""
    tree = ast.parse(Path(layer_precisions.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imports <= {"__future__", "collections.abc", "json", "re", "typing"}
