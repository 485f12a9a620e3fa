"""``msal-deploy predict`` with a real engine: outputs, resuming, and what is refused."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from dark_bundle import write_dark_bundle
from PIL import Image
from refusal import assert_refused
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner, Result

from msal_deploy import Bundle
from msal_deploy.cli import app
from msal_deploy.data.tissue import draw_tissue
from msal_deploy.instances import separate
from msal_deploy.prediction import predict, predict_all
from msal_deploy.prediction.clock import STAGES
from msal_deploy.prediction.steps import Steps
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes.openvino import OpenVinoEngine

ENGINE = "openvino:fp32"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    write_dark_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "tissue.png"
    image, _ = draw_tissue(np.random.default_rng(0), 600)
    Image.fromarray(image[:, :500]).save(path)
    return path


@pytest.fixture(scope="module")
def folder(bundle_folder: Path, tissue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predict") / "nuclei"
    formats = "geojson,geojson.gz,parquet,ome-zarr,tiff,png"
    result = run(tissue, "-o", out, "-b", bundle_folder, "-e", ENGINE, "--format", formats, "--tile", 256)
    assert result.exit_code == 0, result.output
    return out


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in sorted(folder.glob("*/**/*")) if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_nuclei_are_those_of_one_pass_over_the_image(folder: Path, bundle_folder: Path, tissue: Path) -> None:
    with open_engine(Bundle(bundle_folder), ENGINE) as engine:
        labels = separate(engine.segment(np.asarray(Image.open(tissue)), tile=256))
    assert labels.max() > 5
    record = json.loads((folder / "tissue" / "run.json").read_text())
    assert record["nuclei"] == labels.max()
    features = json.loads((folder / "tissue" / "nuclei.geojson").read_text())["features"]
    assert len(features) == labels.max()
    nuclei = predict(tissue, bundle=Bundle(bundle_folder), engine=ENGINE, tile=256)
    assert len(nuclei) == labels.max()
    np.testing.assert_array_equal(nuclei.labels > 0, labels > 0)


def test_an_array_gives_what_its_file_gives(bundle_folder: Path, tissue: Path) -> None:
    from_file = predict(tissue, bundle=Bundle(bundle_folder), engine=ENGINE)
    from_array = predict(np.asarray(Image.open(tissue)), bundle=Bundle(bundle_folder), engine=ENGINE)
    np.testing.assert_array_equal(from_file.labels, from_array.labels)
    labels, options, kind = from_array.napari_layer()
    assert kind == "labels" and options["scale"] == (0.25, 0.25) and labels.shape == (600, 500)


def test_the_same_command_changes_nothing(folder: Path, bundle_folder: Path, tissue: Path) -> None:
    before = files(folder)
    result = run(tissue, "-o", folder, "-b", bundle_folder, "-e", ENGINE, "--tile", 256)
    assert result.exit_code == 0, result.output
    assert files(folder) == before


def test_the_engine_gets_ready_while_tissue_is_found_and_a_finished_run_leaves_it_alone(
    bundle_folder: Path, tissue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    infer = OpenVinoEngine._infer

    def noted(engine, images):
        calls.append((images.shape, bool(images.any())))
        return infer(engine, images)

    monkeypatch.setattr(OpenVinoEngine, "_infer", noted)
    options = {"bundle": Bundle(bundle_folder), "engine": ENGINE, "tile": 256, "batch": 2, "formats": ["geojson"]}
    predict_all([tissue], tmp_path / "out", **options)
    # 600 × 500 px are 3 × 3 tiles of one region, two at a time.
    assert calls[0] == ((2, 256, 256, 3), False)
    assert calls[1:] == [((2, 256, 256, 3), True)] * 4 + [((1, 256, 256, 3), True)]
    calls.clear()
    predict_all([tissue], tmp_path / "out", **options)
    assert calls == []


def test_a_lost_region_is_computed_again_with_the_same_bytes(folder: Path, bundle_folder: Path, tissue: Path) -> None:
    before = files(folder)
    record_path = folder / "tissue" / "run.json"
    record = json.loads(record_path.read_text()) | {"nuclei": -1}
    record_path.write_text(json.dumps(record))
    next((folder / "tissue" / "regions").iterdir()).unlink()
    result = run(tissue, "-o", folder, "-b", bundle_folder, "-e", ENGINE, "--tile", 256)
    assert result.exit_code == 0, result.output
    assert files(folder) == before


def test_the_report_as_json(bundle_folder: Path, tissue: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    result = run(tissue, "-o", tmp_path / "out", "-b", bundle_folder, "-e", ENGINE, "--json", path, "--format", "tiff")
    assert result.exit_code == 0, result.output
    record = json.loads(path.read_text())["slides"]["tissue"]
    assert record["shape"] == [600, 500] and record["scale"] == 1.0
    # 600 · 500 px · (0.25 µm)² = 18,750 µm²: all of the image is tissue
    assert record["tissue_mm2"] == pytest.approx(0.01875)
    seconds = record["seconds"]
    assert seconds.keys() == {*STAGES, "total"} - {"page"}  # the page shows all slides
    # Each stage has its own time, and what is in the timeline adds up to it; the total ends after the outputs.
    spans = [(stage, end - begin) for stage, _, begin, end in record["timeline"]]
    for stage in seconds.keys() - {"total"}:
        assert sum(span for name, span in spans if name == stage) == pytest.approx(seconds[stage], abs=0.001)
    assert seconds["total"] >= max(end for *_, end in record["timeline"]) - 0.001  # rounded
    assert record["identity"]["engine"] == ENGINE
    assert any("0.25 µm/px" in note for note in record["notes"])


def test_a_format_whose_package_is_missing_is_refused_before_anything_is_computed(
    bundle_folder: Path, tissue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msal_deploy.prediction.checks.find_spec", lambda name: None)
    result = run(tissue, "-o", tmp_path / "out", "-b", bundle_folder, "-e", ENGINE, "--format", "parquet")
    assert_refused(result, 3, "pyarrow is not installed; run: pip install 'msal-deploy[slides]'")
    assert not (tmp_path / "out").exists()


def test_another_engine_is_refused(folder: Path, bundle_folder: Path, tissue: Path) -> None:
    result = run(tissue, "-o", folder, "-b", bundle_folder, "-e", "onnxruntime:fp32", "--tile", 256)
    assert_refused(result, 2, "results of openvino:fp32, not onnxruntime:fp32")


def test_another_tile_is_refused(folder: Path, bundle_folder: Path, tissue: Path) -> None:
    result = run(tissue, "-o", folder, "-b", bundle_folder, "-e", ENGINE, "--tile", 512)
    assert_refused(result, 2, "result of another run, with another tile: 256, now 512")


def test_a_changed_image_is_refused(folder: Path, bundle_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (60, 60), (200, 100, 150)).save(tmp_path / "tissue.png")
    result = run(tmp_path / "tissue.png", "-o", folder, "-b", bundle_folder, "-e", ENGINE, "--tile", 256)
    assert_refused(result, 2, "result of another run, with another content of the image; choose another folder")


def test_a_folder_with_other_files_is_refused(bundle_folder: Path, tissue: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep")
    result = run(tissue, "-o", tmp_path, "-b", bundle_folder, "-e", ENGINE)
    assert_refused(result, 2, "contains other files than results of predict")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_inputs_with_one_name_are_refused(bundle_folder: Path, tissue: Path, tmp_path: Path) -> None:
    result = run(tissue, tissue.with_suffix(".jpg"), "-o", tmp_path / "out", "-b", bundle_folder)
    assert_refused(result, 2, "have the same name")
    assert not (tmp_path / "out").exists()


def test_a_mistyped_format_is_refused(bundle_folder: Path, tissue: Path, tmp_path: Path) -> None:
    result = run(tissue, "-o", tmp_path / "out", "-b", bundle_folder, "--format", "geojsn")
    assert_refused(result, 2, "'geojsn' is not an output format; did you mean 'geojson'?")


def test_an_image_that_fails_does_not_stop_the_others(bundle_folder: Path, tissue: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(tissue.read_bytes()[:3000])
    out = tmp_path / "out"
    result = run(tmp_path / "broken.png", tissue, "-o", out, "-b", bundle_folder, "-e", ENGINE)
    assert result.exit_code == 1
    assert "broken.png" in result.output and "Traceback" not in result.output
    assert json.loads((out / "tissue" / "run.json").read_text())["nuclei"] > 0
    assert "broken.png" in (out / "index.html").read_text()


def test_the_engine_computes_an_image_while_the_one_before_is_finished(
    bundle_folder: Path, tissue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(tissue, tmp_path / "second.png")
    computed, calls = threading.Event(), []
    infer, find = OpenVinoEngine._infer, Steps.find_nuclei

    def noted(engine, images):
        calls.append(images.any())
        if len(calls) == 3:  # the empty batch, the first image, and the second
            computed.set()
        return infer(engine, images)

    def late(steps, row, column):
        assert computed.wait(60), "the second image waits for the first"
        return find(steps, row, column)

    monkeypatch.setattr(OpenVinoEngine, "_infer", noted)
    monkeypatch.setattr(Steps, "find_nuclei", late)
    options = {"bundle": Bundle(bundle_folder), "engine": ENGINE, "tile": 608, "formats": ["geojson"]}
    report = predict_all([tissue, tmp_path / "second.png"], tmp_path / "out", **options)
    report.require_passed()
    assert calls == [False, True, True]  # both have one size: it is compiled once
    assert report.slides["tissue"].nuclei == report.slides["second"].nuclei > 0
    # What a stage took in this call is what it took for both images.
    both = sum(record.seconds["infer"] for record in report.slides.values())
    assert report.seconds["infer"] == pytest.approx(both, abs=0.002)
    assert report.cpu_seconds["total"] > 0 and report.timeline[0][0] == "start"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tile", 500], "Expected a tile that is a multiple of 32, got 500"),
        (["--tile", 64, "--overlap", 64], "Expected an overlap from 0 to 63, got 64"),
        (["--overlap", 512], "Expected an overlap from 0 to 511, got 512"),
    ],
)
def test_tiles_that_cannot_cover_an_image_are_refused(
    bundle_folder: Path, tissue: Path, tmp_path: Path, options: list[object], message: str
) -> None:
    assert_refused(run(tissue, "-o", tmp_path / "out", "-b", bundle_folder, *options), 2, message)
    assert not (tmp_path / "out").exists()


def test_a_single_image_that_fails_is_bad_input(bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    result = run(tmp_path / "broken.png", "-o", tmp_path / "out", "-b", bundle_folder, "-e", ENGINE)
    assert_refused(result, 2, "broken.png")
    assert not (tmp_path / "out").exists()


def test_glass_has_no_nuclei(bundle_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (700, 300), (242, 242, 242)).save(tmp_path / "glass.png")
    formats = "geojson,parquet,ome-zarr,tiff,png"
    result = run(tmp_path / "glass.png", "-o", tmp_path / "out", "-b", bundle_folder, "-e", ENGINE, "--format", formats)
    assert result.exit_code == 0, result.output
    assert "no tissue was found" in result.output
    assert json.loads((tmp_path / "out" / "glass" / "nuclei.geojson").read_text())["features"] == []


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (33, 31)])
def test_small_images(bundle_folder: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (120, 60, 140)).save(tmp_path / "small.png")
    formats = "geojson,parquet,ome-zarr,tiff,png"
    result = run(tmp_path / "small.png", "-o", tmp_path / "out", "-b", bundle_folder, "-e", ENGINE, "--format", formats)
    assert result.exit_code == 0, result.output


def test_results_of_another_graph_are_refused(folder: Path, tissue: Path, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "other")
    Image.open(tissue).save(tmp_path / "second.png")
    result = run(tmp_path / "second.png", "-o", folder, "-b", tmp_path / "other", "-e", ENGINE)
    assert_refused(result, 2, "contains results of another graph")


def test_a_full_disk_ends_with_one_sentence_and_the_run_goes_on_elsewhere(
    bundle_folder: Path, tmp_path: Path, small_disk: Path
) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (1200, 1200, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    arguments = (tmp_path / "noise.png", "-b", bundle_folder, "-e", ENGINE, "--format", "tiff")
    result = run(*arguments, "-o", small_disk / "out")
    assert_refused(result, 3, "is full; free some space and run the command again")
    left = [path for path in (small_disk / "out").rglob("*") if path.is_file()]
    assert not [path for path in left if "partial" in path.name]
    shutil.copytree(small_disk / "out", tmp_path / "out")
    result = run(*arguments, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output


def test_what_a_killed_run_left_half_written_is_removed(bundle_folder: Path, tissue: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(tissue, "-o", out, "-b", bundle_folder, "-e", ENGINE).exit_code == 0
    whole = files(out)
    (out / "tissue" / "regions" / ".000-000.npz.msal-deploy-abcd_123").mkdir()
    assert run(tissue, "-o", out, "-b", bundle_folder, "-e", ENGINE).exit_code == 0
    assert files(out) == whole


def test_ctrl_c_stops_and_the_next_run_goes_on(bundle_folder: Path, tissue: Path, tmp_path: Path) -> None:
    arguments = [str(tissue), "-b", str(bundle_folder), "-e", ENGINE, "--tile", "64", "--overlap", "32", "-o"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(*arguments, whole).exit_code == 0
    command = [sys.executable, "-m", "msal_deploy", "predict", *arguments, str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while not (out / "tissue" / "run.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode in (0, 130), errors  # 0 if it was faster than the signal
    assert "Traceback" not in errors
    assert run(*arguments, out).exit_code == 0
    assert files(out) == files(whole)
