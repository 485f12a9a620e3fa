"""Unsupported operators, types and quantisation are reported by node before anything is built."""

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


def messages(model: onnx.ModelProto, tensorrt: str) -> list[str]:
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
def test_every_tensorrt_supports_an_exported_graph(bundle: Bundle, tensorrt: str) -> None:
    assert messages(load_graph(bundle.file("model.fp32.onnx")), tensorrt) == []


@pytest.mark.parametrize("tensorrt", ALL)
def test_every_tensorrt_supports_a_symmetric_int8_graph(tensorrt: str) -> None:
    model = quantised()
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)  # it is valid ONNX
    assert messages(model, tensorrt) == []


@pytest.mark.parametrize(("opset", "supported_by"), [(17, ALL), (18, ALL[1:]), (21, ALL[2:]), (25, ALL[3:]), (26, ())])
def test_opset_must_be_supported(opset: int, supported_by: tuple[str, ...]) -> None:
    model = graph(node("Relu", "x"), opset=opset)
    for tensorrt in ALL:
        problems = messages(model, tensorrt)
        assert (not problems) == (tensorrt in supported_by)
        assert not problems or (f"has opset {opset}" in problems[0] and "opset = 17" in problems[0])


def test_operators_must_be_supported() -> None:
    assert "the/node (Unique)" in messages(graph(node("Unique", "x")), NEWEST)[0]
    assert "the/node (Mish)" in messages(graph(node("Mish", "x"), opset=17), PASCAL)[0]
    assert messages(graph(node("Mish", "x"), opset=18), TEN) == []
    assert messages(graph(node("HannWindow", "n"), opset=17, n=np.asarray(8)), TEN)
    assert messages(graph(node("HannWindow", "n"), opset=17, n=np.asarray(8)), NEWEST) == []


def test_operator_of_another_domain_is_reported() -> None:
    model = graph(node("QLinearAdd", "x x", domain="com.microsoft"))
    assert "the domain com.microsoft" in messages(model, NEWEST)[0]


def test_node_without_a_name_is_identified_by_its_output() -> None:
    assert messages(graph(node("Unique", "x", name="")), PASCAL)[0].startswith("the node that writes y (Unique)")


@pytest.mark.parametrize("tensorrt", ALL)
def test_uint8_is_supported_only_in_the_first_cast(tensorrt: str) -> None:
    cast = node("Cast", "x", "f", to=TensorProto.FLOAT)
    assert messages(graph(cast, node("Relu", "f"), image=TensorProto.UINT8), tensorrt) == []
    turned = node("Transpose", "x", "t", "turn", perm=[0, 2, 3, 1])
    first = messages(graph(turned, node("Cast", "t", to=TensorProto.FLOAT), image=TensorProto.UINT8), tensorrt)[0]
    assert first.startswith("turn (Transpose) takes uint8") and "cast the image to float first" in first
    again = node("Cast", "f", "u", "back", to=TensorProto.UINT8)
    third = node("Cast", "u", "y", "forth", to=TensorProto.FLOAT)
    problems = messages(graph(cast, again, third, image=TensorProto.UINT8), tensorrt)
    assert [message.split()[0] for message in problems] == ["back", "forth"]


def test_types_depend_on_the_operator() -> None:
    model = graph(node("Relu", "x"), image=TensorProto.INT8, result=TensorProto.INT8)
    assert messages(model, PASCAL) == []  # 8.6 names INT8 for Relu, 10 does not
    assert "takes int8" in messages(model, TEN)[0]


def test_int64_is_cast_to_int32_by_8_6() -> None:
    model = graph(node("Add", "x x"), image=TensorProto.INT64, result=TensorProto.INT64)
    assert messages(model, PASCAL) == [] == messages(model, NEWEST)
    assert "takes int64" in messages(graph(node("Relu", "x"), image=TensorProto.INT64), PASCAL)[0]


@pytest.mark.parametrize("tensorrt", ALL)
@pytest.mark.parametrize(
    ("changes", "node", "words"),
    [
        ({"z": np.int8(3)}, "quantise", "zero point other than 0"),
        ({"z": np.uint8(0)}, "quantise", "quantises to uint8"),
        ({"s": np.float32(0)}, "quantise", "not positive"),
        ({"w": np.ones((4, 4, 3, 3), np.uint8), "wz": np.zeros(4, np.uint8)}, "weights", "quantises to uint8"),
        ({"w": np.ones((4, 4, 3, 3), np.int32), "wz": np.zeros(4, np.int32)}, "weights", "keep biases in float"),
        ({"s": np.full(4, 0.1, np.float32), "z": np.zeros(4, np.int8)}, "quantise", "scales an activation per channel"),
        ({"axis": None}, "weights", "without an axis (ONNX assumes 1, TensorRT 0)"),
    ],
)
def test_unsupported_quantisation_is_reported(changes: dict[str, object], node: str, words: str, tensorrt: str) -> None:
    problems = messages(quantised(**changes), tensorrt)
    assert any(message.startswith(node) and words in message for message in problems), problems


def test_missing_zero_point_is_reported_where_it_matters() -> None:
    model = graph(
        node("QuantizeLinear", "x s", "q", "quantise"), node("DequantizeLinear", "q s", "y", "dequantise"), s=SCALE
    )
    for tensorrt, nodes in ((PASCAL, {"quantise", "dequantise"}), (NEWEST, {"quantise"})):
        problems = [message for message in messages(model, tensorrt) if "has no zero point" in message]
        assert {message.split()[0] for message in problems} == nodes


def test_computed_scale_is_reported() -> None:
    model = graph(node("Abs", "s", "t"), node("QuantizeLinear", "x t z", name="q"), s=SCALE, z=ZERO)
    assert any("has a computed scale" in message for message in messages(model, PASCAL))


def test_deconvolution_weights_scaled_per_output_channel_need_tensorrt_10() -> None:
    """See NVIDIA/TensorRT issue 2380."""
    model = quantised("ConvTranspose", axis=1)
    (message,) = messages(model, PASCAL)
    assert message.startswith("weights (DequantizeLinear) scales the weights of a ConvTranspose per output channel")
    assert messages(model, TEN) == []
    one = {"ws": np.float32(0.01), "wz": np.int8(0)}
    assert messages(quantised("ConvTranspose", **one), PASCAL) == []
    assert messages(quantised("Conv", axis=1), PASCAL) == []


@pytest.mark.parametrize("tensorrt", ALL)
def test_unsupported_attribute_value_is_reported(tensorrt: str) -> None:
    resize = node("Resize", "x  s", mode="cubic")
    resize.input[:] = ["x", "", "s"]
    scales = np.asarray([1, 1, 2, 2], np.float32)
    (message,) = messages(graph(resize, s=scales), tensorrt)
    assert message == "the/node (Resize) has mode = cubic; choose from: nearest, linear"
    resize.attribute[0].s = b"linear"
    assert messages(graph(resize, s=scales), tensorrt) == []


def test_dilated_pooling_is_reported() -> None:
    model = graph(node("MaxPool", "x", kernel_shape=[3, 3], dilations=[2, 2]))
    assert "has dilations = [2, 2]" in messages(model, TEN)[0]
    assert messages(graph(node("MaxPool", "x", kernel_shape=[3, 3], dilations=[1, 1])), TEN) == []


@pytest.mark.parametrize("tensorrt", ALL)
def test_second_output_of_a_pooling_is_reported(tensorrt: str) -> None:
    model = graph(node("MaxPool", "x", "y indices", kernel_shape=[2, 2]))
    assert "has 2 outputs" in messages(model, tensorrt)[0]


def test_computed_axes_are_reported() -> None:
    add = node("Add", "a a", "axes")
    model = graph(add, node("ReduceMean", "x axes"), opset=18, a=np.asarray([1]))
    assert "has a computed input 1 (axes)" in messages(model, TEN)[0]
    assert messages(graph(node("ReduceMean", "x a"), opset=18, a=np.asarray([2])), TEN) == []


def test_problems_come_in_node_order_and_the_error_has_the_first() -> None:
    model = graph(node("Unique", "x", "u", "first"), node("Det", "u", "d", "second"), node("Relu", "d"))
    assert [problem.node for problem in check_operators(model, PASCAL)] == ["first", "second"]
    with pytest.raises(BadInput) as error:
        require_readable(model, PASCAL)
    assert error.value.cause == (
        "TensorRT 8.6.1 does not support this graph: first (Unique) is not supported by TensorRT 8.6.1 (and 1 more)"
    )
    assert error.value.remedy == "replace it in the network and export again"
    require_readable(graph(node("Relu", "x")), PASCAL)


@pytest.mark.parametrize("version", ["8.5.3", "7.2", "newest", ""])
def test_version_before_8_6_is_refused(version: str) -> None:
    with pytest.raises(BadInput, match=r"8\.6 or later"):
        find_parser(version)


def test_opset_of_every_target_is_that_of_its_parser() -> None:
    for target in targets():
        assert find_parser(target.tensorrt).opset[1] == target.opset, target.name


@pytest.mark.parametrize("name", PARSERS)
def test_tables_hold_only_operators_and_types_of_onnx(name: str) -> None:
    parser = find_parser(name)
    before_onnx_1 = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}
    in_onnx = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    assert set(parser.operators) <= in_onnx | before_onnx_1
    types = {kind.lower() for kind in TensorProto.DataType.keys()}  # noqa: SIM118
    assert set().union(*parser.operators.values(), parser.quantised_types, parser.scale_types) <= types
    assert {"Conv", "ConvTranspose", "Relu", "Sigmoid", "GlobalAveragePool"} <= set(parser.operators)
