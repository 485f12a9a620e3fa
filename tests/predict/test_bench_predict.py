"""``msal-deploy bench --predict``: the report by hand, one real run, and what ends it early."""

import json
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dark_bundle import write_dark_bundle
from PIL import Image
from refusal import assert_refused
from typer.testing import CliRunner

from msal_deploy.bench.ratios import Ratio
from msal_deploy.cli import app, bench_pipeline, bench_trial
from msal_deploy.cli.bench_pipeline import PipelineReport
from msal_deploy.cli.bench_trial import Request, measure, run_trial
from msal_deploy.data.tissue import draw_tissue
from msal_deploy.errors import BadInput, InternalFault, MissingRequirement
from msal_deploy.prediction.clock import STAGES
from msal_deploy.prediction.trial import EngineAlone, Trial, with_engine_threads

ENGINE = "openvino:fp32"
REQUEST = Request(("slides/a.png", "slides/b.png"), "bundle", ENGINE, ("geojson",))


def trial(total: float, start: float, alone: float, cpu: float, peak: float = 500.0) -> Trial:
    return Trial(
        seconds={"start": start, "infer": total / 2, "total": total},
        cpu_seconds={"start": start, "infer": cpu - start, "total": cpu},
        timeline=(("start", "all", 0.0, start), ("infer", "0-0", start, total)),
        mm2=0.5,
        nuclei=1200,
        alone=EngineAlone(alone, 2 * alone, 8, 2.0),
        peak_memory_mb=peak,
    )


def run(*arguments: object):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("inputs")
    write_dark_bundle(folder / "bundle")
    paths = [folder / "one.png", folder / "two.png"]
    for seed, path in enumerate(paths):
        Image.fromarray(draw_tissue(np.random.default_rng(seed), 300)[0]).save(path)
    return folder / "bundle", paths


def test_every_number_of_a_report_by_hand():
    report = PipelineReport(REQUEST, (trial(4.0, 1.0, 2.0, 6.0), trial(8.0, 2.0, 4.0, 12.0, 600.0)), False, {})
    result = report.to_json()
    assert result["schema"] == "msal-deploy pipeline 1"
    assert (result["images"], result["engine"], result["formats"]) == (["a.png", "b.png"], ENGINE, ["geojson"])
    # Means of the two trials.
    assert result["stages"]["total"] == {"seconds": 6.0, "cpu_seconds": 9.0}
    assert result["stages"]["start"] == {"seconds": 1.5, "cpu_seconds": 1.5}
    assert result["stages"]["infer"] == {"seconds": 3.0, "cpu_seconds": 7.5}
    assert (result["end_to_end_s"], result["engine_alone_s"]) == ([4.0, 8.0], [2.0, 4.0])
    assert (result["cpu_s"], result["engine_alone_cpu_s"]) == ([6.0, 12.0], [4.0, 8.0])
    # Both trials agree: 4/2 = 8/4, (4-1)/2 = (8-2)/4, 6/4 = 12/8.
    assert report.ratio == Ratio(2.0, 2.0, 2.0)
    assert report.ratio_without_start == Ratio(1.5, 1.5, 1.5)
    assert report.ratio_of_cpu == Ratio(1.5, 1.5, 1.5)
    assert result["ratio"] == {"ratio": 2.0, "low": 2.0, "high": 2.0}
    assert result["engine_busy"] == 0.5  # 3 of 6 seconds
    assert result["mm2_per_s"] == pytest.approx(0.5 / 6)
    assert result["seconds_per_mm2"] == pytest.approx(12.0)
    assert (result["tiles"], result["tile_megapixels"], result["nuclei"]) == (8, 2.0, 1200)
    assert result["peak_memory_mb"] == 600.0
    assert result["timeline"][1] == ["infer", "0-0", 2.0, 8.0]
    json.dumps(result, allow_nan=False)
    text = " ".join(report.messages())
    assert "1,200 nuclei in 0.500 mm² of tissue, 8 tiles: 0.083 mm²/s, 12.00 s/mm²" in text
    assert "the engine computes 50% of the time; peak memory 600 MB" in text
    assert "end to end against the engine alone (3.00 s): 2.00× ±0.00, without its start 1.50× ±0.00" in text


def test_a_single_trial_has_no_ratio_and_glass_no_seconds_per_area():
    one = trial(4.0, 1.0, 2.0, 6.0)
    glass = Trial(one.seconds, one.cpu_seconds, one.timeline, 0.0, 0, one.alone)
    result = PipelineReport(REQUEST, (glass,), False, {}).to_json()
    assert result["ratio"] is None and result["seconds_per_mm2"] is None and result["peak_memory_mb"] is None
    assert PipelineReport(REQUEST, (glass,), True, {}).messages()[-1] == "interrupted: fewer trials than asked for"


def test_what_no_stage_took_is_of_the_engines_own_threads():
    measured = {"separate": 0.5, "infer": 3.0, "decode": 0.25, "total": 7.0}
    assert with_engine_threads(measured) == {"decode": 0.25, "infer": 6.25, "separate": 0.5, "total": 7.0}
    assert with_engine_threads({"read": 1.0, "total": 1.5}) == {"read": 1.0, "total": 1.5}  # there was nothing to infer


def test_a_real_run_reports_every_stage_of_every_image(inputs, tmp_path: Path) -> None:
    bundle, paths = inputs
    options = [part for path in paths for part in ("--predict", path)]
    out, drawn = tmp_path / "report.json", tmp_path / "timeline.svg"
    result = run(bundle, "-e", ENGINE, *options, "--rounds", 2, "--json", out, "--timeline", drawn)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert set(report["stages"]) == {*STAGES, "total"}
    assert all(report["stages"][name]["seconds"] > 0 for name in ("start", "infer", "separate", "total"))
    assert report["images"] == ["one.png", "two.png"]
    assert report["tiles"] == 2 and report["tile_megapixels"] == pytest.approx(2 * 320 * 320 / 1e6)
    # 2 images of 300 × 300 px of 0.25 µm: (75 µm)² each, all of it tissue
    assert report["mm2"] == pytest.approx(2 * 0.075**2)
    assert report["nuclei"] > 5 and report["peak_memory_mb"] > 10
    assert len(report["end_to_end_s"]) == len(report["engine_alone_s"]) == 2
    assert drawn.read_text().startswith("<svg ") and "separate" in drawn.read_text()


def test_the_engine_alone_computes_what_predict_computes(inputs, monkeypatch) -> None:
    bundle, paths = inputs
    monkeypatch.setattr("msal_deploy.bench.session.own_peak_memory_mb", lambda: 123.0)
    result = measure(Request(tuple(map(str, paths)), str(bundle), ENGINE, ("geojson",)))
    assert result.alone.tiles == sum(event[0] == "infer" for event in result.timeline) == 2
    assert result.peak_memory_mb == 123.0
    # The engine compiles once for both images, which have one size: the opening, and one empty batch.
    assert sum(event[0] == "start" for event in result.timeline) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-e", ENGINE, "-e", "onnxruntime:fp32"], "--predict takes one --engine, got 2"),
        (["-b", 1, "-b", 4], "--predict takes one --batch, got 2"),
        (["--tune"], "--tune cannot be combined with --predict"),
        (["--predict-format", "geojsn"], "'geojsn' is not an output format; did you mean 'geojson'?"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(inputs, monkeypatch, options, message) -> None:
    monkeypatch.setattr(bench_pipeline, "run_trial", None)
    bundle, paths = inputs
    assert_refused(run(bundle, "--predict", paths[0], *options), 2, message)


def test_an_image_that_does_not_exist_is_refused(inputs, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bench_pipeline, "run_trial", None)
    assert_refused(run(inputs[0], "--predict", tmp_path / "none.png"), 2, "none.png does not exist")


def test_what_predict_raises_in_its_process_is_raised_here(inputs, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(BadInput, match=r"broken\.png"):
        run_trial(Request((str(tmp_path / "broken.png"),), str(inputs[0]), ENGINE, ("geojson",)))


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ("os.kill(os.getpid(), 9)", MissingRequirement, "was killed, most likely because memory ran out"),
        ("os.abort()", InternalFault, r"crashed \(SIGABRT\)"),
        ("os._exit(7)", InternalFault, "ended with exit code 7"),
    ],
)
def test_a_process_that_dies_is_reported(monkeypatch, end, error, message) -> None:
    monkeypatch.setattr(bench_trial, "START", f"import os, sys; sys.stdin.buffer.read(); {end}")
    with pytest.raises(error, match=message):
        run_trial(REQUEST)


def test_an_interrupted_bench_keeps_what_was_measured(inputs, tmp_path: Path, monkeypatch) -> None:
    answers = iter([trial(4.0, 1.0, 2.0, 6.0)])

    def next_trial(request):
        if (answer := next(answers, None)) is None:
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(bench_pipeline, "run_trial", next_trial)
    out = tmp_path / "report.json"
    run(inputs[0], "-e", ENGINE, "--predict", inputs[1][0], "--json", out)
    report = json.loads(out.read_text())
    assert report["interrupted"] and report["end_to_end_s"] == [4.0]


def test_ctrl_c_ends_the_process_of_the_trial(monkeypatch) -> None:
    started = []

    class Interrupted(subprocess.Popen):
        def communicate(self, *arguments, **options):
            started.append(self)
            raise KeyboardInterrupt

    code = "import time; time.sleep(600)"
    monkeypatch.setattr(bench_trial, "START", code)
    monkeypatch.setattr(bench_trial, "subprocess", SimpleNamespace(Popen=Interrupted, PIPE=subprocess.PIPE))
    with pytest.raises(KeyboardInterrupt):
        run_trial(REQUEST)
    assert started[0].returncode == -signal.SIGKILL


def test_what_libraries_print_is_no_answer() -> None:
    code = (
        "from msal_deploy.cli import bench_trial; bench_trial.measure = lambda request: print('noise') or 'answer';"
        "bench_trial.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(REQUEST), capture_output=True, check=True)
    assert pickle.loads(done.stdout) == "answer" and b"noise" in done.stderr
