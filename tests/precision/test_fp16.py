"""FP16 graphs have the requested types and nearly the same probabilities; overflow is avoided or fails the export."""

from pathlib import Path

import msgspec
import onnx
import pytest
import torch

from msal_deploy import export as export_stage
from msal_deploy.checkpoint import Checkpoint
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.graph import layers, load_graph
from msal_deploy.precision import run
from msal_deploy.precision.calibrate import calibrate, max_abs_values
from msal_deploy.precision.fp16 import FP16_MAX, MARGIN, to_fp16
from msal_deploy.precision.int8 import quantisable, to_int8

LOUD = 1e7  # a factor that makes activations overflow in FP16


@pytest.fixture(scope="module")
def half(graph, ranges) -> onnx.ModelProto:
    model, kept = to_fp16(load_graph(graph), max_abs_values(ranges))
    assert kept == ()
    return model


def test_every_layer_is_fp16(half):
    assert {layer.precision for layer in layers(half)} == {"fp16"}
    onnx.checker.check_model(half, full_check=True)


def test_input_and_output_keep_their_types_and_the_sigmoid_is_fp32(half):
    assert half.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert half.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    last = half.graph.node[-1]
    assert (last.op_type, list(last.output)) == ("Sigmoid", ["probability"])
    (cast,) = [node for node in half.graph.node if node.output[0] == last.input[0]]
    assert (cast.op_type, cast.attribute[0].i) == ("Cast", onnx.TensorProto.FLOAT)


def test_types_pass_strict_inference(half):
    inferred = onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True)
    types = {value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert types == {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}


def test_to_fp16_does_not_change_its_input(graph, ranges):
    model = load_graph(graph)
    before = model.SerializeToString()
    to_fp16(model, max_abs_values(ranges))
    assert model.SerializeToString() == before


def test_to_fp16_rejects_a_quantised_graph(graph, ranges):
    with pytest.raises(BadInput, match="already quantised"):
        to_fp16(to_int8(graph, ranges, quantisable(graph)), {})


@pytest.fixture(scope="module")
def loud(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that computes the same function with one activation beyond FP16: a factor through a ReLU cancels out."""
    state = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    for name in ("weight", "bias"):
        state[f"encoder1.0.bn1.{name}"] *= LOUD
    state["encoder1.0.conv2.weight"] /= LOUD
    folder = tmp_path_factory.mktemp("loud") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_stage, "SIZES", ((64, 64),))
        patch.setattr(export_stage, "BATCHES", (1,))
        torch.set_num_threads(1)
        export_stage.export(msgspec.structs.replace(checkpoint, weights=state, file=None), folder)
    return folder


def test_nodes_that_would_overflow_stay_in_fp32(loud, tiles):
    graph = loud / "model.fp32.onnx"
    values = max_abs_values(calibrate(graph, tiles))
    assert max(values.values()) > FP16_MAX / MARGIN
    model, kept = to_fp16(load_graph(graph), values)
    assert "/network/encoder1/encoder1.0/conv1/Conv" in kept
    assert all("/encoder1.0/" in name for name in kept)
    precisions = {layer.name: layer.precision for layer in layers(model)}
    assert precisions["/network/encoder1/encoder1.0/conv1/Conv"] == "fp32"
    assert precisions["/network/encoder1/encoder1.0/conv2/Conv"] == "fp32"  # its input is too large
    assert precisions["/network/encoder1/encoder1.1/conv1/Conv"] == "fp16"
    assert {"fp16", "fp32"} == set(precisions.values())


def test_nodes_kept_in_fp32_preserve_the_probabilities(loud, tiles, tmp_path):
    folder = _copy(loud, tmp_path)
    report = run._add_fp16(folder, tiles, calibrate(folder / "model.fp32.onnx", tiles))
    assert report.kept_fp32
    assert report.largest_value > FP16_MAX / MARGIN
    assert report.max_abs_delta < 0.02


def test_an_overflow_fails_the_export(loud, tiles, tmp_path, monkeypatch):
    folder = _copy(loud, tmp_path)
    monkeypatch.setattr(run, "to_fp16", lambda model, values: to_fp16(model, {}))
    with pytest.raises(GateFailed, match="gives NaN or Inf on calibration tiles"):
        run._add_fp16(folder, tiles, calibrate(folder / "model.fp32.onnx", tiles))


def _copy(loud: Path, tmp_path: Path) -> Path:
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(loud, folder)
    (folder / "calibration.json").write_text("{}")
    run._register(folder, **{"calibration.json": ()})
    return folder
