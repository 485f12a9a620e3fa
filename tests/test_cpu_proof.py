"""benchmarks/cpu/: its conclusions from known times, and a run on a small bundle."""

import io
import json
import math
import re
import shlex
import shutil
import sys
from pathlib import Path

import onnx
import pytest
import typer
from msgspec.structs import replace
from rich.console import Console
from typer.testing import CliRunner

from msal_deploy.bench import BenchReport, BenchResult, Timing, median_interval, peaks
from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.export import example_images
from msal_deploy.precision.calibrate import calibrate
from msal_deploy.precision.calibration_tiles import Tile
from msal_deploy.precision.int8 import quantisable, to_int8

FOLDER = Path(__file__).parents[1] / "benchmarks" / "cpu"
sys.path.insert(0, str(FOLDER))

from cpu_results import INT8, LIMITS, TORCH, CpuResults  # noqa: E402
from prove import app  # noqa: E402

OPENVINO = "openvino:fp32"
pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def tiny_convolutions(monkeypatch):
    for name, value in (("CHANNELS", 16), ("SIDE", 8), ("CONVOLUTIONS", 2)):
        monkeypatch.setattr(peaks, name, value)


def timing(*medians: float) -> Timing:
    return Timing(tuple((value,) * 3 for value in medians))


def make_results(**times: tuple[float, ...]) -> CpuResults:
    """By default the second window is twice as slow for everything, as on a busy machine; ratios are unchanged."""
    known = {
        TORCH: (400.0, 800.0), OPENVINO: (300.0, 600.0), INT8: (80.0, 160.0),
        LIMITS["int8"]: (100.0, 200.0), LIMITS["fp32"]: (400.0, 800.0),
    }  # fmt: skip
    known |= {TORCH: times["torch"]} if "torch" in times else {}
    count = peaks.operations()
    throughput = BenchResult(
        engine=INT8, batch=4, threads=2, streams=2, size=(512, 512), microns_per_pixel=0.25, timing=timing(300, 300)
    )
    return CpuResults(
        size=512, threads=2, operations={"int8": {"int8": count // 2, "fp32": count // 20}, "fp32": {"fp32": count}},
        timings={name: timing(*medians) for name, medians in known.items()},
        throughput=BenchReport((throughput,), {}), left_out={"openvino:bf16": "This CPU does not compute in BF16"},
        environment={"processor": "a chip"},
    )  # fmt: skip


def printed(results: CpuResults) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(results.table())
    return console.export_text()


def test_limit_is_the_time_of_the_operations_at_the_measured_rates():
    results = make_results()
    # Half a run of INT8 convolutions and a twentieth of one in FP32: 50 + 20 ms, and twice that in the slow window.
    assert results.limit_ms("int8") == pytest.approx((70 + 140) / 2)
    assert results.limit_ms("fp32") == pytest.approx((400 + 800) / 2)
    assert results.over_limit(INT8, "int8") == pytest.approx(80 / 70)
    assert results.over_limit(OPENVINO, "fp32") == pytest.approx(300 / 400)
    assert results.rate("int8") == pytest.approx(peaks.operations() / 0.150)


def test_ratios_ignore_a_slowdown_of_the_machine():
    results = make_results()
    assert results.speed_up(TORCH, INT8) == pytest.approx(5)
    assert results.fastest == INT8


def test_unmet_claim_gives_the_measured_value_and_the_limit():
    assert str(make_results().claim()) == (
        "openvino:int8 is at least 6× as fast as torch:fp32: not met: 5.0× of 6× (about 95%: 5.0 to 5.0); "
        "the INT8 limit allows 5.7×"
    )


def test_claim_is_met():
    claim = make_results(torch=(480.0, 960.0)).claim()
    assert (claim.verdict, claim.found) == ("met", "6.0× of 6× (about 95%: 6.0 to 6.0)")


def test_claim_is_not_settled_if_its_interval_has_both_sides():
    claim = make_results(torch=(400.0, 1200.0)).claim()
    assert claim.verdict == "not settled" and "(about 95%: 5.0 to 7.5)" in claim.found


@pytest.mark.parametrize(("count", "cut"), [(2, 0), (5, 0), (8, 1), (100, 40)])
def test_median_interval_matches_the_sign_test(count, cut):
    assert median_interval(range(count)) == (cut, count - 1 - cut)
    # The interval misses the median if at most `cut` values are on one side of it.
    missed = 2 * sum(math.comb(count, k) for k in range(cut + 1)) / 2**count
    assert missed < 0.075 or cut == 0


def test_tables_fit_and_messages_name_engines_left_out():
    results = make_results()
    text = printed(results)
    assert "limit of the INT8 graph" in text and "5.00×" in text and "…" not in text
    assert "Unstable" in text  # the second window was twice as slow
    assert "openvino:bf16 was not measured: This CPU does not compute in BF16" in results.messages()
    json.dumps(results.to_json(), allow_nan=False)


@pytest.fixture(scope="session")
def quantised(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle with both INT8 graphs, calibrated on one small image."""
    folder = Path(shutil.copytree(bundle.path, tmp_path_factory.mktemp("quantised") / "bundle"))
    graph = folder / "model.fp32.onnx"
    ranges = calibrate(graph, [Tile("drawn", 0, 0, example_images(1, 64, 64)[0])])
    artifacts = dict(bundle.manifest.artifacts)
    for name, form in (("model.int8.onnx", "s8s8"), ("model.int8.u8s8.onnx", "u8s8")):
        onnx.save(to_int8(graph, ranges, quantisable(graph), form), folder / name)
        artifacts[name] = artifact(folder, name, graph.name)
    write_manifest(folder, replace(bundle.manifest, artifacts=artifacts))
    return Bundle(folder)


def call(*words: str | Path | float):
    return CliRunner().invoke(app, ["run", *(str(word) for word in words)])


@pytest.mark.usefixtures("tiny_convolutions")
def test_run_writes_json_and_plot(quantised, tmp_path, monkeypatch):
    monkeypatch.setattr("msal_deploy.bench.timing.MIN_RUNS", 1)
    words = ("--size", 64, "--threads", 1, "--seconds", 0.001)
    result = call(quantised.path, *words, "--json", tmp_path / "proof.json", "--plot", tmp_path / "proof.png")
    assert result.exit_code == 0, result.output
    value = json.loads((tmp_path / "proof.json").read_text())
    engines = {TORCH, "onnxruntime:fp32", "onnxruntime:int8", OPENVINO, INT8}
    assert engines | set(LIMITS.values()) == set(value["timings"]) - {"openvino:bf16"}
    assert ("openvino:bf16" in value["left_out"]) != ("openvino:bf16" in value["timings"])
    assert value["operations"]["int8"]["int8"] > 0.9 * value["operations"]["fp32"]["fp32"]
    assert [(row["batch"], row["streams"]) for row in value["throughput"]] == [(1, 1), (4, 1)]  # one thread, one stream
    assert {claim["verdict"] for claim in value["claims"]} <= {"met", "not met", "not settled"}
    assert "as fast as torch:fp32" in result.stdout
    assert (tmp_path / "proof.png").read_bytes().startswith(b"\x89PNG")


def test_run_rejects_a_bundle_without_int8(bundle, tmp_path):
    result = call(bundle.path, "--json", tmp_path / "proof.json")
    assert result.exit_code == 2
    assert "model.int8.onnx is not in" in result.stderr and "--int8" in result.stderr
    assert not (tmp_path / "proof.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "500"), "480 or 512"),
        (("--seconds", "inf"), "--seconds"),
        (("--plot", "proof.gif"), "not a supported image file"),
        (("--windows", "2"), "--windows"),
        (("--seconds", "0"), "--seconds"),
    ],
)
def test_run_rejects_bad_options(quantised, words, message):
    result = call(quantised.path, *words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_readme_commands_are_valid():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("python ")]
    assert lines
    for line in lines:
        _, program, name, *words = shlex.split(line)
        assert (FOLDER.parents[1] / program).is_file()
        known = {option for one in typer.main.get_command(app).commands[name].params for option in one.opts}
        assert {word for word in words if word.startswith("-")} <= known
