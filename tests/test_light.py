"""The light decoder, the teacher it learns from, and the comparison with the full network."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from plain_recipe import plain
from test_fine_tuning import CPU, write_images
from typer.testing import CliRunner

from msal_deploy.bundle import Bundle
from msal_deploy.checkpoint import Checkpoint, load_checkpoint
from msal_deploy.cli import app
from msal_deploy.errors import BadInput
from msal_deploy.graph import layers, load_graph
from msal_deploy.network import light_head
from msal_deploy.recipe import NetworkRecipe, Recipe, TrainRecipe
from msal_deploy.runtimes import Engine
from msal_deploy.train import LAST, load_state, train
from msal_deploy.train.losses import segmentation_loss, taught_loss
from msal_deploy.train.start import start_network
from msal_deploy.zoo import build_network

pytestmark = pytest.mark.usefixtures("one_torch_thread")
FULL = NetworkRecipe(backbone="resnet18", weights="random")
LIGHT = msgspec.structs.replace(FULL, light_decoder=True)


@pytest.fixture(scope="module")
def full() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(dict(build_network(FULL).state_dict()), Recipe(network=FULL))


class Sure(Engine):
    """A teacher that says the same of every pixel, and counts its calls."""

    runtime = "sure"
    probability = 0.9

    def _open(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def _infer(self, images):
        self.shapes.append(images.shape)
        return np.full((len(images), 1, *images.shape[1:3]), self.probability, np.float32)

    def _close(self) -> None:
        pass


def test_a_light_network_differs_in_the_head_and_in_one_refinement(full: Checkpoint) -> None:
    light = set(build_network(LIGHT).state_dict())
    gone, new = set(full.weights) - light, light - set(full.weights)
    assert {key.split(".")[0] for key in gone} == {"decoder1", "head"}
    assert all(".refinement." in key for key in gone if key.startswith("decoder1"))
    assert new == {"head.1.bias", "head.1.weight"} and "decoder2.refinement.first.0.weight" in light


def test_a_light_head_puts_its_four_channels_into_the_four_pixels() -> None:
    head = light_head().eval()
    last = head[1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        logits = head(torch.zeros(1, 64, 2, 3))
    assert logits[0, 0].tolist() == [[1, 2] * 3, [3, 4] * 3] * 2


def test_weights_of_the_full_network_start_a_light_one(full: Checkpoint) -> None:
    weights = start_network(full, LIGHT).state_dict()
    shared = [key for key in weights if not key.startswith("head.")]
    assert all(torch.equal(weights[key], full.weights[key]) for key in shared)
    assert weights["head.0.0.weight"].shape == (32, 64, 3, 3)


def test_the_taught_loss_weights_labels_and_teacher() -> None:
    logits = torch.tensor([[[[0.0, 2.0]]]])
    masks, taught = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.5, 0.0]]]])
    ln2, wrong = float(np.log(2)), float(np.log1p(np.exp(2)))  # −ln(1 − sigmoid(0)), −ln(1 − sigmoid(2))
    right = wrong - 2  # −ln sigmoid(2)
    labels, teacher = (ln2 + right) / 2, (ln2 + wrong) / 2
    for weight in (0.0, 0.25, 1.0):
        found = taught_loss(logits, masks, taught, TrainRecipe(teacher_weight=weight))
        assert float(found) == pytest.approx((1 - weight) * labels + weight * teacher)
    with_dice = TrainRecipe(teacher_weight=0.25, loss="bce+dice")
    expected = 0.75 * float(segmentation_loss(logits, masks, "bce+dice")) + 0.25 * teacher
    assert float(taught_loss(logits, masks, taught, with_dice)) == pytest.approx(expected)


def tiny(epochs: int) -> Recipe:
    settings = plain(epochs=epochs, batch=2, rate=1e-2, validate_every=epochs, teacher_weight=1.0)
    return Recipe(name="tiny", network=LIGHT, train=settings)


def test_a_student_imitates_its_teacher_and_notes_it(full, bundle, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 5, 0)
    with Sure(bundle, "fp32") as teacher:
        report = train(images, tiny(12), tmp_path / "run", start=full, teacher=teacher, **CPU)
        assert {shape[3] for shape in teacher.shapes} == {3} and len(teacher.shapes) == 12 * 2
    first, last = report.history[0].train_loss, report.history[-1].train_loss
    entropy = -0.9 * np.log(0.9) - 0.1 * np.log(0.1)  # the least that the cross-entropy with 0.9 can be
    assert entropy <= last < entropy + 0.1 < first
    notes = load_checkpoint(report.checkpoint).notes
    assert (
        notes["teacher"]
        == f"sure:fp32, checkpoint SHA-256 {bundle.manifest.artifacts['checkpoint.safetensors'].sha256}"
    )


def test_a_run_resumes_with_its_teacher_only(full, bundle, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 5, 0)
    with Sure(bundle, "fp32") as teacher:
        train(images, tiny(1), tmp_path / "run", start=full, teacher=teacher, **CPU)
        before = (tmp_path / "run" / LAST).read_bytes()
        more = msgspec.structs.replace(tiny(1), train=msgspec.structs.replace(tiny(1).train, epochs=2))
        with pytest.raises(
            BadInput, match=r"teacher of the run is sure:fp32, .*, not none; resume with the same --tea"
        ):
            train(images, more, tmp_path / "run", resume=True, **CPU)
        assert (tmp_path / "run" / LAST).read_bytes() == before
        train(images, more, tmp_path / "run", resume=True, teacher=teacher, **CPU)
    assert len(load_state(tmp_path / "run").history) == 2


def test_a_full_network_cannot_start_from_a_light_one(tmp_path: Path) -> None:
    light = Checkpoint(dict(build_network(LIGHT).state_dict()), tiny(1))
    with pytest.raises(BadInput, match=r"is msal-net \(resnet18, light_decoder\), and the recipe trains msal-net \(re"):
        train([], msgspec.structs.replace(tiny(1), network=FULL), tmp_path / "run", start=light, **CPU)


def test_light_names_the_weights(tmp_path: Path) -> None:
    for words in (["msal-net-r18"], ["--model", "unet"], ["--recipe", "fast"]):
        result = CliRunner().invoke(app, ["export", *words, "--light", "--out", str(tmp_path / "bundle")])
        assert result.exit_code == 2
        assert "--light names the weights" in result.output


@pytest.mark.usefixtures("small_shapes")
def test_the_light_network_has_half_the_operations_and_opset_17(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", "--light", "--out", str(tmp_path / "light")])
    assert result.exit_code == 0, result.output
    exported = Bundle(tmp_path / "light")
    assert exported.manifest.recipe.network == LIGHT
    model = load_graph(exported.file("model.fp32.onnx"))
    assert model.opset_import[0].version == 17
    macs = {layer.name: layer.macs for layer in layers(model, height=512, width=512)}
    head = sum(count for name, count in macs.items() if "/head/" in name)
    assert head == 256 * 256 * 9 * (64 * 32 + 32 * 4)  # at half resolution
    assert 2 * sum(macs.values()) == pytest.approx(34.9e9, rel=0.001)  # msal-net-r34 has 68.7e9
