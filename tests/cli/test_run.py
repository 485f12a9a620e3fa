"""The run command from images to report, with the real stages on a small synthetic set."""

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from msal_deploy.bundle import Bundle
from msal_deploy.cli import app

ENGINES = {"torch:fp32", "onnxruntime:fp32", "openvino:fp32"}
LOWER = {"onnxruntime:int8", "openvino:int8"}  # and onnxruntime:fp16, which is scored but not timed


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", autouse=True)
def one_run_per_window() -> Iterator[None]:
    """These tests do not need accurate timings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msal_deploy.bench.timing.MIN_RUNS", 1)
        yield


@pytest.fixture(scope="module")
def folder(small_set: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    arguments = ["--epochs", 12, "--out", out, "--seconds", 0.1, "--budget", 0.1]
    result = run("run", "--data", small_set, "--recipe", recipe_file, *arguments)
    assert result.exit_code == 0, result.output
    assert f"Report: {out / 'report.html'}" in result.output
    return out


def test_validation_scores_every_engine_and_fp32_matches_torch(folder: Path) -> None:
    report = json.loads((folder / "validation.json").read_text())
    assert report["reference"] == "torch:fp32"
    assert report["patches"] == 8
    assert report["engines"].keys() == ENGINES | LOWER | {"onnxruntime:fp16"}
    for engine, score in report["engines"].items():
        assert {"pixel_dice_mean", "pixel_dice_pooled", "pixel_iou_mean", "pixel_iou_pooled"} <= score.keys()
        assert {"precision", "recall", "delta_dice", "passed"} <= score.keys()
        assert abs(score["delta_dice"]["mean"]) <= (1e-4 if engine in ENGINES else 0.05)
        assert score["passed"]


def test_training_improves_the_network(folder: Path) -> None:
    report = json.loads((folder / "validation.json").read_text())
    assert report["engines"]["torch:fp32"]["pixel_dice_mean"] > 0.3


def test_bench_json_has_its_keys(folder: Path) -> None:
    report = json.loads((folder / "bench.json").read_text())
    assert {(result["engine"], result["batch"]) for result in report["results"]} == {
        (e, b) for e in ENGINES | LOWER for b in (1, 4)
    }
    for result in report["results"]:
        assert {"p50", "p90", "p99", "mean"} <= result["latency_ms"].keys()
        assert result["images_per_s"] > 0
    assert report["environment"]


def test_bundle_has_all_files(folder: Path) -> None:
    names = {str(path.relative_to(folder / "bundle")) for path in (folder / "bundle").rglob("*") if path.is_file()}
    golden = {"golden/image.npy", "golden/probability.npy"}
    graphs = {"model.fp32.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.u8s8.onnx"}
    json_files = {"manifest.json", "calibration.json", "precision.json"}
    assert names == {"checkpoint.safetensors"} | json_files | graphs | golden


def test_export_compared_the_graph_with_torch_at_nine_shapes(folder: Path) -> None:
    ((_, checks),) = Bundle(folder / "bundle").manifest.checks.items()
    sizes = {(256, 256), (512, 512), (768, 512)}
    assert {(c["batch"], c["height"], c["width"]) for c in checks} == {(n, *size) for n in (1, 2, 5) for size in sizes}
    assert max(check["max_abs_delta"] for check in checks) <= 1e-4


def test_report_is_self_contained(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert all(engine in page for engine in ENGINES)
    assert all(rank in page.lower() for rank in ("best", "median", "worst"))
    assert 'src="http' not in page
    assert 'href="http' not in page


@pytest.mark.usefixtures("small_shapes")
def test_run_does_not_train_a_given_checkpoint(folder: Path, small_set: Path, tmp_path: Path) -> None:
    checkpoint, out = folder / "training" / "best.safetensors", tmp_path / "out"
    arguments = ["--data", small_set, "--checkpoint", checkpoint, "--engine", "onnxruntime:fp32", "--seconds", 0.1]
    arguments += ["--no-fp16", "--no-int8"]
    result = run("run", *arguments, "--out", out, "--json", tmp_path / "both.json")
    assert result.exit_code == 0, result.output
    assert not (out / "training").exists()
    assert json.loads((tmp_path / "both.json").read_text()).keys() == {
        "validate",
        "bench",
        "precision",
        "accuracy_latency",
    }
    assert not (out / "bundle" / "model.int8.onnx").exists()


def test_validate_rejects_a_graph_that_changed_after_export(folder: Path, small_set: Path) -> None:
    graph = folder / "bundle" / "model.fp32.onnx"
    content = graph.read_bytes()
    try:
        graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        result = run("validate", folder / "bundle", "--data", small_set)
    finally:
        graph.write_bytes(content)
    assert result.exit_code == 2
    assert "SHA-256 differs" in result.output


@pytest.mark.usefixtures("small_shapes")
def test_run_reuses_a_finished_training(folder: Path, small_set: Path, recipe_file: Path) -> None:
    before = (folder / "training" / "best.safetensors").stat().st_mtime_ns
    arguments = ["--data", small_set, "--recipe", recipe_file, "--epochs", 12, "--engine", "onnxruntime:fp32"]
    result = run("run", *arguments, "--out", folder, "--seconds", 0.1, "--no-fp16", "--no-int8")
    assert result.exit_code == 0, result.output
    assert (folder / "training" / "best.safetensors").stat().st_mtime_ns == before
