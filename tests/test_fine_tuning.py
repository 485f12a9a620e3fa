"""Training from a checkpoint, on several sets, with unseen ones, and resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from plain_recipe import OFF, plain

from msal_deploy.checkpoint import Checkpoint, load_checkpoint
from msal_deploy.data import AnnotatedImage
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.recipe import NetworkRecipe, Recipe
from msal_deploy.train import LAST, load_state, train
from msal_deploy.train import trainer as module
from msal_deploy.train.validation import ViewScore

pytestmark = pytest.mark.usefixtures("one_torch_thread")
NETWORK = NetworkRecipe(backbone="resnet18", weights="random")
RECIPE = Recipe(name="tiny", network=NETWORK, train=plain(epochs=4, batch=4, rate=2e-3, validate_every=4))
CPU: dict[str, Any] = {"accelerator": "cpu"}


def with_train(recipe: Recipe, **changes: object) -> Recipe:
    return msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, **changes))


def with_network(recipe: Recipe, **changes: object) -> Recipe:
    return msgspec.structs.replace(recipe, network=msgspec.structs.replace(recipe.network, **changes))


def write_images(folder: Path, count: int, seed: int, blue: int = 10) -> list[AnnotatedImage]:
    """Dark discs on a light ground; the blue channel is the same everywhere."""
    folder.mkdir()
    rng, images = np.random.default_rng(seed), []
    rows, columns = np.mgrid[:64, :64]
    for index in range(count):
        mask = np.zeros((64, 64), bool)
        for y, x in rng.integers(8, 56, (4, 2)):
            mask |= (rows - y) ** 2 + (columns - x) ** 2 < 64
        pixels = np.where(mask[..., None], 70, 210) + rng.integers(-20, 20, (64, 64, 3))
        pixels[..., 2] = blue
        image_path, map_path = folder / f"{index}.png", folder / f"{index}_mask.png"
        Image.fromarray(pixels.astype(np.uint8)).save(image_path)
        Image.fromarray(mask.astype(np.uint8)).save(map_path)
        images.append(AnnotatedImage(f"{folder.name}{index}", "train", image_path, None, map_path))
    return images


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[AnnotatedImage]]:
    folder = tmp_path_factory.mktemp("sets")
    return {"home": write_images(folder / "home", 5, 0), "away": write_images(folder / "away", 5, 1)}


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[AnnotatedImage]]:
    return {"far": write_images(tmp_path_factory.mktemp("unseen") / "far", 2, 2, blue=200)}


@pytest.fixture(scope="module")
def trained(sets: dict[str, list[AnnotatedImage]], tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A short training on one set; its first epoch is the measure of an untrained network."""
    torch.set_num_threads(1)
    report = train(sets["home"], RECIPE, tmp_path_factory.mktemp("trained") / "run", **CPU)
    assert report.history[-1].train_loss < 0.8 * report.history[0].train_loss
    checkpoint = load_checkpoint(report.checkpoint)
    return msgspec.structs.replace(checkpoint, notes={"first loss": str(report.history[0].train_loss)})


def assert_equal_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# --- from a checkpoint -----------------------------------------------------------------------------------------------


def test_training_continues_from_the_weights_of_the_checkpoint(trained, sets, tmp_path):
    recipe = with_train(RECIPE, rate=1e-9, decay=0.0, epochs=1, batch=2)
    report = train(sets["home"], recipe, tmp_path / "run", start=trained, **CPU)
    after = load_checkpoint(report.checkpoint).weights
    learned = [name for name in after if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert len(learned) > 50
    for name in learned:  # two steps of Adam change a weight by 2e-9 at most
        torch.testing.assert_close(after[name], trained.weights[name], atol=1e-7, rtol=0)
    assert report.history[0].train_loss < 0.8 * float(trained.notes["first loss"])


def test_a_checkpoint_of_imagenet_weights_downloads_nothing(trained, sets, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "pretrained_resnet", None)  # a call would fail
    recipe = with_network(with_train(RECIPE, epochs=1), weights="imagenet")
    report = train(sets["home"], recipe, tmp_path / "run", start=trained, **CPU)
    assert load_checkpoint(report.checkpoint).recipe == recipe


@pytest.mark.parametrize(
    ("network", "title"),
    [
        ({"backbone": "resnet34"}, "msal-net (resnet34)"),
        ({"model": "unet"}, "unet"),
        ({"channel_attention": False}, "msal-net (resnet18, without channel_attention)"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(trained, sets, tmp_path, network, title):
    with pytest.raises(BadInput) as error:
        train(sets["home"], with_network(RECIPE, **network), tmp_path / "run", start=trained, **CPU)
    assert str(error.value) == (
        f"The checkpoint to start from is msal-net (resnet18), and the recipe trains {title}; "
        "use a recipe with the checkpoint's network, or leave out --recipe"
    )
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(trained, sets, tmp_path):
    name = next(iter(trained.weights))
    for weights, message in (
        ({key: value for key, value in trained.weights.items() if key != name}, "do not fit the network: 1 missing"),
        (trained.weights | {name: torch.full_like(trained.weights[name], torch.nan)}, "not finite"),
    ):
        with pytest.raises(BadInput, match=message):
            broken = msgspec.structs.replace(trained, weights=weights)
            train(sets["home"], RECIPE, tmp_path / "run", start=broken, **CPU)
    assert not (tmp_path / "run").exists()


# --- several sets, and a resumed run ---------------------------------------------------------------------------------

MIXED = with_train(
    RECIPE,
    epochs=2,
    validate_every=1,
    ema=0.5,
    rate=1e-3,
    batch=2,
    patches_per_image=1,
    mixture={"home": 0.7, "away": 0.3},
    densities=(1.0, 0.7),
    augment=msgspec.structs.replace(OFF, crop="random", hed=0.3, gamma=1.3, noise=8.0),
)


class Killed(Exception):
    """The process ended here."""


def kill_after(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    save = module.save_state

    def save_and_die(folder: Path, state: Any) -> None:
        save(folder, state)
        if len(state.history) == epoch:
            raise Killed

    monkeypatch.setattr(module, "save_state", save_and_die)


@pytest.fixture(scope="module")
def whole(trained, sets, unseen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on both sets, from a checkpoint, with an unseen set."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(sets, MIXED, out, unseen=unseen, start=trained, **CPU)
    return out


@pytest.fixture
def killed(trained, sets, unseen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        kill_after(1, patch)
        with pytest.raises(Killed):
            train(sets, MIXED, tmp_path / "run", unseen=unseen, start=trained, **CPU)
    return tmp_path / "run"


def test_a_resumed_mixture_gives_the_weights_of_an_uninterrupted_run(whole, killed, sets, unseen):
    assert len(load_state(killed).history) == 1
    report = train(sets, MIXED, killed, unseen=unseen, resume=True, **CPU)
    expected, actual = load_state(whole), load_state(killed)
    for part in ("network", "average"):
        assert_equal_weights(expected.tensors[part], actual.tensors[part])
    assert [row.train_loss for row in expected.history] == [row.train_loss for row in report.history]
    assert [row.views for row in expected.history] == [row.views for row in report.history]
    best = [load_checkpoint(folder / "best.safetensors") for folder in (whole, killed)]
    assert_equal_weights(best[0].weights, best[1].weights)
    assert best[0].notes == best[1].notes


def test_a_run_is_resumed_with_its_own_sets(killed, sets, unseen):
    for images, held_out in ((sets, {}), (sets, {"farther": unseen["far"]}), ({**sets, "home": sets["away"]}, unseen)):
        with pytest.raises(BadInput, match="was trained on other images"):
            train(images, MIXED, killed, unseen=held_out, resume=True, **CPU)


def test_the_checkpoint_notes_its_sets_and_what_it_started_from(whole, trained):
    notes = load_checkpoint(whole / "best.safetensors").notes
    assert notes["training images"] == "home (4), away (4)"  # a fifth of each is held out
    assert trained.file is not None
    assert notes["started from"] == f"best.safetensors, SHA-256 {sha256(trained.file)}"
    assert "started from" not in load_checkpoint(trained.file).notes


def test_validation_scores_every_set_and_density_and_counts_the_worst(whole):
    history = load_state(whole).history
    names = ["home", "home ×0.7", "away", "away ×0.7", "far", "far ×0.7"]
    for row in history:
        assert [score.view for score in row.views] == names
        assert row.validation_dice == min(score.dice for score in row.views)
        assert row.validation_iou == min(score.iou for score in row.views)
        assert all(score.worst_stem.startswith(score.view.split()[0]) for score in row.views)
    header = (whole / "history.csv").read_text(encoding="utf-8").splitlines()[0]
    assert all(f"dice {name}," in f"{header}," and f"worst image {name}," in f"{header}," for name in names)
    assert (whole / "curves.png").stat().st_size > 10_000


def run_with_scores(
    scores: list[dict[str, float]], sets: Any, unseen: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Train with these scores of the views in each epoch instead of the real ones."""
    coming = [ViewScore(view, dice, dice, "", dice) for epoch in scores for view, dice in epoch.items()]

    def scripted(network: Any, view: Any, device: Any) -> ViewScore:
        score = coming.pop(0)
        assert score.view == view.name
        return score

    monkeypatch.setattr(module, "score_view", scripted)
    return train(sets, with_train(RECIPE, epochs=len(scores), validate_every=1), out, unseen=unseen, **CPU)


def test_the_best_weights_are_those_with_the_best_worst_set(sets, unseen, tmp_path, monkeypatch):
    scores = [
        {"home": 0.9, "away": 0.8, "far": 0.2},
        {"home": 0.5, "away": 0.4, "far": 0.7},  # the lowest mean, and the best worst set
        {"home": 0.9, "away": 0.9, "far": 0.3},
    ]
    report = run_with_scores(scores, sets, unseen, tmp_path / "run", monkeypatch)
    assert [row.validation_dice for row in report.history] == [0.2, 0.4, 0.3]
    assert report.best.epoch == 2
    notes = load_checkpoint(report.checkpoint).notes
    assert (notes["epoch"], notes["validation_dice"]) == ("2", "0.400000")
    assert report.to_json()["best"]["views"][2] == {
        "view": "far", "dice": 0.7, "iou": 0.7, "worst_stem": "", "worst_dice": 0.7,
    }  # fmt: skip


def test_unseen_images_are_never_trained_on(sets, unseen, tmp_path, monkeypatch):
    trained_on: set[int] = set()
    step: Callable[..., torch.Tensor] = module.Trainer._step

    def watched(self: Any, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        trained_on.update(images[:, 2].unique().tolist())
        return step(self, images, masks)

    monkeypatch.setattr(module.Trainer, "_step", watched)
    report = train(sets, with_train(RECIPE, epochs=1), tmp_path / "run", unseen=unseen, **CPU)
    assert trained_on == {10}  # the blue of both sets; that of the unseen one is 200
    assert {"far0", "far1"} < set(report.validation_stems)
    assert load_checkpoint(report.checkpoint).notes["training images"] == "home (4), away (4)"


def test_a_set_cannot_be_trained_on_and_unseen(sets, tmp_path):
    with pytest.raises(BadInput, match="The data set home is both trained on and unseen; give it once"):
        train(sets, RECIPE, tmp_path / "run", unseen={"home": sets["home"]}, **CPU)
    assert not (tmp_path / "run" / LAST).exists()
