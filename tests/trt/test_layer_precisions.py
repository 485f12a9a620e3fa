"""What engines say of their layers: the lines are as TensorRT 8.6, 10 and TensorRT-RTX 1.7.1 write them."""

from msal_deploy.trt.layer_precisions import read_layers, read_log

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
    reading = read_layers("inspector", layers)
    assert reading is not None
    return reading.precisions.get(CONV)


def test_the_words_of_tensorrt_8():
    for text, precision in {
        "Row major linear FP32": "fp32",
        "Two wide channel vectorized row major FP16 format": "fp16",
        "Thirty-two wide channel vectorized row major Int8 format": "int8",
        "Channel major FP16 format where channel % 8 == 0": "fp16",
    }.items():
        assert precision_of(layer(f"w + {CONV} + PWN(/Relu)", "CaskConvolution", text)) == precision


def test_the_words_of_tensorrt_10():
    for text, precision in {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8"}.items():
        metadata = f"[ONNX Layer: /q_QuantizeLinear]\x1e[ONNX Layer: {CONV}]"
        assert precision_of(layer("__myl_a_b_myl0_1", "gemm", text, metadata=metadata)) == precision


def test_a_layer_that_only_adds_a_bias_or_changes_the_layout_does_not_speak_for_the_convolution():
    metadata = f"[ONNX Layer: {CONV}]"
    first = layer("Reformatting CopyNode for Input Tensor 0 to " + CONV, "Reformat", "Float", metadata=metadata)
    real = layer(CONV, "CaskConvolution", "Half", metadata=metadata)
    last = layer("__myl_AddRelu_myl0_3", "kgen", "Float", metadata=metadata, TacticName="__myl_AddRelu_0xfc")
    assert precision_of(first, real, last) == "fp16"
    assert precision_of(first, last) is None
    assert read_layers("inspector", [first, real, last]).reformats == 1


def test_a_fusion_speaks_where_nothing_else_does():
    metadata = f"[ONNX Layer: {CONV}]"
    fusion = layer("__myl_CorrAddAdd_myl0_42", "runtime_fusion", "Int32", "Half", metadata=metadata)
    assert precision_of(fusion) == "fp16"
    assert precision_of(layer("__myl_FcAddRelu_myl0_45", "runtime_fusion", "Half", metadata=metadata)) == "fp16"
    assert precision_of(fusion, layer(CONV, "correlation", "Int8", metadata=metadata)) == "int8"


def test_the_log_of_tensorrt_rtx():
    reading = read_log(
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
    assert reading is not None
    assert (reading.precisions[CONV], reading.reformats) == ("int8", 1)
    assert "/Transpose" not in reading.precisions


def test_nothing_to_read():
    assert read_log("") is None
    assert read_layers("inspector", []) is None
