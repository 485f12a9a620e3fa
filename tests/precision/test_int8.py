"""INT8 graphs follow TensorRT's Q/DQ rules, and nodes kept in float read unrounded tensors."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import TensorData

from msal_deploy.errors import BadInput
from msal_deploy.graph import int8_share, layers
from msal_deploy.precision.calibrate import calibrate
from msal_deploy.precision.int8 import quantisable, to_int8

STEM, SECOND = "/network/in_block/in_block.0/Conv", "/network/encoder1/encoder1.0/conv1/Conv"


@pytest.fixture(scope="module")
def nodes(graph) -> tuple[str, ...]:
    return quantisable(graph)


@pytest.fixture(scope="module")
def model(graph, ranges, nodes) -> onnx.ModelProto:
    return to_int8(graph, ranges, nodes)


def initialisers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def test_the_graph_is_valid_and_sorted(model):
    onnx.checker.check_model(model, full_check=True)


def test_all_layers_except_channel_attention_are_int8(model):
    counted = layers(model)
    assert {layer.name for layer in counted if layer.precision != "int8"} == {
        f"/network/decoder{k}/attention/mix/Conv" for k in (1, 2, 3, 4)
    }
    assert int8_share(counted) > 0.9999


def test_quantisation_is_symmetric_and_signed(model):
    values = initialisers(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = values[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()


def test_weights_are_per_channel_and_conv_transpose_per_tensor(model):
    values, made_by = initialisers(model), makers(model)
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and "attention" not in node.name:
            dequantise = made_by[node.input[1]]
            channels = values[dequantise.input[0]].shape[0]
            assert values[dequantise.input[1]].size == (channels if node.op_type == "Conv" else 1), node.name


def test_biases_stay_in_float(model):
    values = initialisers(model)
    biases = [node.input[2] for node in model.graph.node if node.op_type == "Conv" and len(node.input) > 2]
    assert biases
    assert all(values[bias].dtype == np.float32 for bias in biases)


def test_both_inputs_of_a_residual_add_are_quantised(model):
    made_by = makers(model)
    (add,) = [node for node in model.graph.node if node.name == "/network/encoder2/encoder2.1/Add"]
    assert [made_by[name].op_type for name in add.input] == ["DequantizeLinear"] * 2


@pytest.fixture(scope="module")
def partly(graph, ranges, nodes) -> onnx.ModelProto:
    return to_int8(graph, ranges, set(nodes) - {SECOND})


def test_a_node_kept_in_float_reads_the_unrounded_tensor(partly):
    (node,) = [node for node in partly.graph.node if node.name == SECOND]
    assert makers(partly)[node.input[0]].op_type == "MaxPool"
    assert initialisers(partly)[node.input[1]].dtype == np.float32
    by_name = {layer.name: layer.precision for layer in layers(partly)}
    assert by_name[SECOND] == "fp32"
    assert by_name[STEM] == "int8"
    onnx.checker.check_model(partly, full_check=True)


def test_graph_has_no_unused_nodes(graph, ranges):
    model = to_int8(graph, ranges, {STEM})
    read = {name for node in model.graph.node for name in node.input} | {"probability"}
    assert all(read.intersection(node.output) for node in model.graph.node)
    assert sum(layer.precision == "int8" for layer in layers(model)) == 1


def test_u8s8_has_unsigned_activations_and_signed_weights(graph, ranges, nodes):
    model = to_int8(graph, ranges, nodes, "u8s8")
    onnx.checker.check_model(model, full_check=True)
    values, made_by = initialisers(model), makers(model)
    (stem,) = [node for node in model.graph.node if node.name == STEM]
    activation, weight = (made_by[name] for name in stem.input[:2])
    assert values[activation.input[2]].dtype == np.uint8
    assert values[weight.input[2]].dtype == np.int8
    assert int8_share(layers(model)) > 0.9999


@pytest.mark.parametrize("form", ["s8s8", "u8s8"])
def test_the_probabilities_stay_near(graph, ranges, nodes, tiles, form, tmp_path):
    import onnxruntime

    onnx.save(to_int8(graph, ranges, nodes, form), tmp_path / "q.onnx")
    image = {"image": tiles[0].image[None]}
    exact, found = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, image)[0]
        for path in (graph, tmp_path / "q.onnx")
    )
    assert 0 < np.abs(found - exact).mean() < 0.05


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_other_methods_cut_the_range(graph, ranges, tiles, nodes, method):
    found = calibrate(graph, tiles[:2], method)
    widths = {name: float(np.ptp([float(np.ravel(v)[0]) for v in data.range_value])) for name, data in found.items()}
    exact = {name: float(np.ptp([float(np.ravel(v)[0]) for v in data.range_value])) for name, data in ranges.items()}
    assert any(widths[name] < 0.98 * exact[name] for name in widths if exact.get(name))
    onnx.checker.check_model(to_int8(graph, found, nodes), full_check=True)


def test_constant_activations_are_refused(graph, nodes, tiles):
    tensor = "/network/encoder1/encoder1.0/relu/Relu_output_0"
    ranges = calibrate(graph, tiles[:1])
    high = ranges[tensor].range_value[1]
    ranges.data[tensor] = TensorData(lowest=high, highest=high)
    with pytest.raises(BadInput, match="is constant on all calibration tiles"):
        to_int8(graph, ranges, nodes)


def test_quantisable_rejects_a_quantised_graph(model, tmp_path):
    onnx.save(model, tmp_path / "model.int8.onnx")
    with pytest.raises(BadInput, match=r"model\.int8\.onnx is already quantised"):
        quantisable(tmp_path / "model.int8.onnx")


def test_quantisable_rejects_files_that_are_not_graphs(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(BadInput, match="is not a valid ONNX file"):
        quantisable(tmp_path / "x.onnx")
    with pytest.raises(BadInput, match="does not exist"):
        quantisable(tmp_path / "y.onnx")
