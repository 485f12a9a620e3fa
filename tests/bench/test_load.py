"""Load tests with engines of known latency: a fake clock advances by what they take and by sleeping, by nothing else.

Expected figures are computed by hand from the queue of each test.
"""

import io
import json
import threading
from pathlib import Path
from time import perf_counter, perf_counter_ns
from types import SimpleNamespace

import numpy as np
import pytest
from interrupt import ctrl_c
from rich.console import Console
from scipy.special import bdtr

from msal_deploy.bench import load_loop, load_server
from msal_deploy.bench.load import load_test
from msal_deploy.bench.load_loop import Request, Served, arrival_times, closed_loop, open_loop
from msal_deploy.bench.load_plot import plot_load
from msal_deploy.bench.load_report import LoadReport
from msal_deploy.bench.load_results import Load, LoadResult, percentile_bound
from msal_deploy.bench.results import Setting
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.runtimes import Engine
from msal_deploy.spec import ModelSpec

__all__ = ["ctrl_c"]  # a fixture

MS = 1_000_000
BUNDLE = SimpleNamespace(path=Path("bundle"), spec=ModelSpec())


class Clock:
    """Stands still unless an engine or a pause lets it go on."""

    def __init__(self):
        self.now = 0

    def read(self):
        return self.now

    def seconds(self):
        return self.now / 1e9

    def sleep(self, seconds):
        assert seconds > 0
        self.now += round(seconds * 1e9)

    def advance(self, milliseconds):
        self.now += round(milliseconds * MS)


CLOCK = Clock()


@pytest.fixture(autouse=True)
def fake_clock(monkeypatch):
    CLOCK.now = 0
    monkeypatch.setattr(load_loop, "perf_counter_ns", CLOCK.read)
    monkeypatch.setattr(load_loop, "sleep", CLOCK.sleep)
    monkeypatch.setattr(load_server, "perf_counter", CLOCK.seconds)
    monkeypatch.setattr(load_server, "open_engine", open_fake)
    CALLS.clear()


def takes(*milliseconds):
    """Return a call that takes the given times in turn, then the last of them for ever."""
    left = list(milliseconds)

    def call(requests):
        CLOCK.advance(left.pop(0) if len(left) > 1 else left[0])

    return call


def constant(every_ms, seconds):
    return arrival_times(1000 / every_ms, seconds, "constant")


def result(served, load, batch=1, **changes):
    return LoadResult(
        **{"engine": "fake:fp32", "batch": batch, "size": (512, 512), "microns_per_pixel": 0.25, **changes},
        load=load, served=served,
    )  # fmt: skip


def latencies(served):
    return [(one.end - one.intended) / MS for one in served.requests]


# --- queues that can be computed by hand ------------------------------------------------------------------------------


def test_a_queue_that_grows_by_two_milliseconds_a_request():
    """D/D/1: service 10 ms, arrivals every 8 ms."""
    served = open_loop([takes(10)], constant(8, 0.8), 0.8)
    assert latencies(served)[:5] == [10, 12, 14, 16, 18]
    assert [(one.start - one.intended) / MS for one in served.requests[:3]] == [0, 2, 4]
    assert len(served.requests) == 100  # 20 are left after 0.8 s, and take the 0.2 s that may follow
    assert served.unserved == () and latencies(served)[-1] == 10 + 99 * 2
    row = result(served, Load(rate=125))
    assert row.is_saturated and row.p99_at_most_ms is None
    assert (row.offered_per_s, row.requests_per_s, row.utilisation) == (125, 100, 1)
    assert row.service_ms["p99"] == row.service_ms["mean"] == 10
    assert row.queue_ms["mean"] == 99 and row.latency_ms["mean"] == 109
    (remark,) = row.remarks()
    assert "saturated. 100 requests/s were served of 125 offered, and 20 of 100 were left at the end" in remark
    assert "not steady" in remark


def test_requests_that_were_never_served_count_with_the_time_that_they_waited():
    """Service 100 ms, arrivals every 10 ms for 1 s: 10 are served by then, and 2 or 3 in the quarter that follows."""
    served = open_loop([takes(100)], constant(10, 1), 1)
    assert len(served.requests) == 13 and len(served.unserved) == 87 and served.ended == 1300 * MS
    row = result(served, Load(rate=100))
    assert row.is_saturated and row.requests_per_s == 10 and row.offered_per_s == 100
    assert row.latency_ms["max"] == 1180  # the last that was served; the first that was not arrived after 130 ms
    expected = [100 + 90 * k for k in range(13)] + [1300 - 10 * k for k in range(13, 100)]
    assert row.latency_ms["mean"] == pytest.approx(np.mean(expected))
    assert row.latency_ms["p99"] == pytest.approx(np.percentile(expected, 99))


def test_a_queue_that_keeps_up():
    """Service 10 ms, arrivals every 20 ms."""
    row = result(open_loop([takes(10)], constant(20, 2), 2), Load(rate=50), batch=4)
    assert set(latencies(row.served)) == {10} and not row.is_saturated
    assert (row.requests_per_s, row.offered_per_s, row.images_per_s, row.utilisation) == (50, 50, 200, 0.5)
    assert row.queue_ms["max"] == 0 and row.seconds == 2
    assert row.to_json()["square_millimetres_per_s"] == pytest.approx(200 * 512 * 512 * 0.25e-3**2)


def test_a_stall_shows_in_the_p99_from_intended_times_only():
    """Service 1 ms, arrivals every 2 ms; the 500th call stalls for 100 ms, and 99 latencies are 100, 99, … 2 ms."""
    served = open_loop([takes(*[1] * 499, 100, 1)], constant(2, 2), 2)
    row = result(served, Load(rate=500))
    assert latencies(served)[499:599] == list(range(100, 0, -1))
    assert row.latency_ms["p99"] == pytest.approx(90.01)  # rank 989.01 of 0 to 999: 901 values are 1 ms
    assert row.service_ms["p99"] == 1  # what a loop that waits for the engine would report
    assert row.service_ms["max"] == row.latency_ms["max"] == 100
    assert not row.is_saturated


def test_a_stall_at_the_end_is_not_saturation():
    """The 91st call takes the last 100 ms, and 9 requests are left when it ends, but the engine was idle before."""
    served = open_loop([takes(*[1] * 90, 100, 1)], constant(10, 1), 1)
    row = result(served, Load(rate=100))
    assert row._left(1000 * MS) == 9
    assert not row.is_saturated and len(served.requests) == 100


def test_a_queue_that_was_long_in_the_middle_and_shrinks_is_not_saturated():
    """The first call takes 0.45 s, 45 requests wait, and each 2 ms of the rest of the second serve one of them."""
    row = result(open_loop([takes(450, 8)], constant(10, 1), 1), Load(rate=100))
    assert row._left(500 * MS) > row._left(1000 * MS) > 3
    assert not row.is_saturated


def test_clients_of_a_closed_loop_wait_for_each_other():
    """4 clients and an engine that takes 10 ms: after the first round each waits for the three others."""
    served = closed_loop([takes(10)], 4, 0.2)
    assert latencies(served)[:6] == [10, 20, 30, 40, 40, 40]
    row = result(served, Load(in_flight=4), batch=2)
    assert row.latency_ms == dict.fromkeys(("p50", "p90", "p95", "p99", "mean", "max"), 40)
    assert (row.service_ms["mean"], row.queue_ms["mean"]) == (10, 30)
    assert len(row.counted) == 16 and row.seconds == 0.16  # 20 answers in 0.2 s, without those of the first round
    assert (row.requests_per_s, row.images_per_s, row.offered_per_s, row.is_saturated) == (100, 200, None, False)


def test_one_client_has_the_latency_of_the_engine():
    row = result(closed_loop([takes(10)], 1, 0.5), Load(in_flight=1))
    assert row.latency_ms["p99"] == 10 and row.requests_per_s == 100 and row.queue_ms["max"] == 0


def test_a_short_closed_loop_serves_some_requests_anyway():
    assert len(closed_loop([takes(10)], 3, 0.001).requests) == 3 + 5


def test_waiting_requests_are_taken_together():
    """Two streams: the call takes 10 ms for one or two requests; arrivals every 4 ms."""
    taken = []

    def call(requests):
        taken.append(requests)
        CLOCK.advance(10)

    served = open_loop([call], constant(4, 0.04), 0.08, together=2)
    assert taken == [1, 2, 2, 2, 2, 1]
    assert latencies(served) == [10, 16, 12, 18, 14, 20, 16, 22, 18, 24]


def test_closed_loop_fills_the_streams():
    served = closed_loop([takes(10)], 4, 0.1, together=2)
    assert set(latencies(served)[4:]) == {20}
    assert result(served, Load(in_flight=4)).requests_per_s == 200


# --- requests that are served at the same time ------------------------------------------------------------------------


def test_a_server_gets_the_requests_at_the_same_time(monkeypatch):
    """No call returns before four of them are in it."""
    monkeypatch.undo()
    barrier = threading.Barrier(4)
    served = open_loop([lambda requests: barrier.wait(60)] * 4, [0] * 40, 3600)
    assert len(served.requests) == 40 and served.unserved == ()


def test_the_failure_of_one_request_ends_the_load(monkeypatch):
    monkeypatch.undo()
    others_may_go_on = threading.Event()

    def waits(requests):
        assert others_may_go_on.wait(60)

    def fails(requests):
        others_may_go_on.set()
        raise MissingRequirement("the server is gone", "start it again")

    with pytest.raises(MissingRequirement, match="the server is gone"):
        closed_loop([waits, fails], 2, 3600)


def test_ctrl_c_ends_requests_that_are_served_at_the_same_time(ctrl_c, monkeypatch):
    monkeypatch.undo()
    begun = []

    def call(requests):
        begun.append(requests)
        if len(begun) > 20:
            ctrl_c()

    served = closed_loop([call] * 2, 2, 3600)
    assert served.interrupted and len(served.requests) >= 20


# --- arrivals and bounds ----------------------------------------------------------------------------------------------


def test_random_arrivals_are_as_many_as_were_asked_for_and_have_exponential_gaps():
    times = arrival_times(1000, 10)
    assert len(times) == 10_000 and times[0] >= 0 and times[-1] < 10 * load_loop.SECOND
    gaps = np.diff(times) / MS  # mean 1 ms
    assert gaps.min() >= 0 and gaps.mean() == pytest.approx(1, rel=0.01)
    assert gaps.std() == pytest.approx(1, rel=0.05)  # as large as the mean
    assert (gaps > 3).mean() == pytest.approx(np.exp(-3), rel=0.1)


def test_the_seed_decides_the_pattern_and_the_rate_its_scale():
    slow, fast = arrival_times(100, 1), arrival_times(1000, 0.1)
    assert np.allclose(slow, np.multiply(fast, 10), atol=10)
    assert arrival_times(100, 1, seed=1) != slow == arrival_times(100, 1)
    assert len(arrival_times(0.01, 3)) == 1


@pytest.mark.parametrize(("count", "rank"), [(298, None), (299, 1), (472, 1), (473, 2), (627, 2), (628, 3)])
def test_bound_of_p99_is_the_order_statistic_of_wilks_table(count, rank):
    """Sample sizes for 99% content with 95% confidence are 299, 473 and 628 for the largest, second and third value."""
    bound = percentile_bound(list(range(count)), 0.99)
    assert bound == (None if rank is None else count - rank)


@pytest.mark.parametrize(("count", "share"), [(40, 0.9), (1000, 0.99), (5000, 0.99), (300, 0.5), (100_000, 0.99)])
def test_bound_is_that_of_scipys_binomial_distribution(count, share):
    ranks = np.flatnonzero(bdtr(np.arange(count), count, share) >= 0.95)
    assert percentile_bound(range(count), share) == ranks[0]


def test_a_bound_is_reported_with_enough_requests():
    requests = tuple(Request(10 * k * MS, 10 * k * MS, (10 * k + 1) * MS + k) for k in range(473))
    served = Served(requests, (), 4730 * MS, 4730 * MS, 0, False)
    assert result(served, Load(rate=100)).p99_at_most_ms == 1 + 471 / MS
    assert result(served, Load(in_flight=175)).p99_at_most_ms is None  # 298 of them count


def test_fewer_than_100_requests_are_remarked():
    few = result(open_loop([takes(1)], constant(10, 0.99), 0.99), Load(rate=100))
    assert len(few.counted) == 99 and "99 requests cannot show a p99" in few.remarks()[0]
    assert result(open_loop([takes(1)], constant(10, 1), 1), Load(rate=100)).remarks() == []


def test_a_generator_that_needs_the_processor_itself_is_remarked():
    requests = tuple(Request(10 * k * MS, 10 * k * MS, (10 * k + 1) * MS) for k in range(100))
    served = Served(requests, (), 1000 * MS, 1000 * MS, generator=60 * MS, interrupted=False)
    row = result(served, Load(rate=100))
    assert row.generator_cores == 0.06 and "itself used 6% of a core" in row.remarks()[0]


def test_cpu_time_of_the_generator_leaves_out_the_engine(monkeypatch):
    """The fake CPU clock advances 7 ns with each look, and 1 s in each call."""
    cpu = Clock()

    def look():
        cpu.now += 7
        return cpu.now

    def call(requests):
        cpu.advance(1000)
        CLOCK.advance(1)

    monkeypatch.setattr(load_loop, "thread_time_ns", look)
    served = open_loop([call], constant(10, 0.1), 0.1)
    assert served.generator == 10 * 7 + 7  # between the calls, and at the end


# --- the stage --------------------------------------------------------------------------------------------------------

CALLS = []


class Steady(Engine):
    """Takes 10 ms a call, whatever the batch; two streams halve nothing, because a call takes two requests."""

    runtime = "steady"
    has_streams = True

    def _open(self):
        CALLS.append("opened")

    def _infer(self, images):
        CALLS.append(len(images))
        CLOCK.advance(10)
        return np.zeros((len(images), 1, *images.shape[1:3]), np.float32)

    def _close(self):
        CALLS.append("closed")


class Dies(Steady):
    """Fails in its sixth call."""

    runtime = "dies"

    def _infer(self, images):
        if CALLS.count(1) == 5:
            raise MissingRequirement("the GPU is lost", "reset it")
        return super()._infer(images)


class Interrupted(Steady):
    """Ctrl-C is pressed in its 14th call."""

    runtime = "interrupted"

    def _infer(self, images):
        if CALLS.count(1) == 13:
            raise KeyboardInterrupt
        return super()._infer(images)


class Remote(Engine):
    """An engine on a server: its first calls under load return when three of them are in it at the same time."""

    runtime = "remote"
    inside, together = [], threading.Event()

    def _open(self):
        CALLS.append("opened")

    def _infer(self, images):
        if threading.current_thread() is not threading.main_thread():  # not the warm-up
            self.inside.append(images)
            if len(self.inside) == 3:
                self.together.set()
            assert self.together.wait(60)
        return np.zeros((len(images), 1, *images.shape[1:3]), np.float32)

    def _close(self):
        CALLS.append("closed")


ENGINES = {"remote:fp32": Remote, "steady:fp32": Steady, "dies:fp32": Dies, "interrupted:fp32": Interrupted}


def open_fake(bundle, name, threads=None, streams=1):
    return ENGINES[name](bundle, "fp32", threads, streams)


@pytest.fixture(autouse=True)
def fake_settings(monkeypatch):
    monkeypatch.setattr("msal_deploy.bench.checks.open_engine", open_fake)
    monkeypatch.setattr("msal_deploy.bench.load.require_all", lambda *arguments: None)


def test_every_setting_gets_every_load():
    report = load_test(
        BUNDLE, ["steady:fp32"], in_flight=[1, 2], rates=[20], spacing="constant", batches=(1, 3), threads=(2,),
        streams=(1, 2), size=(32, 32), seconds=1,
    )  # fmt: skip
    rows = [(one.batch, one.streams, str(one.load), one.requests_per_s) for one in report.results]
    assert rows == [
        (1, 1, "1 in flight", 100), (1, 1, "2 in flight", 100), (1, 1, "20 requests/s", 20),
        (1, 2, "1 in flight", 100), (1, 2, "2 in flight", 200), (1, 2, "20 requests/s", 20),
        (3, 1, "1 in flight", 100), (3, 1, "2 in flight", 100), (3, 1, "20 requests/s", 20),
        (3, 2, "1 in flight", 100), (3, 2, "2 in flight", 100), (3, 2, "20 requests/s", 20),
    ]  # fmt: skip
    assert CALLS.count("opened") == CALLS.count("closed") == 4
    assert not report.failed and not report.interrupted


def test_the_warm_up_is_not_counted():
    load_test(BUNDLE, ["steady:fp32"], rates=[100], spacing="constant", size=(32, 32), seconds=0.105)
    assert CALLS.count(1) == 11 + 10  # calls of the warm-up, and requests


def test_an_engine_that_dies_is_named_and_the_others_results_are_kept():
    report = load_test(BUNDLE, ["dies:fp32", "steady:fp32"], in_flight=[1], size=(32, 32), seconds=0.1)
    assert [one.engine for one in report.results] == ["steady:fp32"]
    assert [(one.setting.engine, one.setting.batch) for one in report.failed] == [("dies:fp32", 1)]
    assert "dies:fp32, batch 1, failed: the GPU is lost; reset it" in report.messages()
    assert CALLS.count("opened") == CALLS.count("closed") == 2


def test_a_server_has_a_connection_for_each_request_in_flight(monkeypatch):
    monkeypatch.setattr(Remote, "inside", [])
    monkeypatch.setattr(Remote, "together", threading.Event())
    monkeypatch.setattr(load_loop, "perf_counter_ns", perf_counter_ns)
    monkeypatch.setattr(load_server, "perf_counter", perf_counter)
    monkeypatch.setattr(load_server, "is_on_a_server", lambda engine: True)
    report = load_test(BUNDLE, ["remote:fp32"], in_flight=[3, 2], size=(32, 32), seconds=0.001)
    assert CALLS == ["opened"] * 3 + ["closed"] * 3
    assert [len(one.counted) >= 5 for one in report.results] == [True, True]


def test_an_open_loop_of_a_server_has_a_fixed_number_of_connections(monkeypatch):
    monkeypatch.setattr(load_server, "is_on_a_server", lambda engine: True)
    opened = load_server.Server(BUNDLE, Setting(engine="steady:fp32", batch=1), (), load_server.CONNECTIONS)
    assert opened.places == 32


def test_the_error_of_the_only_engine_is_raised():
    with pytest.raises(MissingRequirement, match="the GPU is lost"):
        load_test(BUNDLE, ["dies:fp32"], in_flight=[1], size=(32, 32), seconds=0.1)


def test_ctrl_c_keeps_what_was_measured():
    """11 calls warm the engine up; the third request, after 20 ms, is interrupted. It arrived after 10 ms."""
    report = load_test(
        BUNDLE, ["interrupted:fp32", "steady:fp32"], rates=[200], spacing="constant", size=(32, 32), seconds=0.105
    )  # fmt: skip
    assert report.interrupted
    (row,) = report.results
    assert row.served.interrupted and len(row.counted) == 2
    assert row.seconds == 0.02 and row.requests_per_s == 100  # the time until Ctrl-C
    assert row.latency_ms["max"] == 15 and len(row.served.unserved) == 3  # which arrived after 10, 15 and 20 ms
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["interrupted"] is True
    assert "Interrupted" in report.messages()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Expected a load, got none"),
        ({"in_flight": [0]}, "Expected 1 to 1024 requests in flight, got 0"),
        ({"in_flight": [2, 2]}, "given twice"),
        ({"rates": [0]}, "0 requests/s for 10 s"),
        ({"rates": [0.05], "seconds": 10}, "0.05 requests/s for 10 s are not 1 to 1000000 requests"),
        ({"rates": [float("nan")]}, "nan requests/s"),
        ({"rates": [1e9]}, "are not 1 to 1000000 requests"),
        ({"p99_under_ms": 0}, "A p99 under 0 ms is not possible"),
        ({"p99_under_ms": float("inf")}, "A p99 under inf ms is not possible"),
        ({"in_flight": [1], "seconds": 0}, "0 s is not possible"),
        ({"in_flight": [1], "batches": (65,)}, "Expected a batch from 1 to 64, got 65"),
        ({"in_flight": [1], "size": (500, 512)}, "multiple of 32, got 500"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(options, message):
    with pytest.raises(BadInput, match=message):
        load_test(BUNDLE, ["steady:fp32"], **options)
    assert CALLS == []


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load_loop, "perf_counter_ns", CLOCK.read)
        patch.setattr(load_loop, "sleep", CLOCK.sleep)
        rows = [
            result(closed_loop([takes(10)], 4, 4), Load(in_flight=4), engine="openvino:int8"),
            result(
                open_loop([takes(10)], constant(20, 2), 2),
                Load(rate=50),
                engine="triton:grpc://localhost:8001/msal-net",
            ),
            result(open_loop([takes(10)], constant(8, 2), 2), Load(rate=125), engine="openvino:int8", streams=2),
        ]
    return LoadReport(tuple(rows), (), (), {"processor": "fake"})


def printed(report):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.table())
    return console.export_text()


def test_the_table_fits_80_columns_and_marks_what_is_not_steady(report):
    lines = printed(report).splitlines()
    first, second, third = (line.split() for line in lines if " 1 " in line)
    assert first == ["openvino:int8", "1", "1", "4", "clients", "100", "40.0", "40.0", "40.0", "10.0"]
    assert second[1:] == ["1", "1", "50/s", "50", "10.0", "10.0", "–", "10.0"]
    names = [line[1:].split(" ")[0] for line in lines]
    assert "triton:grpc://localhost:8001/msal-net" in "".join(names)  # on three lines
    assert third[:5] == ["openvino:int8", "1", "2", "125/s", "100"] and third[-1] == "!"
    assert "…" not in printed(report)


def test_json_has_its_keys(report):
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert value["schema"] == "msal-deploy load 1"
    assert set(value) == {"schema", "results", "searches", "best", "failed", "interrupted", "environment"}
    closed, opened, saturated = value["results"]
    assert set(closed) == {
        "engine", "batch", "size", "threads", "streams", "in_flight", "rate", "arrivals", "offered_per_s",
        "requests_per_s", "images_per_s", "square_millimetres_per_s", "requests", "unserved", "seconds", "saturated",
        "latency_ms", "p99_at_most_ms", "service_ms", "queue_ms", "utilisation", "generator_cores", "interrupted",
    }  # fmt: skip
    assert (closed["in_flight"], closed["rate"], closed["arrivals"], closed["offered_per_s"]) == (4, None, None, None)
    assert (opened["in_flight"], opened["rate"], opened["arrivals"], opened["offered_per_s"]) == (
        None,
        50,
        "poisson",
        50,
    )
    assert (closed["saturated"], opened["saturated"], saturated["saturated"]) == (False, False, True)
    assert closed["p99_at_most_ms"] == 40 and opened["p99_at_most_ms"] is None
    assert set(closed["latency_ms"]) == {"p50", "p90", "p95", "p99", "mean", "max"}


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_plot_is_written(report, tmp_path, suffix, begins):
    plot_load(report, tmp_path / f"load.{suffix}")
    assert (tmp_path / f"load.{suffix}").read_bytes().startswith(begins)


def test_the_plot_shows_each_setting_and_hollow_marks_where_it_is_not_steady(report, tmp_path):
    plot_load(report, tmp_path / "load.svg")
    text = (tmp_path / "load.svg").read_text()
    for label in ("openvino:int8, batch 1, closed loop", "openvino:int8, batch 1, 2 streams, open loop"):
        assert f"<!-- {label}, p99 -->" in text
