"""Each rule by which a layer's precision is read: of the network, of the inspector, and of the log."""

import json
from types import SimpleNamespace

import pytest

from msal_deploy.trt.audit import ARITHMETIC, read_inspector, read_network
from msal_deploy.trt.layer_precisions import LayerPrecisions, read_layers, read_log

KINDS = SimpleNamespace(CONVOLUTION=1, DECONVOLUTION=2, MATRIX_MULTIPLY=3, DEQUANTIZE=5, ACTIVATION=6)


def tensor(name, kind="FLOAT"):
    return SimpleNamespace(name=name, dtype=SimpleNamespace(name=kind))


def layer(name, kind, inputs=(), outputs=(), metadata=""):
    return SimpleNamespace(
        name=name, type=kind, metadata=metadata, num_inputs=len(inputs), num_outputs=len(outputs),
        get_input=inputs.__getitem__, get_output=outputs.__getitem__,
    )  # fmt: skip


def read(*layers):
    backend = SimpleNamespace(
        trt=SimpleNamespace(LayerType=KINDS),
        member=lambda group, name: getattr(getattr(backend.trt, group), name, None),
    )
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    reading = read_network(backend, network)
    assert (reading.source, reading.reformats) == ("network", None)
    return reading.precisions


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("FLOAT", "fp32"), ("HALF", "fp16"), ("BF16", "bf16"), ("INT8", "int8"), ("INT64", "unknown")],
)
def test_a_layer_of_the_network_has_the_type_of_its_first_input(kind, precision):
    assert read(layer("a", KINDS.CONVOLUTION, (tensor("x", kind), tensor("w", "UINT8")))) == {"a": precision}


def test_only_layers_that_multiply_are_read():
    kinds = [KINDS.CONVOLUTION, KINDS.DECONVOLUTION, KINDS.MATRIX_MULTIPLY, KINDS.ACTIVATION, KINDS.DEQUANTIZE]
    layers = [layer(f"layer {kind}", kind, (tensor("x"),), (tensor("y"),)) for kind in kinds]
    # TensorRT 10 has no fully connected layer: what is not there is no kind of layer
    assert read(*layers, layer("nothing", None, (tensor("x"),))) == dict.fromkeys(
        ("layer 1", "layer 2", "layer 3"), "fp32"
    )
    KINDS.FULLY_CONNECTED = 4
    try:
        assert set(read(*layers, layer("fc", 4, (tensor("x"),)))) == {"layer 1", "layer 2", "layer 3", "fc"}
    finally:
        del KINDS.FULLY_CONNECTED
    assert len(ARITHMETIC) == 4


def test_a_layer_between_dequantised_inputs_is_int8():
    dequantise = [layer(name, KINDS.DEQUANTIZE, (), (tensor(name), None)) for name in ("dx", "dw")]
    x, w, bias, other = tensor("dx"), tensor("dw"), tensor("bias"), tensor("other", "HALF")
    assert read(*dequantise, layer("a", KINDS.CONVOLUTION, (x, w))) == {"a": "int8"}
    assert read(*dequantise, layer("a", KINDS.CONVOLUTION, (x, w, bias))) == {"a": "int8"}  # its bias is not
    assert read(*dequantise, layer("a", KINDS.CONVOLUTION, (x,))) == {"a": "int8"}
    assert read(*dequantise, layer("a", KINDS.CONVOLUTION, (x, None))) == {"a": "int8"}
    assert read(*dequantise, layer("a", KINDS.CONVOLUTION, (x, other))) == {"a": "fp32"}
    assert read(*dequantise, layer("a", KINDS.CONVOLUTION, (other, w))) == {"a": "fp16"}
    assert read(*dequantise, layer("a", KINDS.CONVOLUTION)) == {"a": "unknown"}
    activation = layer("relu", KINDS.ACTIVATION, (), (tensor("dx"), tensor("dw")))
    assert read(activation, layer("a", KINDS.CONVOLUTION, (x, w))) == {"a": "fp32"}


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ("[ONNX Layer: /a/Conv]", "/a/Conv"),
        ("[ONNX Layer: /a/Conv]\x1e[ONNX Layer: /b/Conv]", "layer"),  # of both
        ("", "layer"),
        (None, "layer"),
        ("something else", "layer"),
    ],
)
def test_a_layer_is_named_after_its_node(metadata, name):
    assert read(layer("layer", KINDS.CONVOLUTION, (tensor("x"),), metadata=metadata)) == {name: "fp32"}


def inspect(text, plan=b"plan"):
    """Return what is read of an inspector that says `text`, or of a plan that cannot be loaded where it is None."""
    told = SimpleNamespace(errors=0)

    def make_inspector():
        def get_engine_information(form):
            assert form == "json"
            return text

        return SimpleNamespace(get_engine_information=get_engine_information)

    def deserialize(given):
        assert given == plan and runtime.engine_host_code_allowed is True
        return None if text is None else SimpleNamespace(create_engine_inspector=make_inspector)

    def make_runtime(messages):
        assert messages == "messages"
        return runtime

    def errors():
        told.errors += 1

    runtime = SimpleNamespace(engine_host_code_allowed=False, deserialize_cuda_engine=deserialize)
    trt = SimpleNamespace(Runtime=make_runtime, LayerInformationFormat=SimpleNamespace(JSON="json", ONELINE="line"))
    reading = read_inspector(SimpleNamespace(trt=trt, logger="messages", errors=errors), plan)
    assert told.errors == 1  # what loading complained of is not told later, of something else
    return reading


def inspected(name="a", kind="CaskConvolution", inputs=("Half",), **more):
    return {"Name": name, "LayerType": kind, "Inputs": [{"Format/Datatype": text} for text in inputs], **more}


def test_the_inspector():
    text = json.dumps({"Layers": [inspected(), "only a name", inspected("r", "Reformat")]})
    assert inspect(text) == LayerPrecisions("inspector", {"a": "fp16"}, 1)


@pytest.mark.parametrize("text", [None, "", "no JSON", "{}", "[]", "null", '{"Layers": []}', '{"Layers": ["name"]}'])
def test_an_inspector_that_says_nothing(text):
    assert inspect(text) is None


@pytest.mark.parametrize(
    "kind",
    ["CaskConvolution", "CaskDeconvolution", "correlation", "gemm", "CaskGemmConvolution", "MatrixMultiply", "matmul"],
)
def test_kinds_of_layers_that_multiply(kind):
    assert read_layers("inspector", [inspected(kind=kind)]).precisions == {"a": "fp16"}
    assert read_layers("inspector", [inspected(kind="Cask", ParameterType=kind)]).precisions == {"a": "fp16"}
    assert read_layers("inspector", [inspected(kind="kgen", TacticName=kind)]).precisions == {"a": "fp16"}


@pytest.mark.parametrize("fused", ["Conv", "Corr", "Deco", "Fc", "Gemm", "MatM"])
def test_kinds_of_fusions_that_multiply(fused):
    node = {"Metadata": "[ONNX Layer: n]"}
    assert read_layers("log", [inspected(f"__myl_{fused}Add_myl0_1", "fusion", **node)]).precisions["n"] == "fp16"
    assert read_layers("log", [inspected(f"__myl_Add{fused}_myl0_1", "fusion", **node)]).precisions["n"] == "fp16"
    assert read_layers("log", [inspected("__myl_AddRelu_myl0_1", "fusion", **node)]).precisions == {}
    assert read_layers("log", [inspected(f"my {fused} __myl_{fused}_1", "fusion", **node)]).precisions == {}


def test_the_layer_that_multiplies_most_surely_speaks_for_a_node():
    node = {"Metadata": "[ONNX Layer: n]"}
    sure = inspected("a", "gemm", ("Int8",), **node)
    other = inspected("b", "gemm", ("Float",), **node)
    fusion = inspected("__myl_Conv_myl0_1", "fusion", ("Half",), **node)
    second = inspected("__myl_Conv_myl0_2", "fusion", ("Float",), **node)
    none = inspected("c", "kgen", ("BFloat16",), **node)

    def speaks(*layers):
        return read_layers("log", layers).precisions.get("n")

    assert speaks(sure, fusion) == speaks(fusion, sure) == speaks(none, sure, none) == "int8"
    assert speaks(fusion, second, none) == "fp16" and speaks(second, fusion) == "fp32"  # of two, the first
    assert speaks(sure, other) == "int8" and speaks(other, sure) == "fp32"
    assert speaks(none) is None


def test_the_nodes_of_a_layer_are_joined_in_its_name():
    precisions = read_layers("inspector", [inspected("a + b || c+d")]).precisions
    assert precisions == dict.fromkeys(("a", "b", "c+d"), "fp16")


@pytest.mark.parametrize(
    ("inputs", "weights", "precision"),
    [
        (("Int32", "Half"), "Float", "fp16"),  # an index says nothing of the arithmetic
        (("Float", "Half"), None, "fp32"),
        ((), "Int8", "int8"),
        (("Int32",), "BFloat16", "bf16"),
        ((), None, "unknown"),
        (("Int64",), "", "unknown"),
        (("bf16",), None, "bf16"),
        (("UInt8",), None, "unknown"),
        (("Row major FP16",), None, "fp16"),
        (("ROW MAJOR FP32",), None, "fp32"),
    ],
)
def test_the_type_of_a_layer(inputs, weights, precision):
    more = {} if weights is None else {"Weights": {"Type": weights}}
    assert read_layers("inspector", [inspected(inputs=inputs, **more)]).precisions == {"a": precision}


def test_a_layer_that_lacks_everything():
    for empty in ({}, {"Inputs": None, "Weights": None}):
        reading = read_layers("inspector", [{"Name": "a", "LayerType": "gemm"} | empty, {}])
        assert (reading.precisions, reading.reformats) == ({"a": "unknown"}, 0)


def test_a_layer_without_a_name_speaks_for_no_node():
    assert read_layers("log", [{"LayerType": "gemm", "Metadata": "[ONNX Layer: n]"}]).precisions == {
        "n": "unknown",
        "": "unknown",
    }


@pytest.mark.parametrize(
    ("key", "text", "counted"),
    [
        ("LayerType", "Reformat", 1), ("Name", "Reformatting CopyNode", 1), ("Name", "__myl_MoveReplConc_myl0_2", 1),
        ("Name", "__myl_Cast_myl0_2", 1), ("Name", "__myl_ReshSlicTran_myl0_2", 1), ("Name", "__myl_MoveAdd_myl0_2", 0),
        ("Name", "a Reformat", 0), ("TacticName", "Reformat", 0),
    ],
)  # fmt: skip
def test_layers_that_only_change_layout_or_type(key, text, counted):
    assert read_layers("log", [{key: text}, {key: "x"}]).reformats == counted
    assert read_layers("log", [{"Name": "Reformat", "LayerType": "Reformat"}]).reformats == 1  # once


LINE = (
    "Name: {name}, LayerType: {kind}, Inputs: [{inputs}], Constants: [{constants}], Outputs: [ {{ Name: y, Datatype: "
    "Float }}], TacticName: {tactic}, StreamId: 0, Metadata: {metadata}"
)


def line(name="a", kind="correlation", inputs="", constants="", tactic="t", metadata=""):
    return LINE.format(name=name, kind=kind, inputs=inputs, constants=constants, tactic=tactic, metadata=metadata)


def test_the_log():
    datatypes = " { Name: x, Datatype: Int8, Format: f }, { Name: z, Datatype: Half }"
    text = "\n".join([
        "Layers:",
        line("a", inputs=datatypes, constants=" { Name: w, Datatype: Float }"),
        line("b", constants=" { Name: w, Datatype: Half }, { Name: b, Datatype: Float }"),
        line("c"),
        line("f", inputs=" { Name: float_in_name_only, Datatype: Half }"),
        line("d", "kgen", tactic="a gemm", inputs=" { Name: x, Datatype: BFloat16 }", metadata="[ONNX Layer: n]"),
        line("e", "kgen", inputs=" { Name: x, Datatype: Half }"),
        line("__myl_Move_myl0_1", "kgen"),
        "and " + line("no layer"),
    ])  # fmt: skip
    precisions = {"a": "int8", "b": "fp16", "c": "unknown", "f": "fp16", "d": "bf16", "n": "bf16"}
    assert read_log(text) == LayerPrecisions("log", precisions, 1)


def test_a_reading_cannot_be_changed():
    with pytest.raises(AttributeError):
        LayerPrecisions("log", {}).source = "network"
