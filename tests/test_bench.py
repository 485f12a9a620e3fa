"""Bench with engines whose latency is known: they sleep, or are timed by a clock that the test turns."""

import io
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from msal_deploy import bench as stage
from msal_deploy.bench import LEAST_RUNS, BenchReport, BenchResult, bench, describe_machine
from msal_deploy.errors import BadInput
from msal_deploy.runtimes import Engine
from msal_deploy.spec import ModelSpec

BUNDLE = SimpleNamespace(spec=ModelSpec())
CALLS = []


class Slow(Engine):
    """Takes 4 ms an image."""

    runtime = "slow"
    milliseconds = 4

    def _open(self):
        pass

    def _infer(self, images):
        CALLS.append(self.id)
        time.sleep(self.milliseconds * len(images) / 1000)
        return np.zeros((len(images), 1, *images.shape[1:3]), np.float32)

    def _close(self):
        CALLS.append(f"{self.id} closed")


class Fast(Slow):
    """Takes 1 ms an image."""

    runtime = "fast"
    milliseconds = 1


@pytest.fixture(autouse=True)
def fake_engines(monkeypatch):
    engines = {"slow:fp32": Slow, "fast:fp32": Fast}
    monkeypatch.setattr(stage, "open_engine", lambda bundle, name, threads=None: engines[name](bundle, "fp32", threads))
    CALLS.clear()


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        engines = {"slow:fp32": Slow, "fast:fp32": Fast}
        patch.setattr(stage, "open_engine", lambda bundle, name, threads=None: engines[name](bundle, "fp32", threads))
        return bench(
            BUNDLE, ["slow:fp32", "fast:fp32"], batches=(1, 2), size=(32, 64), seconds=0.05, windows=2, threads=1
        )


def test_json_keeps_its_keys(report):
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert set(value) == {"results", "environment"}
    assert [(row["engine"], row["batch"]) for row in value["results"]] == [
        ("slow:fp32", 1), ("fast:fp32", 1), ("slow:fp32", 2), ("fast:fp32", 2),
    ]  # fmt: skip
    for row in value["results"]:
        assert set(row) == {
            "engine", "batch", "latency_ms", "images_per_s", "megapixels_per_s", "square_millimetres_per_s", "runs",
            "coefficient_of_variation", "stable", "threads", "size", "window_medians_ms",
        }  # fmt: skip
        assert set(row["latency_ms"]) == {"p50", "p90", "p95", "p99", "mean"}
        assert (row["size"], row["threads"], len(row["window_medians_ms"])) == ([32, 64], 1, 2)


def test_latencies_are_those_of_the_engines(report):
    rows = {(row["engine"], row["batch"]): row for row in report.to_json()["results"]}
    for (engine, batch), row in rows.items():
        latency = row["latency_ms"]
        least = (4 if engine == "slow:fp32" else 1) * batch
        assert least <= latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"]
        assert row["images_per_s"] == pytest.approx(1000 * batch / latency["mean"])
        assert row["megapixels_per_s"] == pytest.approx(row["images_per_s"] * 32 * 64 / 1e6)
        assert row["square_millimetres_per_s"] == pytest.approx(row["megapixels_per_s"] * 0.25**2)
        assert row["runs"] >= 2 * LEAST_RUNS
    assert 1.5 < rows["slow:fp32", 1]["latency_ms"]["p50"] / rows["fast:fp32", 1]["latency_ms"]["p50"] < 5


def test_table_has_the_speed_up_over_the_first_engine(report):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    assert text.count("1.00×") == 2
    assert "fewer than 100 runs" in " ".join(text.split())


def result(*windows):
    return BenchResult("a:fp32", 2, (512, 512), 0.25, None, windows)


def test_percentiles_and_rates_of_known_latencies():
    row = result(tuple(range(1, 51)), tuple(range(51, 102))).to_json()
    assert row["latency_ms"] == {"p50": 51, "p90": 91, "p95": 96, "p99": 100, "mean": 51}
    assert row["images_per_s"] == pytest.approx(2000 / 51)


@pytest.mark.parametrize(("second", "stable"), [(102.0, True), (103.0, True), (104.0, False)])
def test_windows_that_differ_too_much_are_flagged(second, stable):
    timed = result((100.0,) * 3, (second,) * 3)  # two medians 4% apart vary by 2.8%, 3% apart by 2.1%
    assert timed.stable is stable
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(BenchReport((timed,), {}).table())
    assert ("Unstable" in console.export_text()) is not stable


def test_engines_take_turns_and_are_closed():
    bench(BUNDLE, ["slow:fp32", "fast:fp32"], batches=(1,), size=(32, 32), seconds=0.001, windows=3)
    turns = [call for call, before in zip(CALLS, [None, *CALLS], strict=False) if call != before]
    assert turns == ["slow:fp32", "fast:fp32"] * 3 + ["fast:fp32 closed", "slow:fp32 closed"]


def test_warm_up_ends_where_runs_agree_or_time_is_up(monkeypatch):
    runs = iter([9, 5, 3, 2, 2, 2, 2])
    monkeypatch.setattr(stage, "_time_run", lambda engine, images: next(runs))
    stage._warm_up(None, None, seconds=60)
    assert list(runs) == []
    never = iter(range(1, 10_000_000))
    monkeypatch.setattr(stage, "_time_run", lambda engine, images: 2.0 ** (next(never) % 50))
    stage._warm_up(None, None, seconds=0.01)


def test_environment_says_what_latencies_depend_on_and_not_whose_machine_it_is():
    import platform
    from pathlib import Path

    environment = describe_machine()
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
        (["slow:fp32"], {"batches": ()}, "at least one batch"),
        (["slow:fp32"], {"batches": (2, 2)}, "only once"),
        (["slow:fp32"], {"batches": (0,)}, "The batch is 0"),
        (["slow:fp32"], {"batches": (65,)}, "The batch is 65"),
        (["slow:fp32"], {"size": (500, 512)}, "The height is 500, no multiple of 32"),
        (["slow:fp32"], {"size": (512, 8192)}, "The width is 8192"),
        (["slow:fp32"], {"seconds": 0}, "0 s cannot be measured"),
        (["slow:fp32"], {"seconds": -1}, "-1 s cannot be measured"),
        (["slow:fp32"], {"seconds": float("inf")}, "inf s cannot be measured"),
        (["slow:fp32"], {"windows": 1}, "The number of windows is 1"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(engines, options, message):
    with pytest.raises(BadInput, match=message):
        bench(BUNDLE, engines, **options)
    assert CALLS == []
