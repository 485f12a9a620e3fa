"""The search for the highest rate under a limit, with engines whose p99 is a known function of the rate."""

import json

import pytest
from test_load import BUNDLE, MS, fake_clock, fake_settings, printed, result, takes
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner

from msal_deploy.bench.load import load_test
from msal_deploy.bench.load_loop import Request, Served, arrival_times, closed_loop, open_loop
from msal_deploy.bench.load_report import LoadReport
from msal_deploy.bench.load_results import Load
from msal_deploy.bench.load_search import search_rate
from msal_deploy.cli import app
from msal_deploy.cli.bench_load import parse_milliseconds
from msal_deploy.errors import BadInput

__all__ = ["fake_clock", "fake_settings"]  # fixtures


class Known:
    """Serves 100 requests/s in a closed loop; the latency of an open loop is `latency(rate, seed)` in ms."""

    def __init__(self, latency):
        self.latency = latency
        self.asked = []

    def serve(self, load, seconds, seed):
        self.asked.append((load.rate or -load.in_flight, seconds, seed))
        latency = self.latency(load.rate, seed) if load.rate else 10
        count = 300
        pause = 1000 / load.rate if load.rate else 10
        times = [(round(k * pause * MS), round((k * pause + latency) * MS)) for k in range(count)]
        requests = tuple(Request(start, start, end) for start, end in times)
        return result(Served(requests, (), round(count * pause * MS), times[-1][1], 0, False), load)


def queue(rate, seed=0):
    """10 ms, and more the fuller the engine is: 20 ms at half of its capacity, 40 ms at three quarters."""
    return 10 / (1 - rate / 100)


def test_bisection_finds_the_rate_and_another_seed_confirms_it():
    known = Known(queue)
    search = search_rate(known.serve, 40.001, 1)
    expected = [
        (-1, 1, 0),  # one request at a time
        (50, 2, 0), (75, 100 / 75, 0), (87.5, 100 / 87.5, 0), (81.25, 100 / 81.25, 0), (78.125, 1.28, 0),
        (75, 4, 1),  # 300 requests
    ]  # fmt: skip
    assert known.asked == [pytest.approx(one) for one in expected]
    best = search.best
    assert best.load.rate == pytest.approx(75) and best.latency_ms["p99"] == pytest.approx(40)
    assert search.message() == (
        "fake:fp32, batch 1: 75 requests/s (75 images/s) stay under 40.001 ms: p99 40.0 ms in 300 requests; if "
        "requests were independent, at most 40.0 ms with 95% confidence."
    )


def test_a_rate_that_is_not_confirmed_is_lowered():
    known = Known(lambda rate, seed: queue(rate) * (1.1 if seed else 1))
    search = search_rate(known.serve, 40, 1)
    assert [(rate, seed) for rate, _, seed in known.asked if seed] == [pytest.approx((75, 1)), pytest.approx((67.5, 2))]
    assert search.best.load.rate == pytest.approx(67.5)  # 1.1 * 10 / 0.325 = 33.8 ms


def test_a_rate_that_is_never_confirmed_is_no_answer():
    known = Known(lambda rate, seed: 50 if seed else queue(rate))
    search = search_rate(known.serve, 40, 1)
    assert [rate for rate, _, seed in known.asked if seed] == pytest.approx([75, 67.5, 60.75])
    assert search.best is None
    assert (
        "no rate was confirmed. The last one tried, 60.75 requests/s, had a p99 of 50.0 ms in 300" in search.message()
    )
    assert search.to_json()["best"] is None


def test_an_engine_that_is_too_slow_for_one_request_is_said_to_be():
    known = Known(queue)
    search = search_rate(known.serve, 7.5, 1)
    assert len(known.asked) == 1 and search.best is None
    assert search.message() == (
        "fake:fp32, batch 1: even one request at a time has a p99 of 10.0 ms, 2.5 ms over 7.5 ms."
    )


def test_a_limit_that_only_one_request_at_a_time_meets():
    known = Known(lambda rate, seed: 1000)
    search = search_rate(known.serve, 40, 1)
    assert [rate for rate, _, _ in known.asked[1:]] == pytest.approx(
        [50, 25, 12.5, 6.25, 3.125, 1.5625]
    )  # down to 1/64 of 100
    assert known.asked[-1][1] == 6  # six times as long at most
    assert search.best is None
    assert "one request at a time stays under 40 ms (p99 10.0 ms), but already 1.562 requests/s" in search.message()


def test_the_upper_end_is_what_a_full_engine_serves():
    known = Known(queue)
    search = search_rate(known.serve, 40, 1, places=4)
    assert [rate for rate, _, _ in known.asked[:3]] == pytest.approx([-1, -4, 50])
    assert search.full.load.in_flight == 4


def test_saturation_is_over_the_limit_whatever_the_p99():
    """Service 10 ms, constant arrivals: latencies are 10 ms up to 100/s, and grow beyond."""

    def serve(load, seconds, seed):
        if load.in_flight:
            return result(closed_loop([takes(8)], 1, seconds), load)  # promises 125/s
        arrivals = arrival_times(load.rate, seconds, load.spacing)
        return result(open_loop([takes(10)], arrivals, seconds), load)

    search = search_rate(serve, 10_000, 2, spacing="constant")
    rates = {one.load.rate: one.is_saturated for one in search.trials}
    assert rates == {62.5: False, 93.75: False, 109.375: True, 101.5625: False, 105.46875: True}
    assert search.best.load.rate == 101.5625  # not yet recognisable: 3% are left at most


def test_the_stage_keeps_a_search_that_ctrl_c_ends():
    """11 calls warm the engine up; the 14th call, in the closed loop of one client, is interrupted."""
    report = load_test(BUNDLE, ["interrupted:fp32"], p99_under_ms=20, size=(32, 32), seconds=0.105)
    assert report.interrupted and report.searches == ()
    (row,) = report.results
    assert row.load == Load(in_flight=1) and len(row.counted) == 1


def test_the_stage_searches_each_setting_and_names_the_best():
    """A call of 10 ms takes two requests with two streams."""
    report = load_test(
        BUNDLE, ["steady:fp32"], p99_under_ms=10.5, spacing="constant", batches=(1, 4), threads=(2,), streams=(1, 2),
        size=(32, 32), seconds=1,
    )  # fmt: skip
    assert [(one.alone.batch, one.alone.streams) for one in report.searches] == [(1, 1), (1, 2), (4, 1), (4, 2)]
    assert [one.best.load.rate for one in report.searches] == pytest.approx([96.875, 100, 96.875, 96.875])
    assert report.searches[1].full.requests_per_s == 200  # two at a time, which would take longer than 10.5 ms
    assert report.best.images_per_s == pytest.approx(4 * 96.875)
    assert report.messages()[-1] == (
        'Highest throughput: 387.5 images/s with open_engine(bundle, "steady:fp32", threads=2) and 4 images per '
        "request."
    )
    assert printed(report).count("p99 under 10.5 ms") == 4 and "✗" in printed(report) and "✓" in printed(report)
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert value["best"]["batch"] == 4 and len(value["searches"]) == 4
    assert set(value["searches"][0]) == {
        "p99_under_ms", "images_per_s", "best", "message", "alone", "full", "trials", "confirmations",
    }  # fmt: skip


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


def call(*words):
    return CliRunner().invoke(app, ["bench", *map(str, words)])


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("20ms", 20), ("0.02s", 20), ("20", 20), (" 20 MS ", 20), ("1.5s", 1500), ("1e3", 1000)]
)
def test_times(text, milliseconds):
    assert parse_milliseconds(text) == pytest.approx(milliseconds)


@pytest.mark.parametrize("text", ["", "ms", "20m", "20us", "-1", "0", "nan", "inf", "1 0", "1,5ms"])
def test_what_is_not_a_time_is_refused(text):
    with pytest.raises(BadInput, match=r"is not a time; use 20ms, 0.02s, or 20 for milliseconds"):
        parse_milliseconds(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--p99-under", "20 parsecs"), "'20 parsecs' is not a time"),
        (("--p99-under", "20ms", "--rate", 5), "--p99-under cannot be combined with --in-flight or --rate"),
        (("--rate", 5, "--tune"), "--tune cannot be combined with --rate"),
        (("--rate", "nan"), "--rate"),
        (("--in-flight", 0), "--in-flight"),
        (("--in-flight", 1, "--plot", "load.jpg"), "load.jpg is not a supported image file"),
        (("--plot", "load.png"), "--plot needs --in-flight, --rate, --p99-under or --roofline"),
        (("--in-flight", 1, "--arrivals", "never"), "--arrivals"),
    ],
)
def test_the_command_refuses(words, message):
    done = call("nowhere", *words)  # refused before the bundle is opened
    assert done.exit_code == 2 and message in done.stderr


def test_the_command_measures_a_real_engine(bundle, tmp_path, monkeypatch):
    monkeypatch.undo()
    done = call(
        *(bundle.path, "-e", "openvino:fp32", "--in-flight", 2, "--rate", 50, "--size", 32, "--seconds", 0.2),
        *("--json", tmp_path / "load.json", "--plot", tmp_path / "load.png"),
    )
    assert done.exit_code == 0, done.output
    value = json.loads((tmp_path / "load.json").read_text())
    closed, opened = value["results"]
    assert (closed["in_flight"], opened["rate"], opened["offered_per_s"]) == (2, 50, 50)
    assert opened["requests"] + opened["unserved"] == 10 and closed["requests"] >= 5
    for row in value["results"]:
        assert 0 < row["service_ms"]["p50"] <= row["latency_ms"]["p99"]
    assert {"processor", "versions"} <= set(value["environment"])
    assert "cannot show a p99" in done.stdout
    assert (tmp_path / "load.png").stat().st_size > 1000


def test_the_command_searches_with_a_real_engine(bundle, tmp_path, monkeypatch):
    monkeypatch.undo()
    words = ("-e", "openvino:fp32", "--p99-under", "1000s", "--size", 32, "--seconds", 0.02)
    done = call(bundle.path, *words, "--json", tmp_path / "load.json")
    assert done.exit_code == 0, done.output
    (search,) = json.loads((tmp_path / "load.json").read_text())["searches"]
    assert search["p99_under_ms"] == 1e6 and len(search["trials"]) >= 5
    assert search["message"] in done.stdout


def test_the_command_writes_what_was_measured_before_ctrl_c(bundle, tmp_path):
    words = ("-e", "interrupted:fp32", "--rate", 200, "--arrivals", "constant", "--size", 32, "--seconds", 0.105)
    done = call(bundle.path, *words, "--json", tmp_path / "load.json")
    assert done.exit_code == 130
    value = json.loads((tmp_path / "load.json").read_text())
    assert value["interrupted"] is True and value["results"][0]["requests"] == 2
    assert "Interrupted" in done.stdout and "200/s" in done.stdout


def test_the_command_fails_if_an_engine_died_and_keeps_the_others(bundle, tmp_path):
    words = ("-e", "dies:fp32", "-e", "steady:fp32", "--in-flight", 1, "--size", 32, "--seconds", 0.105)
    done = call(bundle.path, *words, "--json", tmp_path / "load.json")
    assert done.exit_code == 3
    value = json.loads((tmp_path / "load.json").read_text())
    assert [one["engine"] for one in value["results"]] == ["steady:fp32"]
    (failed,) = value["failed"]
    assert (failed["engine"], failed["batch"], failed["message"]) == ("dies:fp32", 1, "the GPU is lost; reset it")
    assert "dies:fp32, batch 1, failed: the GPU is lost" in done.stdout


def test_a_load_lasts_ten_seconds_unless_told_otherwise(bundle, monkeypatch):
    lasted = []

    def pretend(*args, seconds, **options):
        lasted.append(seconds)
        return LoadReport((), (), (), {})

    monkeypatch.setattr("msal_deploy.bench.load_test", pretend)
    assert call(bundle.path, "--in-flight", 1, "-e", "openvino:fp32").exit_code == 0
    assert call(bundle.path, "--in-flight", 1, "-e", "openvino:fp32", "--seconds", 3).exit_code == 0
    assert lasted == [10, 3]
