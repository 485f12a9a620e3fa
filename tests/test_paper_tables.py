"""The program of benchmarks/paper/: its rows are the paper's, and no number stands where nothing was run."""

import re
import shlex
import sys
from pathlib import Path

import msgspec
import pytest
import torch
import typer
from typer.testing import CliRunner

from msal_deploy.data import synthesize
from msal_deploy.errors import GateFailed
from msal_deploy.metrics import Confusion
from msal_deploy.recipe import BUILT_IN, NetworkRecipe, Recipe
from msal_deploy.zoo import build_network

pytest.importorskip("segmentation_models_pytorch")
FOLDER = Path(__file__).parents[1] / "benchmarks" / "paper"
sys.path.insert(0, str(FOLDER))

import costs as costs_module  # noqa: E402
import scores as scores_module  # noqa: E402
from parity import Proof  # noqa: E402
from render import NOT_RUN, as_markdown, load  # noqa: E402
from rows import ROWS, TABLE_1, TABLE_2, Published  # noqa: E402
from tables import app  # noqa: E402

SMALL = "t2-linknet"
TINY = """
name = "tiny"
[network]
weights = "random"
[train]
patch = 64
epochs = 1
patches_per_image = 1
[train.augment]
crop = "random"
"""

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def call(*words: str | Path):
    return CliRunner().invoke(app, [str(word) for word in words])


def measure(path: Path, *words: str):
    return call("costs", "--json", path, "--size", "64", "--seconds", "0.01", *words)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """The costs of one row, not to be changed by a test."""
    path = tmp_path_factory.mktemp("costs") / "costs.json"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = measure(path, "--row", SMALL)
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    return path


def make_score(key: str, recipe: Recipe | None = None):
    recipe = scores_module.recipe_of(ROWS[key], recipe or Recipe.load("fast"))
    counts = [Confusion(80, 20, 10), Confusion(8, 2, 4)]
    return scores_module.RowScore(
        key=key, recipe=recipe, data="monuseg", training=scores_module.Training(1, 0.8, 9.0, 24, (), ""),
        proof=Proof("quick", 17, 100, 1e-4, 0.1, ()), engine="onnxruntime:fp32", threshold=0.5, label_convention="",
        images=2, scores=scores_module.summary(counts),
        patches=tuple(scores_module.PatchScore(str(i), "top-left", c) for i, c in enumerate(counts)), environment={},
    )  # fmt: skip


def put_score(folder: Path, score) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{score.key}.json").write_bytes(msgspec.json.encode(score))


def cells(markdown: str, label: str) -> list[str]:
    (line,) = (line for line in markdown.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_every_row_of_both_tables_is_there():
    assert (len(TABLE_1), len(TABLE_2), len(ROWS)) == (11, 9, 19)
    assert TABLE_2[-1].key in {row.key for row in TABLE_1}
    assert len({row.label for row in (*TABLE_1, *TABLE_2)}) == 20


@pytest.mark.parametrize(
    ("key", "paper"),
    [
        ("t1-unet-r18", Published(0.781, 0.642, 0.774, 0.792, 211.9)),
        ("t1-r34", Published(0.793, 0.652, 0.785, 0.801)),
        ("t1-ddc", Published(0.810, 0.682, 0.783, 0.845)),
        ("t1-eca-br", Published(0.815, 0.688, 0.805, 0.827)),
        ("t1-msal-r34", Published(0.839, 0.706, 0.821, 0.853, 194.5)),
        ("t1-msal-r50", Published(0.847, 0.713, 0.816, 0.881, 317.7)),
        ("t1-msal-r101", Published(0.830, 0.695, 0.801, 0.862, 429.1)),
        ("t2-unet", Published(0.773, 0.548, 0.758, 0.789, 211.9)),
        ("t2-attention-unet", Published(0.810, 0.678, 0.779, 0.848, 480.6)),
        ("t2-asspu-net", Published(0.830, 0.780, None, None, 1133.7)),
        ("t2-mdc-net", Published(0.802, None, None, None)),
        ("t2-cnn3", Published(0.804, 0.498, None, None)),
    ],
)
def test_published_numbers(key, paper):
    assert ROWS[key].paper == paper


@pytest.mark.parametrize("row", TABLE_1[1:], ids=lambda row: row.key)
def test_the_blocks_are_those_of_the_label(row):
    whole = row.label.startswith("MSAL-Net")
    depth = re.search(r"Res-(\d+)", row.label)
    assert row.network == NetworkRecipe(
        backbone=f"resnet{depth[1] if depth else 18}",
        dense_dilated=whole or "DDC" in row.label,
        channel_attention=whole or "ECA" in row.label,
        boundary_refinement=whole or "BR" in row.label,
        weights="random",
    )


def test_only_readings_of_an_abstract_or_a_name_are_marked():
    assert {row.key for row in ROWS.values() if row.reading} == {"t2-asspu-net", "t2-mdc-net"}


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.key)
def test_every_network_can_be_built(row):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build_network(row.network).parameters()) > 1e6


def test_the_schedule_is_the_recipes_and_the_network_the_rows():
    recipe = Recipe()
    unet, linknet = (scores_module.recipe_of(ROWS[key], recipe) for key in ("t1-unet-r18", "t2-linknet"))
    assert unet.train == linknet.train == recipe.train
    assert (unet.network.weights, linknet.network.weights) == ("imagenet", "random")


def test_costs_go_on_where_they_were_stopped(measured, tmp_path, monkeypatch):
    path = tmp_path / "costs.json"
    path.write_bytes(measured.read_bytes())
    monkeypatch.setattr(costs_module, "measure", None)  # calling it would fail
    result = measure(path, "--row", SMALL)
    assert result.exit_code == 0
    assert "1 of 1 rows are done already" in result.stderr
    assert path.read_bytes() == measured.read_bytes()


def test_costs_are_measured_and_compared(measured):
    found = costs_module.load_costs(measured).rows[SMALL]
    assert 11.4e6 < found.parameters < 11.8e6
    assert {one.engine for one in found.proof.comparisons} == {"onnxruntime:fp32", "openvino:fp32"}
    assert 0 <= found.proof.worst <= found.proof.tolerance
    assert found.proof.spread > 0.01
    assert found.milliseconds("onnxruntime:fp32") > 0
    assert found.environment["logical_cores"] > 0


def test_costs_of_another_size_are_refused(measured):
    result = call("costs", "--json", measured, "--size", "128", "--row", SMALL)
    assert result.exit_code == 2
    assert "was measured at 64 px" in result.stderr


def test_a_row_that_fails_does_not_stop_the_others(measured, tmp_path, monkeypatch):
    found = costs_module.load_costs(measured).rows[SMALL]

    def fake(row, *_):
        if row.key == "t1-ddc":
            raise GateFailed("no")
        return msgspec.structs.replace(found, network=row.network)

    monkeypatch.setattr(costs_module, "measure", fake)
    result = measure(tmp_path / "costs.json", "--row", "t1-ddc", "--row", "t1-eca")
    assert result.exit_code == 1
    assert "t1-ddc: no" in result.stderr
    assert set(costs_module.load_costs(tmp_path / "costs.json").rows) == {"t1-eca"}


def test_an_unknown_row():
    result = call("costs", "--json", "costs.json", "--row", "t1-dcc")
    assert result.exit_code == 2
    assert "did you mean 't1-ddc'" in result.stderr


def test_what_was_not_run_says_so(measured, tmp_path):
    result = call("show", "--costs", measured, "--scores", tmp_path, "--markdown", tmp_path / "tables.md")
    assert result.exit_code == 0
    assert NOT_RUN in result.stdout
    markdown = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert cells(markdown, "LinkNet")[0] == "not run / 0.767"
    assert all(NOT_RUN not in cell for cell in cells(markdown, "LinkNet")[4:])
    for row in (*TABLE_1, *TABLE_2[:-1]):
        found = cells(markdown, row.label + (" (our reading)" if row.reading else ""))
        assert all(cell.startswith(NOT_RUN) for cell in (found[:4] if row.key == SMALL else found))
    assert "Scores: not run." in markdown


def test_a_score_stands_in_every_table_that_has_its_network(measured, tmp_path):
    score = make_score("t1-msal-r34")
    put_score(tmp_path, score)
    markdown = as_markdown(load(measured, tmp_path))
    dice, precision = score.scores["pixel_dice_mean"], score.scores["precision_mean"]
    assert dice == pytest.approx((160 / 190 + 16 / 22) / 2)
    for label in ("MSAL-Net + Res-34", "MSAL-Net"):
        assert cells(markdown, label)[0] == f"{dice:.3f} / 0.839"
        assert cells(markdown, label)[2] == f"{precision:.3f} / 0.821"
    assert cells(markdown, "Backbone + DDC")[0] == "not run / 0.810"
    assert "means over 2 patches of 2 test images of monuseg" in markdown
    assert f"recipe fast, {BUILT_IN['fast'].train.epochs} epochs" in markdown


def test_costs_of_a_network_that_has_changed_are_not_shown(measured, tmp_path):
    found = costs_module.load_costs(measured)
    old = msgspec.structs.replace(found.rows[SMALL], network=NetworkRecipe())
    costs_module.save_costs(tmp_path / "costs.json", msgspec.structs.replace(found, rows={SMALL: old}))
    assert cells(as_markdown(load(tmp_path / "costs.json", None)), "LinkNet")[4] == NOT_RUN


def test_scores_of_different_schedules_do_not_stand_in_one_table(measured, tmp_path):
    put_score(tmp_path, make_score("t1-ddc"))
    put_score(tmp_path, make_score("t1-eca", Recipe.load("demo")))
    result = call("show", "--costs", measured, "--scores", tmp_path)
    assert result.exit_code == 2
    assert "different schedules" in result.stderr


def test_the_score_of_another_network_is_refused(measured, tmp_path):
    score = make_score("t1-ddc")
    put_score(tmp_path, msgspec.structs.replace(score, key="t1-eca"))
    result = call("show", "--costs", measured, "--scores", tmp_path)
    assert result.exit_code == 2
    assert "another network" in result.stderr


def test_a_row_is_trained_scored_and_then_left_alone(measured, tmp_path, monkeypatch):
    synthesize(tmp_path / "data", train=2, test=2, size=512)
    (tmp_path / "tiny.toml").write_text(TINY)
    words = ("train", "--data", tmp_path / "data", "--out", tmp_path / "runs", "--recipe", tmp_path / "tiny.toml")
    result = call(*words, "--row", SMALL)
    assert result.exit_code == 0, result.output
    score = scores_module.load_score(tmp_path / "runs", ROWS[SMALL])
    assert (score.images, len(score.patches), score.data) == (2, 2, "data")
    assert score.training.training_images == 1
    assert str(tmp_path) not in (tmp_path / "runs" / f"{SMALL}.json").read_text()
    assert not cells(as_markdown(load(measured, tmp_path / "runs")), "LinkNet")[0].startswith(NOT_RUN)

    monkeypatch.setattr(scores_module, "run", None)  # calling it would fail
    again = call(*words, "--row", SMALL)
    assert again.exit_code == 0
    assert "1 of 1 rows are done already" in again.stderr
    other = call(*words, "--row", SMALL, "--epochs", "2")
    assert other.exit_code == 2
    assert "another recipe" in other.stderr


def readme_commands() -> list[str]:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("python ")]


def test_the_readmes_commands_are_the_programs():
    assert len(readme_commands()) == 3
    for line in readme_commands():
        _, program, name, *words = shlex.split(line)
        assert (FOLDER.parents[1] / program).is_file()
        parameters = typer.main.get_command(app).commands[name].params
        known = {option for parameter in parameters for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known
