"""Export writes the graph that ModelSpec describes, compares it with torch, and writes nothing if they differ."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from msal_deploy import export as stage
from msal_deploy.bundle import CHECKPOINT, MANIFEST, Bundle, artifact, write_manifest
from msal_deploy.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from msal_deploy.errors import BadInput, DeployError, GateFailed, MissingRequirement
from msal_deploy.export import GOLDEN_IMAGE, GOLDEN_PROBABILITY, GRAPH, example_images, export, write_graph
from msal_deploy.files import sha256
from msal_deploy.graph import check_graph
from msal_deploy.network import DeployedNetwork
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import Axis, ModelSpec, TensorSpec

pytestmark = pytest.mark.usefixtures("one_torch_thread", "small_shapes")
ONNX_DTYPE = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}


@pytest.fixture(scope="module")
def graph(bundle: Bundle) -> onnx.GraphProto:
    return onnx.load(bundle.file(GRAPH)).graph


@pytest.fixture(scope="module")
def light(checkpoint: Checkpoint) -> Checkpoint:
    """The same weights without the dense dilated convolutions, which are more than half of them."""
    network = msgspec.structs.replace(checkpoint.recipe.network, dense_dilated=False)
    weights = {key: value for key, value in checkpoint.weights.items() if not key.startswith("dense_dilated.")}
    recipe = msgspec.structs.replace(checkpoint.recipe, network=network)
    return msgspec.structs.replace(checkpoint, weights=weights, recipe=recipe)


def opset(path: Path) -> list[tuple[str, int]]:
    return [(entry.domain, entry.version) for entry in onnx.load(path).opset_import]


def axes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if not path.is_dir()}


def test_opset_is_17_by_default(bundle):
    assert opset(bundle.file(GRAPH)) == [("", 17)]


@pytest.mark.parametrize("requested", [17, 18])
def test_write_graph_writes_the_requested_opset(checkpoint, tmp_path, requested):
    spec = ModelSpec()
    write_graph(DeployedNetwork(checkpoint.network(), spec).eval(), spec, tmp_path / "a.onnx", requested)
    assert opset(tmp_path / "a.onnx") == [("", requested)]
    check_graph(tmp_path / "a.onnx")


def test_input_and_output_are_the_specs(bundle, graph):
    spec = bundle.spec
    for values, tensor in ((graph.input, spec.image), (graph.output, spec.probability)):
        assert [value.name for value in values] == [tensor.name]
        assert values[0].type.tensor_type.elem_type == ONNX_DTYPE[tensor.dtype]
        assert axes(values[0]) == [axis.name if isinstance(axis, Axis) else axis for axis in tensor.axes]


def test_cast_comes_first_then_the_transpose(graph):
    assert [node.op_type for node in graph.node[:2]] == ["Cast", "Transpose"]
    assert list(graph.node[0].input) == [graph.input[0].name]
    assert list(graph.node[1].input) == list(graph.node[0].output)


def test_every_operator_exists_in_opset_17(graph):
    assert {node.domain for node in graph.node} == {""}
    for kind in {node.op_type for node in graph.node}:
        schema = onnx.defs.get_schema(kind, max_inclusive_version=17)
        assert not schema.deprecated


def test_batch_norms_are_folded(graph):
    kinds = [node.op_type for node in graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Sigmoid") == 1 + 4  # the output, and the attention of four decoder blocks
    assert kinds.count("Cast") == 1  # none that does nothing


def test_graph_has_no_external_data(bundle, tmp_path):
    shutil.copy(bundle.file(GRAPH), tmp_path / "alone.onnx")
    assert onnxruntime.InferenceSession(str(tmp_path / "alone.onnx"), providers=["CPUExecutionProvider"])


def test_write_graph_follows_another_spec(checkpoint, tmp_path):
    spec = ModelSpec(image=TensorSpec("tile", "uint8", ModelSpec().image.axes), mean=(0.0, 0.0, 0.0), std=(1.0,) * 3)
    write_graph(DeployedNetwork(checkpoint.network(), spec).eval(), spec, tmp_path / "a.onnx", 17)
    assert [value.name for value in onnx.load(tmp_path / "a.onnx").graph.input] == ["tile"]


def test_golden_tensors_are_reproduced(bundle):
    image, expected = (np.load(bundle.file(name)) for name in (GOLDEN_IMAGE, GOLDEN_PROBABILITY))
    assert image.dtype == np.uint8 and expected.dtype == np.float32
    assert expected.std() > 1e-3  # a constant would hide errors
    with open_engine(bundle, "onnxruntime:fp32") as engine:
        np.testing.assert_allclose(engine(image), expected, rtol=0, atol=1e-5)


def test_manifest_traces_the_graph_to_the_checkpoint(bundle, checkpoint_file):
    artifacts = bundle.manifest.artifacts
    assert artifacts[GRAPH].made_from == (CHECKPOINT,)
    assert set(artifacts[GOLDEN_PROBABILITY].made_from) == {CHECKPOINT, GOLDEN_IMAGE}
    assert artifacts[CHECKPOINT].sha256 == sha256(checkpoint_file)
    for name, entry in artifacts.items():
        assert sha256(bundle.path / name) == entry.sha256
        assert set(entry.made_from) <= artifacts.keys()


def test_manifest_lists_every_file_and_the_checks(bundle, checkpoint):
    files = set(everything(bundle.path)) - {MANIFEST}
    assert files == set(bundle.manifest.artifacts)
    assert bundle.manifest.licence == "CC0-1.0" and bundle.manifest.recipe == checkpoint.recipe
    assert {"torch", "onnx", "onnxruntime", "numpy", "python"} <= bundle.manifest.versions.keys()
    (checks,) = bundle.manifest.checks.values()
    assert {(check["batch"], check["height"], check["width"]) for check in checks} == {
        (batch, *size) for batch in (1, 2) for size in ((64, 64), (64, 96))
    }
    assert all(0 <= check["max_abs_delta"] <= 1e-4 for check in checks)


def test_bundle_holds_no_path_of_the_machine(bundle, checkpoint_file):
    for name, content in everything(bundle.path).items():
        for path in (bundle.path.parent, checkpoint_file.parent, Path(stage.__file__).parent):
            assert str(path).encode() not in content, name


def test_older_bundle_is_replaced_by_one_made_from_its_own_checkpoint(bundle, tmp_path):
    out = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    (out / "model.int8.onnx").write_bytes(b"made from the older graph")
    older = Bundle(out).manifest
    entries = {**older.artifacts, "model.int8.onnx": artifact(out, "model.int8.onnx")}
    write_manifest(out, msgspec.structs.replace(older, artifacts=entries))
    report = export(load_checkpoint(out / CHECKPOINT), out)
    assert set(everything(out)) == set(everything(bundle.path))
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert report.worst == max(check.max_abs_delta for check in report.checks) <= report.tolerance
    assert report.to_json()["bundle"] == "bundle"
    assert (out / CHECKPOINT).read_bytes() == (bundle.path / CHECKPOINT).read_bytes()


def test_export_rejects_a_foreign_folder_untouched(light, tmp_path):
    (tmp_path / "precious.txt").write_text("precious")
    with pytest.raises(BadInput, match="not empty"):
        export(light, tmp_path)
    assert everything(tmp_path) == {"precious.txt": b"precious"}


def test_export_rejects_a_folder_with_a_foreign_manifest_untouched(light, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / MANIFEST).write_text('{"name": "a web app"}')
    (tmp_path / "app" / "precious.txt").write_text("precious")
    with pytest.raises(BadInput):
        export(light, tmp_path / "app")
    assert (tmp_path / "app" / "precious.txt").read_text() == "precious"


def test_graph_that_differs_fails_the_gate_and_writes_nothing(light, tmp_path, monkeypatch):
    fuse = stage.fuse_deconv_norms

    def perturbed(network: DeployedNetwork) -> torch.nn.Module:
        network = fuse(network)
        with torch.no_grad():
            network.network.head[-1].bias += 0.01
        return network

    monkeypatch.setattr(stage, "fuse_deconv_norms", perturbed)
    with pytest.raises(GateFailed, match=r"Expected .* up to 0\.0001 between torch and ONNX Runtime, got 0\.00"):
        export(light, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_failing_export_leaves_the_older_bundle(bundle, light, tmp_path, monkeypatch):
    out = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    before = everything(out)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "check_graph", stopped)
    with pytest.raises(KeyboardInterrupt):
        export(light, out)
    assert everything(tmp_path) == {f"bundle/{name}": content for name, content in before.items()}


def test_export_rejects_weights_of_another_network_before_writing(light, tmp_path):
    weights = {key: value for key, value in light.weights.items() if key != "head.2.bias"}
    with pytest.raises(BadInput, match=r"head\.2\.bias"):
        export(Checkpoint(weights, light.recipe), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def with_bias(checkpoint: Checkpoint, value: float) -> Checkpoint:
    bias = torch.full_like(checkpoint.weights["head.2.bias"], value)
    return msgspec.structs.replace(checkpoint, weights=checkpoint.weights | {"head.2.bias": bias})


def test_export_rejects_nan_weights(light, tmp_path):
    with pytest.raises(DeployError):
        export(with_bias(light, float("nan")), tmp_path / "bundle")


def test_export_writes_nothing_for_nan_weights(light, tmp_path):
    with pytest.raises((DeployError, ValueError)):
        export(with_bias(light, float("nan")), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_export_rejects_infinite_weights(light, tmp_path):
    with pytest.raises(DeployError):
        export(with_bias(light, float("inf")), tmp_path / "bundle")


def test_safetensors_without_recipe_can_be_exported_with_one(light, tmp_path):
    save_file(light.weights, tmp_path / "bare.safetensors")
    loaded = load_checkpoint(tmp_path / "bare.safetensors", light.recipe)
    assert export(loaded, tmp_path / "bundle").worst < 1e-4


def test_checkpoint_of_the_bundle_has_the_recipe_of_the_manifest(light, tmp_path):
    source = tmp_path / "a.safetensors"
    save_checkpoint(source, light)
    chosen = msgspec.structs.replace(light.recipe, name="chosen")
    export(load_checkpoint(source, chosen), tmp_path / "bundle")
    bundle = Bundle(tmp_path / "bundle")
    assert load_checkpoint(bundle.file(CHECKPOINT)).recipe == bundle.manifest.recipe


def test_full_disk_leaves_nothing(checkpoint, checkpoint_file, small_disk):
    with pytest.raises(MissingRequirement, match="is full"):
        export(load_checkpoint(checkpoint_file), small_disk / "bundle")
    assert list(small_disk.iterdir()) == []


def test_invalid_graph_fails_the_gate(bundle, tmp_path):
    model = onnx.load(bundle.file(GRAPH))
    model.graph.node[3].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(GateFailed, match="not valid ONNX"):
        check_graph(tmp_path / "a.onnx")


def test_example_images_are_bytes_and_repeatable():
    images = example_images(2, 64, 96)
    assert images.shape == (2, 64, 96, 3) and images.dtype == np.uint8
    assert np.array_equal(images, example_images(2, 64, 96))
    assert not np.array_equal(images, example_images(2, 64, 96, seed=1))
    assert images.std() > 10
