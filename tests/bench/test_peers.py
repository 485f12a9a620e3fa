"""benchmarks/peers/: bare loops against the engines, verdicts from known times, and the tools' command lines."""

import io
import json
import re
import shlex
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner

from msal_deploy.bench import Timing, image_sets
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.runtimes import open_engine

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "peers"
sys.path.insert(0, str(FOLDER))

import peer_results  # noqa: E402
import peer_tools  # noqa: E402
from bare_loops import ENGINES, bare_loop  # noqa: E402
from peer_results import Comparison, PeerResults, take_turns  # noqa: E402
from peer_tools import Job, Tool  # noqa: E402
from peers import app  # noqa: E402
from wrapper_overhead import OverheadResults, Pairs  # noqa: E402


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def job(tiny: Bundle, tmp_path: Path) -> Job:
    files = {"image": tmp_path / "image.npy", "raw": tmp_path / "image.bin", "folder": tmp_path}
    return Job(tiny.path, tiny.graph("fp32"), "openvino:fp32", size=64, threads=1, seconds=0.1, **files)


def printed(table: object) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


# --- bare loops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_id", ENGINES)
def test_bare_loop_computes_what_the_engine_computes(engine_id: str, tiny: Bundle) -> None:
    first, second = image_sets((64, 96), 1, sets=2)
    bare = bare_loop(tiny, engine_id, first.shape, threads=1)
    with open_engine(tiny, engine_id, threads=1) as engine:
        for images in (first, second, first):
            np.testing.assert_array_equal(bare(images), engine(images))


def runs(*latencies: float) -> Timing:
    return Timing(tuple((value,) for value in latencies))


@pytest.mark.parametrize(
    ("ours", "verdict", "text"),
    [
        ([102.0] * 8, "met", "met: +2.0% (about 95%: +2.0% to +2.0%)"),
        ([104.0] * 8, "not met", "not met: +4.0% (about 95%: +4.0% to +4.0%)"),
        ([101.0] * 5 + [106.0] * 3, "not settled", "not settled: +1.0% (about 95%: +1.0% to +6.0%)"),
    ],
)
def test_overhead_is_that_of_each_pair(ours: list[float], verdict: str, text: str) -> None:
    # In the last pair the machine was three times as slow for both.
    pairs = Pairs(runs(*ours[:-1], 3 * ours[-1]), runs(*[100.0] * 7, 300.0))
    assert pairs.overheads == pytest.approx([one / 100 - 1 for one in ours])
    assert (pairs.verdict, str(pairs)) == (verdict, text)


def test_overheads_are_reported_by_engine() -> None:
    pairs = {"openvino:int8": Pairs(runs(50.0, 51.0, 52.0), runs(50.0, 50.0, 50.0))}
    results = OverheadResults(512, 2, pairs, {"processor": "a chip"})
    value = json.loads(json.dumps(results.to_json(), allow_nan=False))["engines"]["openvino:int8"]
    assert value == {
        "p50_ms": 51.0, "bare_p50_ms": 50.0, "pairs": 3, "verdict": "not settled",
        "overhead": {"median": pytest.approx(0.02), "low": 0.0, "high": pytest.approx(0.04)},
    }  # fmt: skip
    text = printed(results.table())
    assert "+2.0%" in text and "51.0" in text and "…" not in text
    assert "openvino:int8 is within 3% of a bare loop" in results.messages()[0]


# --- verdicts --------------------------------------------------------------------------------------------------------


def comparison(ours: tuple[float, ...], theirs: tuple[float, ...]) -> Comparison:
    return Comparison("openvino:int8", "benchmark_app", "it does not copy the output", ours, theirs)


def test_ratio_is_ours_divided_by_theirs_turn_by_turn() -> None:
    one = comparison((51.0, 102.0, 51.0), (50.0, 100.0, 50.0))  # the machine was slow in the second turn
    assert (one.ratio.ratio, one.ratio.low, one.ratio.high) == pytest.approx((1.02,) * 3)
    assert one.verdict == "agrees"
    assert str(one) == "openvino:int8 against benchmark_app: agrees: +2.0% (95%: +2.0% to +2.0%)"


def test_figure_that_differs_is_explained() -> None:
    slow, fast = comparison((55.0,) * 3, (50.0,) * 3), comparison((45.0,) * 3, (50.0,) * 3)
    assert slow.verdict == fast.verdict == "differs"
    assert str(slow).endswith("differs: +10.0% (95%: +10.0% to +10.0%); it does not copy the output")
    assert slow.to_json()["message"] == str(slow)


def test_wide_interval_settles_nothing() -> None:
    one = comparison((50.0, 60.0, 50.0), (50.0, 50.0, 50.0))
    assert one.verdict == "not settled" and "give more turns" in str(one)


def test_table_and_json_name_what_was_skipped() -> None:
    results = PeerResults(512, 2, (comparison((51.0,) * 2, (50.0,) * 2),), ("trtexec: skipped: no GPU",), {})
    value = json.loads(json.dumps(results.to_json(), allow_nan=False))
    assert value["skipped"] == ["trtexec: skipped: no GPU"] and value["agreement"] == 0.05
    assert value["comparisons"][0]["ratio"]["ratio"] == pytest.approx(1.02)
    assert results.messages()[-1] == "trtexec: skipped: no GPU"
    text = printed(results.table())
    assert "1.020" in text and "…" not in text


def test_turns_alternate_which_side_is_first(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    clock = count(1)
    monkeypatch.setattr(peer_tools, "run_process", lambda name, command: ran.append(name) or "")
    ours, theirs = (Tool(name, (), lambda _: [], lambda *_: float(next(clock)), "") for name in ("ours", "theirs"))
    monkeypatch.setattr(peer_results, "BENCH", ours)
    assert take_turns(theirs, job, 3, lambda: None) == ((1.0, 4.0, 5.0), (2.0, 3.0, 6.0))
    assert ran == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


# --- the tools -------------------------------------------------------------------------------------------------------


def test_trtexec_takes_the_options_in_every_recorded_version(job: Job) -> None:
    program, *words = peer_tools.trtexec_command(job)
    used = {word.partition("=")[0] for word in words}
    assert program == "trtexec" and len(used) == len(words)
    recorded = json.loads((ROOT / "tests/package/trtexec_options.json").read_text())
    assert len(recorded) >= 5
    for version, found in recorded.items():
        assert used <= set(found["options"]), version
    assert f"--loadInputs=image:{job.raw}" in words and "--shapes=image:1x64x64x3" in words


def test_median_of_trtexec_is_that_of_its_whole_latency(job: Job) -> None:
    log = (
        "[11/28/2026-08:00:00] [I] Latency: min = 1.9 ms, max = 3.1 ms, mean = 2.2 ms, median = 2.125 ms, "
        "percentile(90%) = 2.5 ms\n[11/28/2026-08:00:00] [I] GPU Compute Time: min = 1 ms, max = 2 ms, mean = 1.5 ms, "
        "median = 1.4 ms, percentile(90%) = 1.7 ms\n"
    )
    assert peer_tools.read_trtexec(job, log) == 2.125
    with pytest.raises(BadInput, match="trtexec printed no latency"):
        peer_tools.read_trtexec(job, "[E] failed")


def test_precision_is_set_for_benchmark_app(job: Job) -> None:
    """OpenVINO would compute FP32 in bf16 on CPUs that have it."""
    words = peer_tools.benchmark_app_command(job)
    assert words[words.index("-infer_precision") + 1] == "f32"
    assert words[words.index("-shape") + 1] == "image[1,64,64,3]"
    assert words[words.index("-nthreads") + 1] == "1"


def test_perf_loop_prints_a_latency(job: Job) -> None:
    np.save(job.image, image_sets((64, 64), 1)[0])
    command = peer_tools.perf_loop_command(job)
    assert command[command.index("--threads") + 1] == "1"
    found = json.loads(peer_tools.run_process("loop", command))
    assert found["p50_ms"] > 0 and found["runs"] >= 1
    assert peer_tools.read_perf_loop(job, json.dumps(found)) == found["p50_ms"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import sys; print('no device', file=sys.stderr); sys.exit(3)",
            r"a tool failed with exit code 3 \(no device\)",
        ),
        ("raise SystemExit(1)", r"a tool failed with exit code 1 \(it printed nothing\)"),
    ],
)
def test_tool_that_fails_is_named(code: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        peer_tools.run_process("a tool", [sys.executable, "-c", code])


def test_tool_that_is_not_installed_is_skipped(job: Job) -> None:
    tool = Tool("x", (), lambda _: ["no-such-program"], lambda *_: 0.0, "")
    assert peer_tools.missing(tool, job) == "no-such-program is not installed here"
    assert peer_tools.missing(peer_tools.BENCH, job) is None


# --- the commands ----------------------------------------------------------------------------------------------------


def call(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_run_compares_with_benchmark_app(tiny: Bundle, tmp_path: Path) -> None:
    words = (
        "--size",
        64,
        "--threads",
        1,
        "--seconds",
        0.01,
        "--turns",
        2,
        "-e",
        "openvino:fp32",
        "-e",
        "tensorrt:int8",
    )
    result = call("run", tiny.path, *words, "--json", tmp_path / "peers.json")
    assert result.exit_code == 0, result.output
    value = json.loads((tmp_path / "peers.json").read_text())
    (one,) = value["comparisons"]
    assert (one["engine"], one["tool"]) == ("openvino:fp32", "benchmark_app")
    assert len(one["ours"]) == len(one["theirs"]) == 2 and min(*one["ours"], *one["theirs"]) > 0
    assert value["environment"]["processor"]
    assert "tensorrt:int8 against trtexec: skipped: there is no GPU for a plan" in result.stdout


def test_overhead_times_pairs(tiny: Bundle, tmp_path: Path) -> None:
    words = ("--size", 64, "--threads", 1, "--pairs", 5, "-e", "openvino:int8")
    result = call("overhead", tiny.path, *words, "--json", tmp_path / "overhead.json")
    assert result.exit_code == 0, result.output
    value = json.loads((tmp_path / "overhead.json").read_text())
    assert value["engines"]["openvino:int8"]["pairs"] == 5
    assert "openvino:int8 is within 3% of a bare loop" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "-e", "torch:fp32"), "No tool times torch:fp32"),
        (("run", "--turns", 1), "--turns"),
        (("run", "--size", 500), "480 or 512"),
        (("overhead", "-e", "torch:fp32"), "There is no bare loop of torch:fp32"),
        (("overhead", "--size", 500), "480 or 512"),
    ],
)
def test_commands_refuse_bad_options(words: tuple[object, ...], message: str, tiny: Bundle) -> None:
    name, *options = words
    result = call(name, tiny.path, *options)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


def test_readme_commands_are_valid() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert lines
    for line in lines:
        _, program, name, *words = shlex.split(line)
        assert (ROOT / program).is_file()
        known = {option for one in typer.main.get_command(app).commands[name].params for option in one.opts}
        assert {word for word in words if word.startswith("-")} <= known
