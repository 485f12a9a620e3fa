"""The weights that are part of the package."""

import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from msal_deploy import weights
from msal_deploy.checkpoint import load_checkpoint
from msal_deploy.cli import app
from msal_deploy.errors import BadInput
from msal_deploy.export import example_images
from msal_deploy.network import DeployedNetwork
from msal_deploy.spec import ModelSpec
from msal_deploy.weights import DEFAULT, SHA256, find_weights

FP16_MAX = 65_504


@pytest.mark.parametrize("name", sorted(SHA256))
def test_weights_have_a_licence_and_a_recipe(name: str) -> None:
    checkpoint = load_checkpoint(find_weights(name))
    assert checkpoint.licence == "CC-BY-NC-SA-4.0"  # MoNuSeg's
    assert float(checkpoint.notes["validation_dice"]) > 0.8
    assert all(value.isfinite().all() for value in checkpoint.weights.values() if value.is_floating_point())
    checkpoint.network()


@pytest.mark.parametrize("name", sorted(SHA256))
def test_activations_stay_far_below_the_maximum_of_fp16(name: str) -> None:
    network = DeployedNetwork(load_checkpoint(find_weights(name)).network(), ModelSpec()).eval()
    largest: list[float] = []
    for module in network.modules():
        module.register_forward_hook(lambda module, args, output: largest.append(float(output.abs().max())))
    with torch.inference_mode():
        network(torch.from_numpy(example_images(2, 128, 128)))
    assert len(largest) > 100
    assert max(largest) < FP16_MAX / 10


def test_find_weights_suggests_the_closest_name() -> None:
    with pytest.raises(BadInput, match="did you mean 'msal-net-r34'"):
        find_weights("msal-net-r43")


def test_find_weights_returns_a_path_unchanged(tmp_path: Path) -> None:
    assert find_weights(str(tmp_path / "best.safetensors")) == tmp_path / "best.safetensors"


def test_find_weights_rejects_missing_and_damaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copy(find_weights(DEFAULT), tmp_path))
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with copy.open("r+b") as stream:
        stream.seek(1_000_000)
        stream.write(b"damaged")
    with pytest.raises(BadInput, match="is damaged"):
        find_weights(DEFAULT)
    copy.unlink()
    with pytest.raises(BadInput, match="install msal-deploy again"):
        find_weights(DEFAULT)


@pytest.mark.usefixtures("small_shapes")
def test_export_uses_the_weights_by_default(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", "--out", str(tmp_path / "bundle")])
    assert result.exit_code == 0, result.output
    exported = tmp_path / "bundle" / "checkpoint.safetensors"
    assert exported.read_bytes() == find_weights(DEFAULT).read_bytes()


@pytest.mark.usefixtures("small_shapes")
def test_another_network_is_exported_untrained_and_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", "--model", "ce-net", "--out", str(tmp_path / "bundle")])
    assert result.exit_code == 0, result.output
    assert "not trained" in result.output


def test_an_unknown_network_suggests_the_nearest(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", "--model", "ce-nte", "--out", str(tmp_path / "bundle")])
    assert result.exit_code == 2
    assert "did you mean 'ce-net'" in result.output
    assert not (tmp_path / "bundle").exists()
