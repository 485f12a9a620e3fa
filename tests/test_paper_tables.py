"""The program of benchmarks/paper/: the rows of the paper, their costs and scores, and the tables."""

import re
import shlex
import sys
from pathlib import Path

import msgspec
import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from msal_deploy.data import synthesize
from msal_deploy.errors import GateFailed
from msal_deploy.hardware import describe_processor
from msal_deploy.metrics import Confusion
from msal_deploy.recipe import BUILT_IN, NetworkRecipe, Recipe
from msal_deploy.runtimes import CATALOGUE
from msal_deploy.zoo import build_network

pytest.importorskip("segmentation_models_pytorch")
FOLDER = Path(__file__).parents[1] / "benchmarks" / "paper"
sys.path.insert(0, str(FOLDER))

import costs as costs_module  # noqa: E402
import scores as scores_module  # noqa: E402
from agreement import Agreement  # noqa: E402
from render import NONE, Section, as_markdown, as_tables, load, sections  # noqa: E402
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
    """A file with the costs of one row; tests must not change it."""
    path = tmp_path_factory.mktemp("costs") / "costs.json"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = measure(path, "--row", SMALL)
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    return path


def make_score(key: str, recipe: Recipe | None = None, trained_on: str = "NVIDIA H100"):
    recipe = scores_module.recipe_of(ROWS[key], recipe or Recipe.load("fast"))
    counts = [Confusion(80, 20, 10), Confusion(8, 2, 4)]
    return scores_module.RowScore(
        key=key, recipe=recipe, data="monuseg", training=scores_module.Training(1, 0.8, 9.0, 24, (), ""),
        agreement=Agreement("quick", 17, 100, 1e-4, 0.1, ()), engine="onnxruntime:fp32", threshold=0.5,
        label_convention="", images=2, scores=scores_module.summary(counts),
        patches=tuple(scores_module.PatchScore(str(i), "top-left", c) for i, c in enumerate(counts)), environment={},
        trained_on=trained_on,
    )  # fmt: skip


def put_score(folder: Path, score) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{score.key}.json").write_bytes(msgspec.json.encode(score))


def render(costs: Path, scores: Path | None) -> tuple[Section, Section]:
    costs_section, scores_section = sections(load(costs, scores))
    return costs_section, scores_section


def shown(section: Section) -> dict[str, list[str]]:
    """Return the labels in each table of a section, by its title."""
    return {grid.title: [line[0] for line in grid.lines] for grid in section.grids}


def cells(section: Section, label: str) -> dict[str, str]:
    """Return the cells of the row `label` by column."""
    ((columns, line),) = ((grid.columns, line) for grid in section.grids for line in grid.lines if line[0] == label)
    return dict(zip(columns, line[1:], strict=True))


def test_rows_are_those_of_both_tables():
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
def test_rows_have_the_published_scores(key, paper):
    assert ROWS[key].paper == paper


@pytest.mark.parametrize("row", TABLE_1[1:], ids=lambda row: row.key)
def test_row_network_has_the_blocks_of_its_label(row):
    whole = row.label.startswith("MSAL-Net")
    depth = re.search(r"Res-(\d+)", row.label)
    assert row.network == NetworkRecipe(
        backbone=f"resnet{depth[1] if depth else 18}",
        dense_dilated=whole or "DDC" in row.label,
        channel_attention=whole or "ECA" in row.label,
        boundary_refinement=whole or "BR" in row.label,
        weights="random",
    )


def test_rows_without_a_full_paper_are_marked():
    assert {row.key for row in ROWS.values() if row.reading} == {"t2-asspu-net", "t2-mdc-net"}


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.key)
def test_row_network_can_be_built(row):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build_network(row.network).parameters()) > 1e6


def test_recipe_of_combines_a_schedule_with_the_network_of_a_row():
    recipe = Recipe()
    unet, linknet = (scores_module.recipe_of(ROWS[key], recipe) for key in ("t1-unet-r18", "t2-linknet"))
    assert unet.train == linknet.train == recipe.train
    assert (unet.network.weights, linknet.network.weights) == ("imagenet", "random")


def test_costs_skips_measured_rows(measured, tmp_path, monkeypatch):
    path = tmp_path / "costs.json"
    path.write_bytes(measured.read_bytes())
    monkeypatch.setattr(costs_module, "measure", None)  # a call would fail
    result = measure(path, "--row", SMALL)
    assert result.exit_code == 0
    assert "1 of 1 rows are already done" in result.stderr
    assert path.read_bytes() == measured.read_bytes()


def test_costs_measures_and_compares_a_row(measured):
    cost = costs_module.load_costs(measured).rows[SMALL]
    assert 11.4e6 < cost.parameters < 11.8e6
    assert {one.engine for one in cost.agreement.engines} == {"onnxruntime:fp32", "openvino:fp32"}
    assert 0 <= cost.agreement.max_abs_delta <= cost.agreement.tolerance
    assert cost.agreement.spread > 0.01
    assert cost.milliseconds("onnxruntime:fp32") > 0
    assert cost.environment["logical_cores"] > 0


def test_costs_rejects_another_size(measured):
    result = call("costs", "--json", measured, "--size", "128", "--row", SMALL)
    assert result.exit_code == 2
    assert "got 64 px" in result.stderr


def test_costs_continues_after_a_failed_row(measured, tmp_path, monkeypatch):
    cost = costs_module.load_costs(measured).rows[SMALL]

    def fake(row, *_):
        if row.key == "t1-ddc":
            raise GateFailed("it differs", "fix it")
        return msgspec.structs.replace(cost, network=row.network)

    monkeypatch.setattr(costs_module, "measure", fake)
    result = measure(tmp_path / "costs.json", "--row", "t1-ddc", "--row", "t1-eca")
    assert result.exit_code == 1
    assert "t1-ddc: it differs; fix it" in result.stderr
    assert set(costs_module.load_costs(tmp_path / "costs.json").rows) == {"t1-eca"}


def test_costs_rejects_an_unknown_row():
    result = call("costs", "--json", "costs.json", "--row", "t1-dcc")
    assert result.exit_code == 2
    assert "did you mean 't1-ddc'" in result.stderr


@pytest.mark.parametrize("command", ["costs", "train"])
def test_command_without_openvino_names_what_to_install(command, tmp_path, monkeypatch):
    missing = msgspec.structs.replace(CATALOGUE["openvino"], module="no_such_module")
    monkeypatch.setitem(CATALOGUE, "openvino", missing)
    words = {"costs": ("--json", tmp_path / "costs.json"), "train": ("--data", tmp_path, "--out", tmp_path / "runs")}
    result = call(command, "--row", SMALL, *words[command])
    assert result.exit_code == 3
    assert result.stderr.strip().endswith("openvino is not installed; run: pip install openvino")
    assert not list(tmp_path.iterdir())


def test_show_without_scores_shows_costs_only(measured, tmp_path):
    result = call("show", "--costs", measured, "--scores", tmp_path, "--markdown", tmp_path / "tables.md")
    assert result.exit_code == 0
    markdown = (tmp_path / "tables.md").read_text(encoding="utf-8")
    header, _, *rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert header == "| Table 2: other networks | parameters, M | GFLOP | ORT, ms | OpenVINO, ms |"
    assert [row.split("|")[1].strip() for row in rows] == ["LinkNet"]
    assert all(re.fullmatch(r" \d+\.\d( !)? ", cell) for cell in rows[0].split("|")[2:-1])
    assert "0.767" not in markdown  # the paper's Dice
    assert f"- Not measured: {', '.join(key for key in ROWS if key != SMALL)}." in markdown
    sentence = "Scores are left out, because the results have no trained row."
    assert markdown.endswith(f"\n### Scores\n\n{sentence}\n")
    assert "Not measured: t1-unet-r18" in " ".join(result.stdout.split())
    assert result.stdout.strip().endswith(sentence)


def test_show_without_costs_shows_scores_only(tmp_path):
    costs_module.save_costs(tmp_path / "costs.json", costs_module.Costs())
    put_score(tmp_path, make_score("t1-ddc"))
    costs, scores = render(tmp_path / "costs.json", tmp_path)
    assert (costs.grids, costs.notes) == ((), ("Costs are left out, because the results have no measured row.",))
    assert shown(scores) == {"Table 1: the blocks": ["Backbone + DDC"]}
    assert call("show", "--costs", tmp_path / "costs.json", "--scores", tmp_path).exit_code == 0


def test_show_without_any_result_prints_no_table(tmp_path):
    costs_module.save_costs(tmp_path / "costs.json", costs_module.Costs())
    assert call("show", "--costs", tmp_path / "costs.json").stdout.split("\n\n") == [
        "Costs are left out, because the results have no measured row.",
        "Scores are left out, because the results have no trained row.",
        "",
    ]


def test_committed_costs_have_every_row_and_fit_a_terminal():
    costs, _ = render(FOLDER / "results" / "costs.json", None)
    assert shown(costs) == {
        "Table 1: the blocks": [row.label for row in TABLE_1],
        "Table 2: other networks": [row.label + " (our reading)" * row.reading for row in TABLE_2],
    }
    assert not any(note.startswith("Not measured") for note in costs.notes)
    assert_fits_a_terminal(costs)


def test_readme_has_the_committed_results():
    markdown = as_markdown(sections(load(FOLDER / "results" / "costs.json", FOLDER / "results")))
    assert markdown in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_scores_of_every_row_fit_a_terminal(measured, tmp_path):
    for key in ROWS:
        put_score(tmp_path, make_score(key))
    _, scores = render(measured, tmp_path)
    assert sum(map(len, shown(scores).values())) == 20
    assert not any(note.startswith("Not trained") for note in scores.notes)
    assert_fits_a_terminal(scores)


def assert_fits_a_terminal(section: Section) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        for table in as_tables(section):
            console.print(table)
    text = capture.get()
    assert "…" not in text
    assert all(cell in text for grid in section.grids for line in grid.lines for cell in line[1:])


def test_result_files_keep_their_json_keys():
    score = msgspec.to_builtins(make_score("t1-ddc"))
    assert list(score["proof"]) == ["parity", "opset", "nodes", "tolerance", "spread", "comparisons"]
    assert list(score["scores"]) == [
        f"{name}_{average}"
        for name in ("pixel_dice", "pixel_iou", "precision", "recall")
        for average in ("mean", "pooled")
    ]
    costs = costs_module.load_costs(FOLDER / "results" / "costs.json")
    assert len(costs.rows) == len(ROWS)
    written = msgspec.json.decode((FOLDER / "results" / "costs.json").read_bytes())
    for row in written["rows"].values():
        row["network"].setdefault("light_decoder", False)  # the file is older than this field
    assert msgspec.json.decode(msgspec.json.encode(costs)) == written


def test_show_has_a_score_in_each_table_with_its_network(measured, tmp_path):
    put_score(tmp_path, make_score("t1-msal-r34"))
    costs, scores = render(measured, tmp_path)
    assert shown(scores) == {"Table 1: the blocks": ["MSAL-Net + Res-34"], "Table 2: other networks": ["MSAL-Net"]}
    assert shown(costs) == {"Table 2: other networks": ["LinkNet"]}
    for label in ("MSAL-Net + Res-34", "MSAL-Net"):
        # The counts are (tp, fp, fn) = (80, 20, 10) and (8, 2, 4).
        assert cells(scores, label) == {
            "DC, ours / paper": f"{(160 / 190 + 16 / 22) / 2:.3f} / 0.839",
            "IOU, ours / paper": f"{(80 / 110 + 8 / 14) / 2:.3f} / 0.706",
            "PR, ours / paper": "0.800 / 0.821",
            "RC, ours / paper": f"{(80 / 90 + 8 / 12) / 2:.3f} / 0.853",
            "DC, pooled": f"{176 / 212:.3f}",
        }
    about, trained_on, not_trained = scores.notes
    assert "means over 2 patches of 2 test images of monuseg" in about
    assert f"recipe fast, {BUILT_IN['fast'].train.epochs} epochs" in about
    assert trained_on == "Trained on: NVIDIA H100."
    assert not_trained == f"Not trained: {', '.join(key for key in ROWS if key != 't1-msal-r34')}."


def test_show_has_a_dash_for_a_metric_that_the_paper_does_not_have(measured, tmp_path):
    put_score(tmp_path, make_score("t2-mdc-net"))
    _, scores = render(measured, tmp_path)
    row = cells(scores, "MDC-Net (our reading)")
    assert row["DC, ours / paper"].endswith(" / 0.802")
    assert row["PR, ours / paper"] == f"0.800 / {NONE}"


def test_show_names_the_rows_of_each_device(measured, tmp_path):
    for key, device in (("t1-ddc", "NVIDIA H100"), ("t1-eca", "AMD EPYC"), ("t2-unet", "NVIDIA H100")):
        put_score(tmp_path, make_score(key, trained_on=device))
    _, scores = render(measured, tmp_path)
    assert "Trained on: NVIDIA H100 (t1-ddc, t2-unet); AMD EPYC (t1-eca)." in scores.notes


def test_show_reads_a_score_without_a_device(measured, tmp_path):
    old = msgspec.to_builtins(make_score("t1-ddc"))
    del old["trained_on"]
    (tmp_path / "t1-ddc.json").write_bytes(msgspec.json.encode(old))
    _, scores = render(measured, tmp_path)
    assert "Trained on: an unknown device." in scores.notes


def test_show_leaves_out_costs_of_a_network_that_has_changed(measured, tmp_path):
    costs = costs_module.load_costs(measured)
    old = msgspec.structs.replace(costs.rows[SMALL], network=NetworkRecipe())
    costs_module.save_costs(tmp_path / "costs.json", msgspec.structs.replace(costs, rows={SMALL: old}))
    assert shown(render(tmp_path / "costs.json", None)[0]) == {}


@pytest.mark.parametrize(
    ("accelerator", "cuda", "mps", "name"),
    [
        ("auto", True, False, "NVIDIA H100"),
        ("cuda", True, False, "NVIDIA H100"),
        ("cpu", True, True, describe_processor()[0]),
        ("auto", False, True, f"{describe_processor()[0]} (MPS)"),
        ("auto", False, False, describe_processor()[0]),
    ],
)
def test_device_name_is_that_of_the_chosen_accelerator(accelerator, cuda, mps, name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", {0: "NVIDIA H100"}.get)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert scores_module.device_name(accelerator) == name


def test_show_rejects_scores_of_different_schedules(measured, tmp_path):
    put_score(tmp_path, make_score("t1-ddc"))
    put_score(tmp_path, make_score("t1-eca", Recipe.load("demo")))
    result = call("show", "--costs", measured, "--scores", tmp_path)
    assert result.exit_code == 2
    assert "different schedules" in result.stderr


def test_show_rejects_the_score_of_another_network(measured, tmp_path):
    score = make_score("t1-ddc")
    put_score(tmp_path, msgspec.structs.replace(score, key="t1-eca"))
    result = call("show", "--costs", measured, "--scores", tmp_path)
    assert result.exit_code == 2
    assert "another network" in result.stderr


def test_train_trains_and_scores_a_row_once(measured, tmp_path, monkeypatch):
    synthesize(tmp_path / "data", train=2, test=2, size=512)
    (tmp_path / "tiny.toml").write_text(TINY)
    monkeypatch.setattr(scores_module, "device_name", lambda accelerator: f"the {accelerator}")
    words = ("train", "--data", tmp_path / "data", "--out", tmp_path / "runs", "--recipe", tmp_path / "tiny.toml")
    result = call(*words, "--row", SMALL, "--accelerator", "cpu")
    assert result.exit_code == 0, result.output
    score = scores_module.load_score(tmp_path / "runs", ROWS[SMALL])
    assert (score.images, len(score.patches), score.data) == (2, 2, "data")
    assert score.training.training_images == 1
    assert score.trained_on == "the cpu"
    assert str(tmp_path) not in (tmp_path / "runs" / f"{SMALL}.json").read_text()
    _, scores = render(measured, tmp_path / "runs")
    assert cells(scores, "LinkNet")["DC, ours / paper"] == f"{score.scores['pixel_dice_mean']:.3f} / 0.767"

    monkeypatch.setattr(scores_module, "run", None)  # a call would fail
    again = call(*words, "--row", SMALL)
    assert again.exit_code == 0
    assert "1 of 1 rows are already done" in again.stderr
    other = call(*words, "--row", SMALL, "--epochs", "2")
    assert other.exit_code == 2
    assert "another recipe" in other.stderr


def test_train_passes_the_accelerator_on(tmp_path):
    synthesize(tmp_path / "data", train=2, test=1, size=512)
    (tmp_path / "tiny.toml").write_text(TINY)
    result = call(
        "train", "--data", tmp_path / "data", "--out", tmp_path / "runs", "--recipe", tmp_path / "tiny.toml",
        "--row", SMALL, "--accelerator", "abacus",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "--accelerator abacus" in result.stderr


def readme_commands() -> list[str]:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("python ")]


def test_readme_commands_exist():
    assert len(readme_commands()) == 3
    for line in readme_commands():
        _, program, name, *words = shlex.split(line)
        assert (FOLDER.parents[1] / program).is_file()
        parameters = typer.main.get_command(app).commands[name].params
        known = {option for parameter in parameters for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known
