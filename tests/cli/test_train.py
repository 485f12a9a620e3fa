"""The train command with several data sets and from a checkpoint: what it trains, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from refusal import assert_refused
from typer.testing import CliRunner, Result

from msal_deploy.checkpoint import load_checkpoint, save_checkpoint, untrained
from msal_deploy.cli import app
from msal_deploy.recipe import BUILT_IN, NetworkRecipe, Recipe
from msal_deploy.train import load_state

pytestmark = pytest.mark.usefixtures("one_torch_thread")
TINY = """
name = "tiny"
[network]
backbone = "resnet18"
weights = "random"
[train]
patch = 64
epochs = 1
batch = 2
patches_per_image = 1
[train.augment]
crop = "random"
"""
MIXED = TINY.replace("[train]", "[train]\nmixture = { monuseg = 0.6, lab = 0.4 }\ndensities = [1.0, 0.7]")


def msal_deploy(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_set(folder: Path, seed: int, count: int = 2, side: int = 64) -> Path:
    """Images and masks in folders that name neither a training nor a test part."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        for kind, values in (("images", pixels), ("masks", (pixels[..., 0] < 128).astype(np.uint8) * 255)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / kind / f"{folder.name}-{index}.png")
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the sets ``monuseg``, ``scans`` and ``far`` and two recipes."""
    for seed, name in enumerate(("monuseg", "scans", "far")):
        write_set(tmp_path / name, seed)
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "mixed.toml").write_text(MIXED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of MSAL-Net with ResNet-18, of a recipe for one epoch."""
    path = tmp_path_factory.mktemp("resnet18") / "r18.safetensors"
    recipe = tmp_path_factory.mktemp("recipe") / "own.toml"
    recipe.write_text(TINY.replace("tiny", "own"))
    save_checkpoint(path, untrained(Recipe.load(recipe)))
    return path


def refused(*words: str, arguments: tuple[object, ...]) -> None:
    """Check that these arguments of train end in one sentence with these words, and write nothing."""
    before = sorted(Path().rglob("*"))
    assert_refused(msal_deploy("train", "--accelerator", "cpu", "--out", "out", *arguments), 2, *words)
    assert sorted(Path().rglob("*")) == before


# --- what it trains --------------------------------------------------------------------------------------------------


def test_train_on_several_sets_with_an_unseen_one(work: Path) -> None:
    result = msal_deploy(
        "train", "--data", "monuseg", "--data", "lab=scans", "--unseen", "far", "--recipe", "mixed.toml",
        "--rate", "2e-3", "--seed", "5", "--accelerator", "cpu", "--out", "out", "--json", "report.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(Path("report.json").read_text())
    names = ["monuseg", "monuseg ×0.7", "lab", "lab ×0.7", "far", "far ×0.7"]
    for row in (report["best"], *report["history"]):
        assert [view["view"] for view in row["views"]] == names
        assert row["views"][0].keys() == {"view", "dice", "iou", "worst_stem", "worst_dice"}
        assert row["validation_dice"] == min(view["dice"] for view in row["views"])
    assert {"far-0", "far-1"} < set(report["validation_stems"])
    checkpoint = load_checkpoint("out/best.safetensors")
    assert (checkpoint.recipe.train.rate, checkpoint.recipe.train.seed) == (2e-3, 5)
    assert checkpoint.recipe.train.mixture == {"monuseg": 0.6, "lab": 0.4}
    assert checkpoint.notes["training images"] == "monuseg (1), lab (1)"

    for more in (["--data", "lab=scans"], ["--data", "lab=scans", "--unseen", "scans"]):  # not the same sets as before
        again = msal_deploy("train", "--data", "monuseg", *more, "--out", "out", "--resume")
        assert again.exit_code == 2, again.output
    same = ["--data", "monuseg", "--data", "lab=scans", "--unseen", "far", "--out", "out", "--resume"]
    assert_refused(msal_deploy("train", *same, "--rate", "1e-3"), 2, "was started with train.rate = 0.002, not 0.001")
    assert msal_deploy("train", *same, "--rate", "2e-3", "--accelerator", "cpu").exit_code == 0


def test_fine_tuning_takes_the_recipe_of_the_checkpoint(work: Path, resnet18: Path) -> None:
    arguments = ("--data", "monuseg", "--from", resnet18, "--rate", "1e-4", "--accelerator", "cpu", "--out", "out")
    result = msal_deploy("train", *arguments)
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint("out/best.safetensors")
    assert (checkpoint.recipe.name, checkpoint.recipe.train.rate) == ("own", 1e-4)
    assert checkpoint.notes["started from"].startswith("r18.safetensors, SHA-256 ")
    assert load_state(Path("out")).notes == {"started from": checkpoint.notes["started from"]}


class Reached(Exception):
    """The training was reached."""


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stop at the training, with its arguments here."""
    arguments: dict[str, Any] = {}

    def train(images: Any, recipe: Recipe, out: Path, **options: Any) -> None:
        arguments.update(images=images, recipe=recipe, out=out, **options)
        raise Reached

    monkeypatch.setattr("msal_deploy.train.train", train)
    monkeypatch.setenv("MSAL_DEPLOY_TRACEBACK", "1")
    return arguments


def test_options_reach_the_training(work: Path, reached: dict[str, Any]) -> None:
    arguments = "--data monuseg --data a=scans --unseen b=far --recipe fast --backbone resnet50 --rate 0.01 --workers 3"
    result = msal_deploy("train", *arguments.split(), "--out", "out")
    assert isinstance(result.exception, Reached), result.output
    recipe = reached["recipe"]
    assert (recipe.name, recipe.network.backbone, recipe.train.rate) == ("fast", "resnet50", 0.01)
    assert recipe.train.augment == BUILT_IN["fast"].train.augment
    assert (list(reached["images"]), list(reached["unseen"])) == (["monuseg", "a"], ["b"])
    assert [image.stem for image in reached["unseen"]["b"]] == ["far-0", "far-1"]
    assert (reached["workers"], reached["start"], reached["resume"]) == (3, None, False)


def test_a_recipe_given_with_a_checkpoint_replaces_its_own(work: Path, resnet18: Path, reached: dict[str, Any]) -> None:
    result = msal_deploy("train", "--data", "monuseg", "--from", resnet18, "--recipe", "demo", "--out", "out")
    assert isinstance(result.exception, Reached), result.output
    assert (reached["recipe"], reached["start"].recipe.name) == (BUILT_IN["demo"], "own")


def test_shipped_weights_can_be_named(work: Path, reached: dict[str, Any]) -> None:
    result = msal_deploy("train", "--data", "monuseg", "--from", "msal-net-r34", "--out", "out")
    assert isinstance(result.exception, Reached), result.output
    recipe, own = reached["recipe"], reached["start"].recipe
    assert own.train.mixture and recipe == replace(own, train=replace(own.train, mixture={}))
    assert reached["start"].file.name == "msal-net-r34.safetensors"


def test_the_mixture_of_a_checkpoint_is_kept_for_its_own_sets_only(work: Path, reached: dict[str, Any]) -> None:
    save_checkpoint("mixed.safetensors", untrained(Recipe.load("mixed.toml")))
    for data, mixture in (
        (("monuseg", "lab=scans"), {"monuseg": 0.6, "lab": 0.4}),
        (("monuseg",), {}),
        (("monuseg", "lab=scans", "far"), {}),
    ):
        sources = [word for source in data for word in ("--data", source)]
        msal_deploy("train", *sources, "--from", "mixed.safetensors", "--out", "out")
        assert (list(reached["images"]), reached["recipe"].train.mixture) == (
            [source.partition("=")[0] for source in data],
            mixture,
        )


def test_a_state_dict_needs_the_recipe_of_its_network(work: Path, resnet18: Path, reached: dict[str, Any]) -> None:
    torch.save(load_checkpoint(resnet18).weights, "weights.pt")
    arguments = ("--data", "monuseg", "--from", "weights.pt", "--out", "out")
    assert_refused(msal_deploy("train", *arguments), 2, "weights.pt does not say which network it holds", "--recipe")
    result = msal_deploy("train", *arguments, "--recipe", "tiny.toml")
    assert isinstance(result.exception, Reached), result.output
    assert reached["start"].recipe.network == NetworkRecipe(backbone="resnet18", weights="random")


# --- what it refuses -------------------------------------------------------------------------------------------------

TWO = ("--data", "monuseg", "--data", "lab=scans")


def test_a_set_without_labels(work: Path) -> None:
    shutil.rmtree("scans/masks")
    refused("scans", "without annotation", "scans-0", arguments=(*TWO, "--recipe", "mixed.toml"))
    refused("scans", "without annotation", arguments=("--data", "monuseg", "--unseen", "scans", "-r", "tiny.toml"))


@pytest.mark.parametrize("role", ["--data", "--unseen"])
def test_images_smaller_than_64_px(work: Path, role: str) -> None:
    write_set(work / "small", 9, side=63)
    arguments = ("--data", "monuseg", role, "small", "--recipe", "tiny.toml")
    refused("is 63×63 px, smaller than 64 px; remove it", "small-", arguments=arguments)


def test_images_smaller_than_a_corner_patch(work: Path) -> None:
    arguments = ("--data", "monuseg", "--recipe", "paper", "--encoder", "random")
    refused("is 64×64 px, smaller than 512 px", arguments=arguments)


def test_a_weight_for_a_set_that_is_not_given(work: Path) -> None:
    arguments = ("--data", "monuseg", "--recipe", "mixed.toml")
    refused("has a weight for lab, but the data sets are monuseg; add --data lab=PATH", arguments=arguments)
    refused("has a weight for lab", "monuseg", arguments=(*arguments, "--unseen", "lab=scans"))
    refused("nuinsseg", "consep", "data sets are monuseg", arguments=("--data", "monuseg", "--recipe", "robust"))


def test_a_set_without_a_weight(work: Path) -> None:
    arguments = (*TWO, "--data", "far", "--recipe", "mixed.toml")
    refused("has no weight for the data set far; add one to train.mixture", "--data NAME=PATH", arguments=arguments)


def test_a_weight_out_of_range(work: Path) -> None:
    Path("bad.toml").write_text(MIXED.replace("0.4", "0.0"))
    refused("bad.toml is not a recipe", "mixture", arguments=(*TWO, "--recipe", "bad.toml"))


@pytest.mark.parametrize("role", ["--data", "--unseen"])
def test_the_same_image_in_two_sets(work: Path, role: str) -> None:
    with Image.open("monuseg/images/monuseg-1.png") as image:
        image.save("scans/images/scans-0.tif")
    Path("scans/images/scans-0.png").unlink()
    arguments = ("--data", "monuseg", role, "lab=scans", "--recipe", "tiny.toml")
    refused("monuseg/monuseg-1 and lab/scans-0 have the same pixels; keep one of them", arguments=arguments)


@pytest.mark.parametrize("role", ["--data", "--unseen"])
def test_two_sets_of_one_name(work: Path, role: str) -> None:
    arguments = ("--data", "monuseg", role, "monuseg=scans", "--recipe", "tiny.toml")
    refused("Two data sets are named 'monuseg'; name them: --data NAME=PATH", arguments=arguments)


def test_a_set_that_does_not_exist(work: Path) -> None:
    refused("scan does not exist", arguments=("--data", "monuseg", "--data", "lab=scan", "--recipe", "tiny.toml"))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--recipe=fast", "msal-net (resnet18), and the recipe trains msal-net (resnet34)"),
        ("--backbone=resnet34", "msal-net (resnet18), and the recipe trains msal-net (resnet34)"),
        ("--model=ce-net", "msal-net (resnet18), and the recipe trains ce-net"),
    ],
)
def test_a_checkpoint_of_another_network(work: Path, resnet18: Path, option: str, words: str) -> None:
    refused(words, "leave out --recipe", arguments=("--data", "monuseg", "--from", resnet18, option))


def test_a_state_dict_of_another_network(work: Path) -> None:
    torch.save({"classifier.weight": torch.zeros(2, 2)}, "other.pt")
    arguments = ("--data", "monuseg", "--from", "other.pt", "--recipe", "tiny.toml")
    refused("do not fit the network", "classifier.weight", arguments=arguments)


def test_a_checkpoint_that_is_missing_or_damaged(work: Path) -> None:
    base = ("--data", "monuseg", "--recipe", "tiny.toml", "--from")
    refused("The weight file none.safetensors does not exist", arguments=(*base, "none.safetensors"))
    refused("did you mean 'msal-net-r34'", arguments=(*base, "msal-net-r43"))
    Path("half.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    refused("half.safetensors is not a complete safetensors file", arguments=(*base, "half.safetensors"))


def test_from_and_resume_together(work: Path, resnet18: Path) -> None:
    arguments = ("--data", "monuseg", "--from", resnet18, "--resume")
    refused("--from starts a run, and --resume continues one; leave one of them out", arguments=arguments)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--backbone=resnet43", "'resnet43' is not a backbone; did you mean 'resnet34'?"),
        ("--backbone=vgg", "'vgg' is not a backbone; choose from: resnet101, resnet18, resnet34, resnet50"),
        ("--rate=0", "Invalid value for '--rate'"),
        ("--rate=fast", "Invalid value for '--rate'"),
        ("--workers=-1", "Invalid value for '--workers'"),
    ],
)
def test_options_out_of_range(work: Path, option: str, words: str) -> None:
    before = sorted(work.rglob("*"))
    result = msal_deploy("train", "--data", "monuseg", "--recipe", "tiny.toml", "--out", "out", option)
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())
    assert sorted(work.rglob("*")) == before
