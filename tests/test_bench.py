"""Bench with engines of known latency: a fake clock advances by what they take, and by nothing else."""

import io
import json
import platform
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from msal_deploy.bench import MIN_RUNS, BenchReport, BenchResult, Timing, describe_machine, timing
from msal_deploy.bench import bench as bench_stage
from msal_deploy.bench import machine as bench_machine
from msal_deploy.bench import tune as tune_stage
from msal_deploy.bench.tuning import FINALISTS
from msal_deploy.cli import app
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.hardware import Gpu, NvidiaDriver
from msal_deploy.runtimes import Engine
from msal_deploy.spec import ModelSpec

BUNDLE = SimpleNamespace(path=Path("bundle"), spec=ModelSpec())
CALLS = []


class Clock:
    """Stands still unless an engine lets it go on."""

    def __init__(self):
        self.now = 0

    def read(self):
        return self.now

    def advance(self, milliseconds):
        self.now += round(milliseconds * 1e6)


CLOCK = Clock()


class Slow(Engine):
    """Takes 4 ms an image."""

    runtime = "slow"
    milliseconds = 4

    def _open(self):
        CALLS.append(f"{self.id} opened")

    def _infer(self, images):
        CALLS.append(self.id)
        CLOCK.advance(self.milliseconds * len(images))
        return np.zeros((len(images), 1, *images.shape[1:3]), np.float32)

    def _close(self):
        CALLS.append(f"{self.id} closed")


class Fast(Slow):
    """Takes 1 ms an image."""

    runtime = "fast"
    milliseconds = 1


class Parallel(Slow):
    """Threads share the work; a second stream doubles the images a second, and more of them slow it down."""

    runtime = "parallel"
    has_streams = True

    def _infer(self, images):
        CALLS.append((len(images), self.threads, self.streams))
        gain = {1: 1, 2: 2}.get(min(self.streams, len(images)), 0.5)
        CLOCK.advance(10 + 12 * len(images) / (self.threads or 1) / gain)
        return np.zeros((len(images), 1, *images.shape[1:3]), np.float32)


bench = partial(bench_stage, in_process=True, rounds=1)  # engines of other processes: tests/bench
tune = partial(tune_stage, in_process=True, rounds=1)


class Greedy(Slow):
    """Has memory for one image."""

    runtime = "greedy"

    def _infer(self, images):
        if len(images) > 1:
            raise MemoryError("std::bad_alloc")
        return super()._infer(images)


class Strict(Slow):
    """Takes no more than one image."""

    runtime = "strict"

    def _infer(self, images):
        if len(images) > 1:
            raise ValueError("a batch of 1 only")
        return super()._infer(images)


ENGINES = {
    "slow:fp32": Slow,
    "fast:fp32": Fast,
    "parallel:fp32": Parallel,
    "greedy:fp32": Greedy,
    "strict:fp32": Strict,
}


def open_fake(bundle, name, threads=None, streams=1):
    return ENGINES[name](bundle, "fp32", threads, streams)


def replace_engines_and_clock(patch):
    for module in ("checks", "session"):
        patch.setattr(f"msal_deploy.bench.{module}.open_engine", open_fake)
    patch.setattr(timing, "perf_counter_ns", CLOCK.read)
    patch.setattr("msal_deploy.bench.session.perf_counter", lambda: CLOCK.now / 1e9)
    CALLS.clear()


@pytest.fixture(autouse=True)
def fake_engines(monkeypatch):
    replace_engines_and_clock(monkeypatch)


def pretend_four_cores(patch):
    for module in ("checks", "tuning"):
        patch.setattr(f"msal_deploy.bench.{module}.available_cores", lambda: 4)


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        replace_engines_and_clock(patch)
        return bench(
            BUNDLE, ["slow:fp32", "fast:fp32"], batches=(1, 2), size=(32, 64), seconds=0.05, windows=2, threads=(1,)
        )


def without_repeats(names):
    return [name for name, _ in groupby(names)]


def printed(report):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.table())
    return console.export_text()


def test_json_keeps_its_keys(report):
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert set(value) == {"schema", "baseline", "results", "failed", "unavailable", "interrupted", "environment"}
    assert (value["schema"], value["baseline"]) == ("msal-deploy bench 2", "slow:fp32")
    assert (value["failed"], value["unavailable"], value["interrupted"]) == ([], [], False)
    assert [(row["engine"], row["batch"]) for row in value["results"]] == [
        ("slow:fp32", 1), ("fast:fp32", 1), ("slow:fp32", 2), ("fast:fp32", 2),
    ]  # fmt: skip
    for row in value["results"]:
        assert set(row) == {
            "engine", "batch", "latency_ms", "images_per_s", "megapixels_per_s", "square_millimetres_per_s", "runs",
            "coefficient_of_variation", "stable", "threads", "streams", "size", "window_medians_ms",
            "windows_per_process", "speed_up", "peak_memory_mb", "load_s",
        }  # fmt: skip
        assert set(row["latency_ms"]) == {"p50", "p90", "p95", "p99", "mean"}
        assert (row["size"], row["threads"], row["streams"], len(row["window_medians_ms"])) == ([32, 64], 1, 1, 2)


def test_latencies_are_those_of_the_engines(report):
    rows = {(row["engine"], row["batch"]): row for row in report.to_json()["results"]}
    for (engine, batch), row in rows.items():
        latency = (4 if engine == "slow:fp32" else 1) * batch
        assert row["latency_ms"] == dict.fromkeys(("p50", "p90", "p95", "p99", "mean"), latency)
        assert row["images_per_s"] == (250 if engine == "slow:fp32" else 1000)
        assert row["megapixels_per_s"] == pytest.approx(row["images_per_s"] * 32 * 64 / 1e6)
        assert row["square_millimetres_per_s"] == pytest.approx(row["megapixels_per_s"] * 0.25**2)
        assert row["runs"] == 2 * max(MIN_RUNS, -(-50 // latency))  # two windows of 50 ms
        assert row["load_s"] == pytest.approx(latency / 1000)  # its first call
        assert row["peak_memory_mb"] is None  # the engines share this process
        assert row["speed_up"] == dict.fromkeys(("ratio", "low", "high"), 1 if engine == "slow:fp32" else 4)


def test_table_has_the_speed_up_over_the_first_engine(report):
    text = printed(report)
    assert text.count("1.00×") == text.count("4.00× ±0.00") == 2
    assert "the 95% interval of the speed-up over slow:fp32" in " ".join(text.split())
    assert "fewer than 100 runs" in " ".join(text.split())
    assert "threads" not in text and "streams" not in text


def result(*windows, engine="a:fp32", batch=2, threads=None, streams=1):
    return BenchResult(
        engine=engine, batch=batch, threads=threads, streams=streams, size=(512, 512), microns_per_pixel=0.25,
        timing=Timing(windows),
    )  # fmt: skip


def test_percentiles_and_rates_of_known_latencies():
    row = result(tuple(range(1, 51)), tuple(range(51, 102))).to_json()
    assert row["latency_ms"] == {"p50": 51, "p90": 91, "p95": 96, "p99": 100, "mean": 51}
    assert row["images_per_s"] == pytest.approx(2000 / 51)


@pytest.mark.parametrize(("second", "stable"), [(102.0, True), (103.0, True), (104.0, False)])
def test_windows_that_differ_too_much_are_flagged(second, stable):
    timed = result((100.0,) * 3, (second,) * 3)  # two medians 4% apart vary by 2.8%, 3% apart by 2.1%
    assert timed.timing.stable is stable
    assert ("Unstable" in printed(BenchReport((timed,), {}))) is not stable


@pytest.mark.parametrize("threads", [(1, 1), (1, 64)])
@pytest.mark.parametrize("streams", [(1, 1), (1, 16)])
def test_the_table_shows_what_was_swept_and_fits_80_columns(threads, streams):
    slow = ((12345.678,) * 5, (23456.789,) * 5)
    rows = tuple(
        result(*slow, engine="onnxruntime:fp32", batch=64, threads=t, streams=s)
        for t, s in zip(threads, streams, strict=True)
    )
    text = printed(BenchReport(rows, {}))
    header = next(line for line in text.splitlines() if "engine" in line)
    assert ("threads" in header, "streams" in header) == (threads != (1, 1), streams != (1, 1))
    assert {"p50", "p99", "images/s", "speed-up"} <= set(header.split())
    assert ("p90" in header) == (threads == (1, 1) or streams == (1, 1))  # it makes room for both
    line = next(line for line in text.splitlines() if "onnxruntime" in line)
    assert line.split()[:2] == ["onnxruntime:fp32", "64"] and "…" not in text


def test_engines_take_turns_and_are_closed():
    bench(BUNDLE, ["slow:fp32", "fast:fp32"], batches=(1,), size=(32, 32), seconds=0.001, windows=3)
    warm_up, windows = ["slow:fp32", "fast:fp32"], ["slow:fp32", "fast:fp32", "slow:fp32", "fast:fp32"]
    assert without_repeats(CALLS) == [
        "slow:fp32 opened", "slow:fp32", "fast:fp32 opened", "fast:fp32", *warm_up, *windows,
        "fast:fp32 closed", "slow:fp32 closed",
    ]  # fmt: skip


def test_every_setting_that_makes_sense_is_timed():
    report = bench(
        BUNDLE, ["slow:fp32", "parallel:fp32"], batches=(1, 2), threads=(1, 2), streams=(1, 2), size=(32, 32),
        seconds=0.001, windows=2,
    )  # fmt: skip
    ways = [("slow:fp32", 1, 1), ("slow:fp32", 2, 1)]  # no streams
    ways += [("parallel:fp32", 1, 1), ("parallel:fp32", 2, 1), ("parallel:fp32", 2, 2)]  # no stream without a thread
    assert [(one.batch, one.engine, one.threads, one.streams) for one in report.results] == [
        (batch, *way) for batch in (1, 2) for way in ways
    ]
    assert {(1, 2, 2), (2, 2, 2), (1, 1, 1)} <= set(CALLS)  # what the engines were opened with


def test_only_so_many_engines_are_open_at_once(monkeypatch):
    monkeypatch.setattr("msal_deploy.bench.measure.MAX_OPEN", 2)
    report = bench(BUNDLE, ["fast:fp32"], batches=(1, 2), threads=(1, 2, 3), size=(32, 32), seconds=0.001, windows=2)
    assert [(one.batch, one.threads) for one in report.results] == [(b, t) for b in (1, 2) for t in (1, 2, 3)]
    changes = [{"opened": 1, "closed": -1}[call.split()[1]] for call in CALLS if " " in call]
    assert max(np.cumsum(changes)) == 2 and sum(changes) == 0


@pytest.fixture(scope="module")
def tuned():
    """The report, and what was called for it."""
    with pytest.MonkeyPatch.context() as patch:
        replace_engines_and_clock(patch)
        pretend_four_cores(patch)
        report = tune(BUNDLE, ["parallel:fp32", "slow:fp32"], size=(32, 32), seconds=0.01, windows=2)
    return report, tuple(CALLS)


def test_tuning_finds_the_shortest_wait_and_the_most_images(tuned):
    report, _ = tuned
    wait, most = report.lowest_latency, report.highest_throughput
    assert (wait.engine, wait.batch, wait.streams, wait.timing.latency_ms["p50"]) == ("slow:fp32", 1, 1, 4)
    assert (most.engine, most.batch, most.threads, most.streams) == ("parallel:fp32", 8, 4, 2)
    quick, busy = report.messages()
    assert quick.endswith(f'ms with open_engine(bundle, "slow:fp32", threads={wait.threads})')
    assert busy.startswith(f"Highest throughput: {most.images_per_s:.2f} images/s with ")
    assert busy.endswith('open_engine(bundle, "parallel:fp32", threads=4, streams=2) and 8 images per call')


def test_tuning_screens_every_setting_in_which_a_stream_has_a_thread_and_an_image(tuned):
    tuned, _ = tuned
    screened = {(one.engine, one.batch, one.threads, one.streams) for one in tuned.screened}
    assert len(screened) == len(tuned.screened)
    assert {batch for _, batch, _, _ in screened} == {1, 2, 4, 8}
    assert {threads for _, _, threads, _ in screened} == {1, 2, 4}
    assert {streams for engine, _, _, streams in screened if engine == "slow:fp32"} == {1}
    assert {streams for engine, _, _, streams in screened if engine == "parallel:fp32"} == {1, 2, 4}
    assert all(streams <= min(threads, batch) for _, batch, threads, streams in screened)
    assert FINALISTS < len(tuned.results) <= 2 * FINALISTS


def test_the_finalists_take_turns(tuned):
    report, calls = tuned
    last_opening = max(index for index, call in enumerate(calls) if str(call).endswith("opened"))
    first_closing = next(i for i in range(last_opening, len(calls)) if str(calls[i]).endswith("closed"))
    names = [
        (one.batch, one.threads, one.streams) if one.engine == "parallel:fp32" else one.engine for one in report.results
    ]
    turns = without_repeats([*names, *names, *names[::-1]])  # the warm-up, then two windows, back and forth
    assert without_repeats(calls[last_opening + 2 : first_closing]) == turns
    assert len(set(names)) > 1


def test_the_json_of_tuning_can_be_read_as_that_of_a_bench(tuned, report):
    tuned, _ = tuned
    value = json.loads(json.dumps(tuned.to_json(), allow_nan=False))
    assert set(value) == {*report.to_json(), "best", "screened"}
    assert {tuple(row) for row in value["results"]} == {tuple(row) for row in report.to_json()["results"]}
    assert value["best"]["most_images"]["python"] == 'open_engine(bundle, "parallel:fp32", threads=4, streams=2)'
    assert value["best"]["shortest_wait"]["batch"] == 1
    assert "speed-up" in printed(tuned)


def call(*words):
    return CliRunner().invoke(app, ["bench", *map(str, words)])


def test_the_command_sweeps(bundle, monkeypatch, tmp_path):
    monkeypatch.undo()  # the real engines, and the real clock
    monkeypatch.setattr("msal_deploy.bench.timing.MIN_RUNS", 1)
    words = "-e openvino:fp32 -e onnxruntime:fp32 --threads 2 --streams 1 --streams 2 --batch 2 --size 32 --rounds 1"
    result = call(bundle.path, *words.split(), "--in-process", "--seconds", 0.001, "--json", tmp_path / "bench.json")
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert [(row["engine"], row["threads"], row["streams"]) for row in rows] == [
        ("openvino:fp32", 2, 1), ("openvino:fp32", 2, 2), ("onnxruntime:fp32", 2, 1),
    ]  # fmt: skip
    assert "streams" in result.stdout and "threads" not in result.stdout


def test_the_command_tunes(bundle, monkeypatch, tmp_path):
    pretend_four_cores(monkeypatch)
    words = ("-e", "parallel:fp32", "--tune", "--size", 32, "--seconds", 0.001, "--rounds", 1, "--in-process")
    result = call(bundle.path, *words, "--json", tmp_path / "bench.json")
    assert result.exit_code == 0, result.output
    wait, most = (line for line in result.stdout.splitlines() if "open_engine" in line)
    assert wait.startswith("Lowest latency for one image: ") and most.startswith("Highest throughput: ")
    best = json.loads((tmp_path / "bench.json").read_text())["best"]
    assert best["shortest_wait"]["python"] in wait and best["most_images"]["python"] in most


def test_the_command_refuses_settings_beside_tune():
    result = call("nowhere", "--tune", "--threads", 2)
    assert result.exit_code == 2
    assert "--tune cannot be combined with --batch, --threads" in result.stderr


@pytest.mark.parametrize(
    ("engine", "code", "message"), [("greedy:fp32", 3, "Not enough memory"), ("strict:fp32", 1, "a batch of 1 only")]
)
def test_an_engine_that_fails_at_a_batch_is_named_and_the_others_are_kept(bundle, tmp_path, engine, code, message):
    words = ("-e", "slow:fp32", "-e", engine, "-b", 1, "-b", 2, "--size", 32, "--seconds", 0.001, "--in-process")
    result = call(bundle.path, *words, "--json", tmp_path / "bench.json")
    value = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["engine"], row["batch"]) for row in value["results"]] == [
        ("slow:fp32", 1), (engine, 1), ("slow:fp32", 2),
    ]  # fmt: skip
    (failure,) = value["failed"]
    assert (failure["engine"], failure["batch"]) == (engine, 2) and message in failure["message"]
    assert result.exit_code == code and result.output.count("Error: ") == 1
    assert f"{engine} failed" in result.stderr and "failed" in result.stdout
    assert CALLS.count(f"{engine} opened") == 3 + 1  # three rounds with one image; with two, only once


def test_if_nothing_could_be_measured_it_is_an_error(bundle):
    with pytest.raises(MissingRequirement, match="Not enough memory"):
        bench(bundle, ["greedy:fp32"], batches=(2,), size=(32, 32), seconds=0.001)


def test_the_baseline_is_timed_as_well_and_need_not_be_the_first(bundle):
    report = bench(bundle, ["fast:fp32"], baseline="slow:fp32", batches=(1,), size=(32, 32), seconds=0.001)
    assert [one.engine for one in report.results] == ["slow:fp32", "fast:fp32"]
    report = bench(bundle, ["fast:fp32", "slow:fp32"], baseline="slow:fp32", batches=(1,), size=(32, 32), seconds=0.001)
    assert [report.speed_up(one).ratio for one in report.results] == [4, 1]
    assert report.to_json()["baseline"] == "slow:fp32"


def test_the_sets_of_images_take_turns(bundle, monkeypatch):
    seen = []
    monkeypatch.setattr(Fast, "_infer", lambda self, images: seen.append(images.tobytes()) or CLOCK.advance(1))
    bench(bundle, ["fast:fp32"], batches=(1,), size=(32, 32), seconds=0.02, windows=2)
    assert len(set(seen)) == 4 and all(one != other for one, other in pairwise(seen))
    assert seen[4:] == seen[:-4]


def test_a_machine_that_slows_down_steadily_favours_no_engine(bundle, monkeypatch):
    """Both take 1 ms at first, and each call takes longer than the one before."""
    pace = iter(range(10**6))
    for engine in (Slow, Fast):
        monkeypatch.setattr(engine, "_infer", lambda self, images: CLOCK.advance(1000 + next(pace)))
    report = bench(bundle, ["slow:fp32", "fast:fp32"], batches=(1,), size=(32, 32), seconds=0.001, windows=4)
    assert abs(report.speed_up(report.results[1]).ratio - 1) < 1e-4


def test_environment_says_what_latencies_depend_on_and_not_whose_machine_it_is(monkeypatch):
    monkeypatch.setattr(
        bench_machine, "query_driver", lambda: NvidiaDriver(gpus=(Gpu("Tesla T4", "7.5", 15.0),), version="580.95")
    )
    environment = describe_machine()
    assert environment["gpus"] == ["Tesla T4"] and environment["driver"] == "580.95"
    assert {"date", "processor", "logical_cores", "memory_gib", "load_average", "system", "python", "versions"} <= set(
        environment
    )
    assert environment["versions"]["numpy"] == np.__version__
    text = json.dumps(environment)
    assert str(Path.cwd()) not in text
    assert platform.node() not in text or len(platform.node()) < 4


@pytest.mark.parametrize(
    ("engines", "options", "message"),
    [
        ([], {}, "at least one engine"),
        (["slow:fp32", "slow:fp32"], {}, "only once"),
        (["slow:fp32"], {"batches": ()}, "at least one batch size"),
        (["slow:fp32"], {"batches": (2, 2)}, "only once"),
        (["slow:fp32"], {"batches": (0,)}, "Expected a batch from 1 to 64, got 0"),
        (["slow:fp32"], {"batches": (65,)}, "Expected a batch from 1 to 64, got 65"),
        (["slow:fp32"], {"size": (500, 512)}, "Expected a height that is a multiple of 32, got 500"),
        (["slow:fp32"], {"size": (512, 8192)}, "Expected a width from 32 to 4096, got 8192"),
        (["slow:fp32"], {"seconds": 0}, "time window of 0 s is not possible"),
        (["slow:fp32"], {"seconds": -1}, "time window of -1 s is not possible"),
        (["slow:fp32"], {"seconds": float("inf")}, "time window of inf s is not possible"),
        (["slow:fp32"], {"windows": 1}, "at least 2 time windows, got 1"),
        (["slow:fp32"], {"threads": ()}, "at least one thread count"),
        (["slow:fp32"], {"threads": (2, 2)}, "only once"),
        (["slow:fp32"], {"threads": (2000,)}, "Expected 1 to 1024 threads, got 2000"),
        (["parallel:fp32"], {"streams": ()}, "at least one stream count"),
        (["parallel:fp32"], {"streams": (1, 1)}, "only once"),
        (["parallel:fp32"], {"streams": (0,)}, "0 streams"),
        (["parallel:fp32"], {"streams": (2, 3), "threads": (1,)}, "got 2 streams with fewer threads"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(engines, options, message):
    with pytest.raises(BadInput, match=message):
        bench(BUNDLE, engines, **options)
    assert CALLS == []


def test_tuning_refuses_bad_input_too():
    for engines, options, message in [
        ([], {}, "at least one engine"),
        (["slow:fp32"], {"size": (500, 512)}, "Expected a height that is a multiple of 32, got 500"),
        (["slow:fp32"], {"windows": 1}, "at least 2 time windows, got 1"),
    ]:
        with pytest.raises(BadInput, match=message):
            tune(BUNDLE, engines, **options)
    assert CALLS == []
