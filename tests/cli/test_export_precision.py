"""``export --fp16 --int8``: the graphs in the bundle, and the errors for wrong options."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from msal_deploy.bundle import Bundle
from msal_deploy.cli import app
from msal_deploy.data import synthesize
from msal_deploy.precision.int8 import quantisable

pytestmark = pytest.mark.usefixtures("one_torch_thread", "small_shapes")
GRAPHS = {"model.fp32.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.u8s8.onnx"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training images, of which two are held out, and two test images."""
    folder = tmp_path_factory.mktemp("images") / "monuseg"
    synthesize(folder, train=8, test=5, size=512, seed=5)
    return folder


@pytest.fixture(scope="module")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of a quarter of the pixels, for a search that scores them again and again."""
    folder = tmp_path_factory.mktemp("small") / "monuseg"
    synthesize(folder, train=8, test=5, size=256, seed=5)
    return folder


@pytest.fixture
def few_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search over four nodes takes seconds; over all of them, minutes."""
    monkeypatch.setattr("msal_deploy.precision.search.quantisable", lambda graph: quantisable(graph)[:4])


def test_export_writes_all_graphs_and_traces_them_to_the_checkpoint(checkpoint_file, images, tmp_path):
    out = tmp_path / "bundle"
    arguments = ["--fp16", "--int8", "--calibration", images, "--tiles", 6, "--json", tmp_path / "report.json"]
    result = run("export", checkpoint_file, "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    assert "FP16: all nodes in FP16's range" in result.output
    assert "INT8: 100.0% of the multiply-accumulates, calibrated (minmax) on 6 tiles" in result.output
    artifacts = Bundle(out).manifest.artifacts
    assert GRAPHS | {"calibration.json", "precision.json"} <= artifacts.keys()
    assert artifacts["model.int8.onnx"].made_from == ("model.fp32.onnx", "calibration.json")
    assert artifacts["model.fp32.onnx"].made_from == ("checkpoint.safetensors",)
    assert len(json.loads((out / "calibration.json").read_text())["tiles"]) == 6
    report = json.loads((tmp_path / "report.json").read_text())["precision"]
    assert report == json.loads((out / "precision.json").read_text())
    assert report["int8"]["search"] is None

    engines = [f"--engine={name}" for name in ("onnxruntime:fp16", "onnxruntime:int8", "openvino:int8")]
    scored = run("validate", out, "--data", images, *engines, "--budget", 1)
    assert scored.exit_code == 0, scored.output


def test_budget_search_is_reported(checkpoint_file, small_images, tmp_path, few_nodes):
    out = tmp_path / "bundle"
    result = run("export", checkpoint_file, "--out", out, "--int8", "--calibration", small_images, "--budget", 0.9)
    assert result.exit_code == 0, result.output
    assert "held-out patches" in result.output
    report = json.loads((out / "precision.json").read_text())["int8"]
    assert report["search"]["images"] == 2
    assert len(report["search"]["trials"]) == 1
    assert not list(tmp_path.glob(".*.jsonl"))


def test_budget_that_cannot_be_kept_writes_nothing_and_keeps_its_trials(
    checkpoint_file, small_images, tmp_path, few_nodes, monkeypatch
):
    def costly(*arguments):
        trial = scored(*arguments)
        return type(trial)(
            trial.float_nodes, trial.int8_share, trial.dice, type(trial.delta_dice)(-0.1, -0.2, 0.0), 1.0
        )

    from msal_deploy.precision.search import Evaluator

    scored = Evaluator._scored
    monkeypatch.setattr(Evaluator, "_scored", costly)
    out = tmp_path / "bundle"
    arguments = ["export", checkpoint_file, "--out", out, "--int8", "--calibration", small_images, "--tiles", 4]
    result = run(*arguments, "--budget", 0.01)
    assert result.exit_code == 1, result.output
    assert "No INT8 graph stays within the budget of 0.01 Dice" in result.output
    assert not out.exists()
    monkeypatch.setattr(Evaluator, "_scored", lambda *_: pytest.fail("was scored again"))
    assert run(*arguments, "--budget", 0.01).exit_code == 1
    monkeypatch.setattr(Evaluator, "_scored", costly)
    assert run(*arguments, "--budget", 0.3).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8"], "--fp16 and --int8 require calibration; name a data set with --calibration DIR"),
        (["--calibration", "DIR"], "--calibration requires --fp16 or --int8; add one of them"),
        (["--fp16", "--calibration", "DIR", "--budget", "0.1"], "--budget requires --int8; add it"),
        (["--int8", "--calibration", "DIR", "--method", "entropi"], "did you mean 'entropy'?"),
        (["--int8", "--calibration", "DIR", "--tiles", "999"], "Expected between 1 and 24 calibration tiles, got 999"),
    ],
)
def test_wrong_options_are_rejected(arguments, message, checkpoint_file, images, tmp_path):
    out = tmp_path / "bundle"
    given = [str(images) if argument == "DIR" else argument for argument in arguments]
    result = run("export", checkpoint_file, "--out", out, *given)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_export_rejects_test_images_among_the_training_images(checkpoint_file, images, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(images, copy)
    (test,) = list(copy.rglob("*TEST-001.tif"))
    (train,) = list(copy.rglob("*TRAIN-001.tif"))
    shutil.copyfile(test, train)
    result = run("export", checkpoint_file, "--out", tmp_path / "bundle", "--int8", "--calibration", copy)
    assert result.exit_code == 2
    assert "have the same pixels" in " ".join(result.output.split())


def test_export_rejects_a_data_set_of_one_image(checkpoint_file, tmp_path):
    folder = tmp_path / "one"
    synthesize(folder, train=1, test=1, size=256)
    result = run("export", checkpoint_file, "--out", tmp_path / "bundle", "--int8", "--calibration", folder)
    assert result.exit_code == 2
    assert "Expected at least 2 training images" in " ".join(result.output.split())
