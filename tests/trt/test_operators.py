"""What TensorRT's parsers do not read, told by the name of the node before anything is built."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.graph import load_graph
from msal_deploy.targets import targets
from msal_deploy.trt.operators import check_operators, require_readable
from msal_deploy.trt.parser import PARSERS, find_parser

PASCAL, TEN, NEWEST = "8.6.1", "10.4.0", "11.4.0.106"
ALL = (PASCAL, TEN, "10.16.1.11", NEWEST)


def graph(
    *nodes: onnx.NodeProto,
    image: int = TensorProto.FLOAT,
    result: int = TensorProto.FLOAT,
    opset: int = 17,
    **constants: np.ndarray,
) -> onnx.ModelProto:
    """A graph from `x`, 1×4×8×8, to `y`."""
    body = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", image, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", result, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)])


def node(
    operator: str, inputs: str, outputs: str = "y", name: str = "the/node", **attributes: object
) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), name=name, **attributes)


def faults(model: onnx.ModelProto, tensorrt: str) -> list[str]:
    return [str(problem) for problem in check_operators(model, tensorrt)]


ZERO, SCALE = np.int8(0), np.float32(0.1)


def quantised(operator: str = "Conv", **changes: object) -> onnx.ModelProto:
    """x → Q → DQ → Conv or ConvTranspose with weights from DQ, scaled by channel; `changes` replace constants."""
    axis = changes.pop("axis", 0)
    constants: dict[str, np.ndarray] = {
        "s": np.asarray(SCALE),
        "z": np.asarray(ZERO),
        "w": np.ones((4, 4, 3, 3), np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
    }
    constants |= {name: np.asarray(value) for name, value in changes.items()}
    per_channel = {} if axis is None else {"axis": axis}
    return graph(
        node("QuantizeLinear", "x s z", "xq", "quantise"),
        node("DequantizeLinear", "xq s z", "xf", "dequantise"),
        node("DequantizeLinear", "w ws wz", "wf", "weights", **per_channel),
        node(operator, "xf wf", "y", "conv", pads=[1, 1, 1, 1]),
        **constants,
    )


@pytest.mark.parametrize("tensorrt", [*ALL, "1.7.1.116"])
def test_an_exported_graph_is_read_by_every_tensorrt(bundle: Bundle, tensorrt: str) -> None:
    assert faults(load_graph(bundle.file("model.fp32.onnx")), tensorrt) == []


@pytest.mark.parametrize("tensorrt", ALL)
def test_an_int8_graph_as_it_should_be(tensorrt: str) -> None:
    model = quantised()
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)  # it is valid ONNX
    assert faults(model, tensorrt) == []


@pytest.mark.parametrize(("opset", "reads"), [(17, ALL), (18, ALL[1:]), (21, ALL[2:]), (25, ALL[3:]), (26, ())])
def test_each_tensorrt_has_its_largest_opset(opset: int, reads: tuple[str, ...]) -> None:
    model = graph(node("Relu", "x"), opset=opset)
    for tensorrt in ALL:
        found = faults(model, tensorrt)
        assert (not found) == (tensorrt in reads)
        assert not found or (f"has opset {opset}" in found[0] and "opset = 17" in found[0])


def test_operators_that_a_tensorrt_does_not_have() -> None:
    assert "the/node (Unique)" in faults(graph(node("Unique", "x")), NEWEST)[0]
    assert "the/node (Mish)" in faults(graph(node("Mish", "x"), opset=17), PASCAL)[0]
    assert faults(graph(node("Mish", "x"), opset=18), TEN) == []
    assert faults(graph(node("HannWindow", "n"), opset=17, n=np.asarray(8)), TEN)
    assert faults(graph(node("HannWindow", "n"), opset=17, n=np.asarray(8)), NEWEST) == []


def test_an_operator_of_another_domain() -> None:
    model = graph(node("QLinearAdd", "x x", domain="com.microsoft"))
    assert "the domain com.microsoft" in faults(model, NEWEST)[0]


def test_a_node_without_a_name_is_named_by_what_it_writes() -> None:
    assert faults(graph(node("Unique", "x", name="")), PASCAL)[0].startswith("the node that writes y (Unique)")


@pytest.mark.parametrize("tensorrt", ALL)
def test_uint8_is_read_by_the_first_cast_only(tensorrt: str) -> None:
    cast = node("Cast", "x", "f", to=TensorProto.FLOAT)
    assert faults(graph(cast, node("Relu", "f"), image=TensorProto.UINT8), tensorrt) == []
    turned = node("Transpose", "x", "t", "turn", perm=[0, 2, 3, 1])
    (fault,) = faults(graph(turned, node("Cast", "t", to=TensorProto.FLOAT), image=TensorProto.UINT8), tensorrt)[:1]
    assert fault.startswith("turn (Transpose) takes uint8") and "cast the image to float first" in fault
    again = node("Cast", "f", "u", "back", to=TensorProto.UINT8)
    third = node("Cast", "u", "y", "forth", to=TensorProto.FLOAT)
    found = faults(graph(cast, again, third, image=TensorProto.UINT8), tensorrt)
    assert [fault.split()[0] for fault in found] == ["back", "forth"]


def test_a_type_that_an_operator_does_not_take() -> None:
    model = graph(node("Relu", "x"), image=TensorProto.INT8, result=TensorProto.INT8)
    assert faults(model, PASCAL) == []  # 8.6 names INT8 for Relu, 10 does not
    assert "takes int8" in faults(model, TEN)[0]


def test_int64_is_cast_down_by_pascals_tensorrt() -> None:
    model = graph(node("Add", "x x"), image=TensorProto.INT64, result=TensorProto.INT64)
    assert faults(model, PASCAL) == [] == faults(model, NEWEST)
    assert "takes int64" in faults(graph(node("Relu", "x"), image=TensorProto.INT64), PASCAL)[0]


@pytest.mark.parametrize("tensorrt", ALL)
@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"z": np.int8(3)}, "quantise", "zero point other than 0"),
        ({"z": np.uint8(0)}, "quantise", "quantises to uint8"),
        ({"s": np.float32(0)}, "quantise", "not positive"),
        ({"w": np.ones((4, 4, 3, 3), np.uint8), "wz": np.zeros(4, np.uint8)}, "weights", "quantises to uint8"),
        ({"w": np.ones((4, 4, 3, 3), np.int32), "wz": np.zeros(4, np.int32)}, "weights", "leave biases in float"),
        ({"s": np.full(4, 0.1, np.float32), "z": np.zeros(4, np.int8)}, "quantise", "scales an activation by channel"),
        ({"axis": None}, "weights", "names no axis: ONNX takes 1, TensorRT 0"),
    ],
)
def test_quantisation_that_no_tensorrt_reads(changes: dict[str, object], place: str, words: str, tensorrt: str) -> None:
    found = faults(quantised(**changes), tensorrt)
    assert any(fault.startswith(place) and words in fault for fault in found), found


def test_a_zero_point_that_is_left_out() -> None:
    model = graph(
        node("QuantizeLinear", "x s", "q", "quantise"), node("DequantizeLinear", "q s", "y", "dequantise"), s=SCALE
    )
    for tensorrt, places in ((PASCAL, {"quantise", "dequantise"}), (NEWEST, {"quantise"})):
        found = [fault for fault in faults(model, tensorrt) if "has no zero point" in fault]
        assert {fault.split()[0] for fault in found} == places


def test_a_scale_that_is_computed() -> None:
    model = graph(node("Abs", "s", "t"), node("QuantizeLinear", "x t z", name="q"), s=SCALE, z=ZERO)
    assert any("has a scale that is computed" in fault for fault in faults(model, PASCAL))


def test_weights_of_a_deconvolution_scaled_by_output_channel() -> None:
    """NVIDIA/TensorRT issue 2380: not before TensorRT 10."""
    model = quantised("ConvTranspose", axis=1)
    (fault,) = faults(model, PASCAL)
    assert fault.startswith("weights (DequantizeLinear) scales the weights of a ConvTranspose by output channel")
    assert faults(model, TEN) == []
    one = {"ws": np.float32(0.01), "wz": np.int8(0)}
    assert faults(quantised("ConvTranspose", **one), PASCAL) == []
    assert faults(quantised("Conv", axis=1), PASCAL) == []


@pytest.mark.parametrize("tensorrt", ALL)
def test_attributes_that_are_not_read(tensorrt: str) -> None:
    resize = node("Resize", "x  s", mode="cubic")
    resize.input[:] = ["x", "", "s"]
    scales = np.asarray([1, 1, 2, 2], np.float32)
    (fault,) = faults(graph(resize, s=scales), tensorrt)
    assert fault == "the/node (Resize) has mode = cubic; TensorRT reads nearest, linear"
    resize.attribute[0].s = b"linear"
    assert faults(graph(resize, s=scales), tensorrt) == []


def test_dilated_pooling_is_read_by_pascals_tensorrt_only_as_it_documents() -> None:
    model = graph(node("MaxPool", "x", kernel_shape=[3, 3], dilations=[2, 2]))
    assert "has dilations = [2, 2]" in faults(model, TEN)[0]
    assert faults(graph(node("MaxPool", "x", kernel_shape=[3, 3], dilations=[1, 1])), TEN) == []


@pytest.mark.parametrize("tensorrt", ALL)
def test_the_second_output_of_a_pooling(tensorrt: str) -> None:
    model = graph(node("MaxPool", "x", "y indices", kernel_shape=[2, 2]))
    assert "has 2 outputs" in faults(model, tensorrt)[0]


def test_axes_that_are_computed() -> None:
    add = node("Add", "a a", "axes")
    model = graph(add, node("ReduceMean", "x axes"), opset=18, a=np.asarray([1]))
    assert "computes its input 1 (axes)" in faults(model, TEN)[0]
    assert faults(graph(node("ReduceMean", "x a"), opset=18, a=np.asarray([2])), TEN) == []


def test_problems_come_in_the_order_of_the_nodes_and_the_first_is_told() -> None:
    model = graph(node("Unique", "x", "u", "first"), node("Det", "u", "d", "second"), node("Relu", "d"))
    assert [problem.node for problem in check_operators(model, PASCAL)] == ["first", "second"]
    with pytest.raises(BadInput, match=r"TensorRT 8\.6\.1 does not read this graph: first \(Unique\).*\(and 1 more\)"):
        require_readable(model, PASCAL)
    require_readable(graph(node("Relu", "x")), PASCAL)


@pytest.mark.parametrize("version", ["8.5.3", "7.2", "newest", ""])
def test_a_tensorrt_that_is_not_known(version: str) -> None:
    with pytest.raises(BadInput, match=r"8\.6 or later"):
        find_parser(version)


def test_every_target_reads_the_opset_that_its_tensorrt_documents() -> None:
    for target in targets():
        assert find_parser(target.tensorrt).opset[1] == target.opset, target.name


@pytest.mark.parametrize("name", PARSERS)
def test_the_tables_name_operators_and_types_that_onnx_has(name: str) -> None:
    parser = find_parser(name)
    before_onnx_1 = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    assert set(parser.operators) <= known | before_onnx_1
    types = {kind.lower() for kind in TensorProto.DataType.keys()}  # noqa: SIM118
    assert set().union(*parser.operators.values(), parser.quantised_types, parser.scale_types) <= types
    assert {"Conv", "ConvTranspose", "Relu", "Sigmoid", "GlobalAveragePool"} <= set(parser.operators)
