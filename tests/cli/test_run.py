"""The run command from images to report, with the real stages on a small synthetic set."""

import importlib
import json
import shutil
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from refusal import assert_refused
from typer.testing import CliRunner, Result

import msal_deploy.validate
from msal_deploy.bench import bench
from msal_deploy.bundle import Bundle
from msal_deploy.checkpoint import load_checkpoint, save_checkpoint
from msal_deploy.cli import app
from msal_deploy.errors import GateFailed
from msal_deploy.validate import ValidationReport
from msal_deploy.validate.probe import choose_tiles
from msal_deploy.weights import find_weights

run_command = importlib.import_module("msal_deploy.cli.run")

ENGINES = {"torch:fp32", "onnxruntime:fp32", "openvino:fp32"}
LOWER = {"onnxruntime:int8", "openvino:int8"}  # and onnxruntime:fp16, which is scored but not timed


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", autouse=True)
def small_and_few() -> Iterator[None]:
    """These tests need neither accurate timings nor large tiles for the checks without labels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msal_deploy.bench.timing.MIN_RUNS", 1)
        patch.setattr("msal_deploy.bench.bench", partial(bench, size=(128, 128), rounds=1))
        patch.setattr("msal_deploy.validate.compare.choose_tiles", lambda patches: choose_tiles(patches, 64))
        yield


@pytest.fixture(scope="module")
def folder(small_set: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    arguments = ["--epochs", 6, "--out", out, "--seconds", 0.1, "--budget", 0.1]
    result = run("run", "--data", small_set, "--recipe", recipe_file, *arguments)
    assert result.exit_code == 0, result.output
    assert f"Report: {out / 'report.html'}" in result.output
    return out


def test_validation_scores_every_engine_and_fp32_matches_torch(folder: Path) -> None:
    report = json.loads((folder / "validation.json").read_text())
    assert report["reference"] == "torch:fp32"
    assert report["patches"] == 5
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
    arguments = ["--data", small_set, "--recipe", recipe_file, "--epochs", 6, "--engine", "onnxruntime:fp32"]
    result = run("run", *arguments, "--out", folder, "--seconds", 0.1, "--no-fp16", "--no-int8")
    assert result.exit_code == 0, result.output
    assert (folder / "training" / "best.safetensors").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def both(folder: Path, small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run of two weights; the JSON is in both.json."""
    out = tmp_path_factory.mktemp("also") / "out"
    heavy, light = folder / "training" / "best.safetensors", other_weights(folder, out.parent / "light")
    arguments = ["--data", small_set, "--checkpoint", heavy, "--also", light, "--out", out, "--json", out / "both.json"]
    arguments += ["--no-int8", "--engine", "onnxruntime:fp32", "--engine", "torch:fp32", "--seconds", 0.1]
    with pytest.MonkeyPatch.context() as patch:
        compare_and_time_small_images(patch)
        result = run("run", *arguments)
    assert result.exit_code == 0, result.output
    for words in ("Validation: parity on 5 test patches (light-best)", "Latency, end to end", "(training-best)"):
        assert words in " ".join(result.output.split())
    return out


def compare_and_time_small_images(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("msal_deploy.bench.bench", partial(bench, batches=(1,), size=(64, 64)))
    patch.setattr("msal_deploy.export.SIZES", ((64, 96),))
    patch.setattr("msal_deploy.export.BATCHES", (2,))


def other_weights(folder: Path, target: Path) -> Path:
    """Write a checkpoint with the same file name as the trained one, and with other weights."""
    checkpoint = load_checkpoint(folder / "training" / "best.safetensors")
    weights = {key: value * 1.01 if value.is_floating_point() else value for key, value in checkpoint.weights.items()}
    target.mkdir()
    save_checkpoint(target / "best.safetensors", msgspec.structs.replace(checkpoint, weights=weights, file=None))
    return target / "best.safetensors"


def test_also_makes_a_bundle_a_validation_and_a_benchmark_of_the_other_weights(both: Path) -> None:
    first, other = Bundle(both / "bundle"), Bundle(both / "bundle-light-best")
    assert first.manifest.artifacts.keys() == other.manifest.artifacts.keys() >= {"model.fp16.onnx"}
    assert first.spec == other.spec
    for name in ("checkpoint.safetensors", "model.fp32.onnx", "model.fp16.onnx"):
        assert first.manifest.artifacts[name].sha256 != other.manifest.artifacts[name].sha256
    validations = [json.loads((both / f"validation{suffix}.json").read_text()) for suffix in ("", "-light-best")]
    patches = [
        [(patch["stem"], patch["corner"]) for patch in one["engines"]["torch:fp32"]["per_patch"]] for one in validations
    ]
    assert patches[0] == patches[1]
    assert validations[0]["engines"].keys() == validations[1]["engines"].keys() == {"torch:fp32", "onnxruntime:fp32"}
    assert validations[1]["engines"]["onnxruntime:fp32"]["flipped_pixels"] < 1e-3  # parity with its own torch:fp32


def test_json_of_several_weights(both: Path) -> None:
    report = json.loads((both / "both.json").read_text())
    assert list(report) == ["validate", "bench", "precision", "also", "accuracy_latency"]
    (other,) = report["also"]
    assert list(other) == ["weights", "validate", "bench", "precision"]
    assert other["weights"] == "light-best"
    assert other["precision"]["fp16"] and report["precision"]["fp16"]
    assert other["validate"] == json.loads((both / "validation-light-best.json").read_text())
    assert other["bench"] == json.loads((both / "bench-light-best.json").read_text())
    rows = {(row["weights"], row["engine"]): row for row in report["accuracy_latency"]}
    engines = ("torch:fp32", "onnxruntime:fp32")
    assert rows.keys() == {(name, engine) for name in ("training-best", "light-best") for engine in engines}
    reference = rows["training-best", "torch:fp32"]["latency_ms_p50"]
    for row in rows.values():
        assert row["speed_up"] == pytest.approx(reference / row["latency_ms_p50"])


def test_page_of_several_weights(both: Path) -> None:
    page = (both / "report.html").read_text(encoding="utf-8")
    assert "over torch:fp32 of training-best" in page
    assert "<td>light-best</td>" in page and "<td>training-best</td>" in page


def test_run_fails_if_only_the_other_weights_exceed_the_budget(
    folder: Path, small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validate(bundle: Bundle, *arguments: Any, **options: Any) -> ValidationReport:
        report = original(bundle, *arguments, **options)
        if bundle.path.name == "bundle":
            return report
        score = report.engines["onnxruntime:fp32"]
        failed = msgspec.structs.replace(score.judgement, verdicts={"dice": "over"}, failures=("it loses Dice",))
        engines = {**report.engines, "onnxruntime:fp32": msgspec.structs.replace(score, judgement=failed)}
        return msgspec.structs.replace(report, engines=engines)

    compare_and_time_small_images(monkeypatch)
    original = msal_deploy.validate.validate
    monkeypatch.setattr("msal_deploy.validate.validate", validate)
    light, out = other_weights(folder, tmp_path / "light").rename(tmp_path / "light.safetensors"), tmp_path / "out"
    arguments = ["--data", small_set, "--checkpoint", folder / "training" / "best.safetensors", "--also", light]
    arguments += ["--no-fp16", "--no-int8", "--engine", "onnxruntime:fp32", "--seconds", 0.1]
    result = run("run", *arguments, "--out", out)
    assert_refused(
        result,
        1,
        "Error: light: Not within budget of torch:fp32: onnxruntime:fp32: it loses Dice; use a higher precision",
    )
    assert "onnxruntime:fp32 may not replace" in (out / "report.html").read_text(encoding="utf-8")


def test_also_refuses_before_any_work(folder: Path, tmp_path: Path) -> None:
    trained = folder / "training" / "best.safetensors"
    copied = Path(shutil.copyfile(trained, tmp_path / "copied.safetensors"))
    light = other_weights(folder, tmp_path / "light")
    torch.save(load_checkpoint(trained).weights, tmp_path / "state.pt")
    (tmp_path / "damaged.safetensors").write_bytes(trained.read_bytes()[:1000])
    (tmp_path / "other" / "light").mkdir(parents=True)
    third = load_checkpoint(light)
    save_checkpoint(
        tmp_path / "other" / "light" / "best.safetensors", msgspec.structs.replace(third, licence="CC0-1.0", file=None)
    )
    for also, words in (
        (["msal-net-r81"], "'msal-net-r81' is not the name of weights or a file; did you mean 'msal-net-r18'"),
        ([tmp_path / "nowhere.safetensors"], "does not exist; check the path"),
        ([trained], "has the same weights as"),
        ([copied], "copied.safetensors has the same weights as"),
        ([light, light], "has the same weights as"),
        ([tmp_path / "state.pt"], "does not say which network it holds, and --recipe does not apply to --also"),
        ([tmp_path / "damaged.safetensors"], "is not a complete safetensors file"),
        ([light, tmp_path / "other" / "light" / "best.safetensors"], "light-best, light-best; rename a file"),
    ):
        options = [word for one in also for word in ("--also", one)]
        result = run("run", "--checkpoint", trained, *options, "--out", tmp_path / "out")
        assert_refused(result, 2, words)
    result = run("run", "--also", "msal-net-r34", "--out", tmp_path / "out")
    assert_refused(result, 2, "has the same weights as")
    assert not (tmp_path / "out").exists()


def test_also_names_files_by_their_stem_and_folders_only_if_needed(tmp_path: Path, folder: Path) -> None:
    light = other_weights(folder, tmp_path / "light")
    first, others = run_command._name_weights(find_weights("msal-net-r34"), ["msal-net-r18", str(light)])
    assert (first, list(others)) == ("msal-net-r34", ["msal-net-r18", "best"])
    untrained = tmp_path / "training" / "best.safetensors"  # training will write it
    first, others = run_command._name_weights(untrained, [str(light)])
    assert (first, others) == ("training-best", {"light-best": light})


def test_require_passed_names_all_weights_that_failed() -> None:
    class Report:
        def __init__(self, cause: str, remedy: str) -> None:
            self.error = GateFailed(cause, remedy)

        def require_passed(self) -> None:
            if self.error.cause:
                raise self.error

    good, bad = Report("", ""), Report("Not finite: a:fp32", "use a higher precision")
    worse = Report("Dice loss", "use a higher precision or validate on more images")
    run_command._require_passed({"a": good, "b": good})  # type: ignore[dict-item]
    with pytest.raises(GateFailed, match=r"^Not finite: a:fp32; use a higher precision$"):
        run_command._require_passed({"a": bad})  # type: ignore[dict-item]
    both = r"^a: Not finite: a:fp32\. c: Dice loss; use a higher precision or validate on more images$"
    with pytest.raises(GateFailed, match=both):
        run_command._require_passed({"a": bad, "b": good, "c": worse})  # type: ignore[dict-item]
