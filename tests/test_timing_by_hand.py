"""Every number that bench reports, worked out by hand: in its JSON, in the terminal and on the page."""

import json
import math

import pytest
from columns import assert_layout, by_name, numbers_in, page_tables, printed, terminal_rows

from msal_deploy.bench import BenchReport, BenchResult, Setting, Timing, median_interval, time_interleaved, timing
from msal_deploy.report import plots, write_report

# Sorted, the ten runs are 10 11 12 13 14 15 16 19 23 29, and their sum is 162.
UNSTABLE = Timing(((10, 12, 15, 16, 29), (11, 13, 14, 19, 23)))
# Sorted, the eleven runs are 5 5.1 6 6.2 7.2 7.3 7.4 8 8.3 9 9.4, and their sum is 78.9.
STABLE = Timing(((5, 6, 7.2, 8, 9), (5.1, 6.2, 7.4, 8.3, 9.4), (7.3,)))
SLOW = Timing(((2000, 2000, 2000), (2000, 2000)))
TWICE = Timing(((999.9,) * 60, (999.9,) * 50))


def result(engine, batch, timing, **setting):
    size, setting = setting.pop("size", (64, 96)), {"threads": None, "streams": 1} | setting
    return BenchResult(engine=engine, batch=batch, size=size, microns_per_pixel=0.5, timing=timing, **setting)


ENVIRONMENT = {"processor": "Some CPU", "memory_gib": 15.6, "load_average": [0.1, 0.2], "versions": {"numpy": "2"}}
REPORT = BenchReport(
    (
        result("slow:fp32", 3, UNSTABLE),
        result("fast:int8", 3, STABLE),
        result("slow:fp32", 6, SLOW),
        result("fast:int8", 6, TWICE),
    ),
    ENVIRONMENT,
)


def written(report):
    return json.loads(json.dumps(report.to_json(), allow_nan=False))


def test_the_json():
    unstable, stable, *_ = written(REPORT)["results"]
    # The percentiles lie between the sorted runs k = 0 … 9 at 9 q: 4.5, 8.1, 8.55, 8.91.
    assert unstable.pop("latency_ms") == pytest.approx(
        {"p50": (14 + 15) / 2, "p90": 23 + 0.1 * 6, "p95": 23 + 0.55 * 6, "p99": 23 + 0.91 * 6, "mean": 16.2}
    )
    images = 3 * 1000 / 16.2
    assert unstable.pop("images_per_s") == pytest.approx(images)
    assert unstable.pop("megapixels_per_s") == pytest.approx(images * 6144 / 1_000_000, rel=1e-12)
    assert unstable.pop("square_millimetres_per_s") == pytest.approx(images * 0.032 * 0.048)  # 64 × 96 px of 0.5 µm
    # The deviations of 15 and 14 from 14.5 are a half each: √(2 · 0.25 / (2 − 1)).
    assert unstable.pop("coefficient_of_variation") == pytest.approx(0.5**0.5 / 14.5)
    assert unstable == {
        "engine": "slow:fp32", "batch": 3, "size": [64, 96], "threads": None, "streams": 1, "runs": 10,
        "window_medians_ms": [15, 14], "stable": False, "windows_per_process": 1, "peak_memory_mb": None,
        "load_s": None, "speed_up": {"ratio": 1, "low": 1, "high": 1},
    }  # fmt: skip
    # k = 0 … 10 at 10 q: 5, 9, 9.5, 9.9.
    assert stable["latency_ms"] == pytest.approx({"p50": 7.3, "p90": 9, "p95": 9.2, "p99": 9.36, "mean": 78.9 / 11})
    assert stable["coefficient_of_variation"] == pytest.approx(0.1 / 7.3)  # √((0.01 + 0.01 + 0) / (3 − 1)) = 0.1
    assert (stable["runs"], stable["window_medians_ms"], stable["stable"]) == (11, [7.2, 7.4, 7.3], True)
    # log(15 / 7.2) and log(14 / 7.4); Student's t with one degree of freedom is tan(0.95 · π / 2) = 12.706.
    mean, half = math.log(15 / 7.2 * 14 / 7.4) / 2, 12.7062047 * math.log(15 / 7.2 * 7.4 / 14) / 2
    expected = {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}
    assert stable["speed_up"] == pytest.approx(expected)
    assert written(REPORT)["environment"] == ENVIRONMENT


def test_the_table_in_the_terminal():
    rows = by_name(terminal_rows(REPORT.table()), "engine", "batch")
    assert rows["slow:fp32 3"] == {
        "engine": "slow:fp32", "batch": "3", "p50": "14.5", "p90": "23.6", "p99": "28.5", "images/s": "185.19",
        "speed-up": "1.00×", "": "!",
    }  # fmt: skip
    assert rows["fast:int8 3"] == {
        "engine": "fast:int8", "batch": "3", "p50": "7.3", "p90": "9.0", "p99": "9.4", "images/s": "418.25",
        "speed-up": "1.99× ±1.68", "": "",
    }  # fmt: skip
    assert rows["slow:fp32 6"] | {"engine": ""} == {
        "engine": "", "batch": "6", "p50": "2000", "p90": "2000", "p99": "2000", "images/s": "3.00",
        "speed-up": "1.00×", "": "",
    }  # fmt: skip
    assert (rows["fast:int8 6"]["p50"], rows["fast:int8 6"]["speed-up"]) == ("999.9", "2.00× ±0.00")
    (second,) = terminal_rows(BenchReport((result("a:fp32", 1, Timing(((1000,), (1000,)))),), {}).table())
    assert (second["p50"], second["p90"], second["p99"]) == ("1000",) * 3
    assert list(numbers_in(str(REPORT.table().title))) == ["64", "96"]
    assert list(numbers_in(str(REPORT.table().caption).replace("p99", ""))) == ["95%", "32", "100", "2.5%"]
    assert_layout(REPORT.table())
    assert all(column.no_wrap for column in REPORT.table().columns)
    assert REPORT.table().padding == (0, 1, 0, 1)
    lines = [line.split()[:2] for line in printed(REPORT.table()).splitlines()]
    first = lines.index(["slow:fp32", "3"])
    assert lines[first : first + 5] == [
        ["slow:fp32", "3"],
        ["fast:int8", "3"],
        [],
        ["slow:fp32", "6"],
        ["fast:int8", "6"],
    ]


def caption(*timings):
    text = BenchReport(tuple(result("a:fp32", 1, timing) for timing in timings), {}).table().caption
    return text and list(numbers_in(str(text).replace("p99", "")))


def test_what_the_caption_warns_of():
    assert caption(TWICE) is None
    assert caption(Timing(((1,) * 50, (1,) * 50))) is None
    assert caption(Timing(((1,) * 50, (1,) * 49))) == ["100"]
    assert caption(TWICE, Timing(((1,) * 50, (1,) * 49))) == ["95%", "32", "100"]
    assert caption(TWICE, Timing(((1,) * 50, (2,) * 50))) == ["95%", "32", "2.5%"]


def test_stable_is_a_variation_of_at_most_two_and_a_half_per_cent():
    assert Timing(((39,), (40,), (41,))).coefficient_of_variation == 0.025
    assert Timing(((39,), (40,), (41,))).stable
    assert not Timing(((38.9,), (40,), (41,))).stable


def test_threads_and_streams_have_a_column_where_they_were_swept():
    swept = [result("a:fp32", 1, STABLE, threads=n, streams=n or 1) for n in (None, 4)]
    automatic, four = terminal_rows(BenchReport(tuple(swept), {}).table())
    assert (automatic["threads"], automatic["streams"]) == ("auto", "1")
    assert (four["threads"], four["streams"]) == ("4", "4")
    one = [result("a:fp32", 1, STABLE, threads=n) for n in (None, 4)]
    automatic, four = terminal_rows(BenchReport(tuple(one), {}).table())
    assert (automatic["threads"], four["threads"]) == ("auto", "4")
    assert "streams" not in four
    assert four["speed-up"] == "1.00× ±0.00"


def test_settings_and_results_are_made_by_name():
    assert Setting(engine="a:b", batch=2) == Setting(engine="a:b", batch=2, threads=None, streams=1)
    with pytest.raises(TypeError):
        Setting("a:b", 2)
    with pytest.raises(TypeError):
        BenchResult((64, 96), 0.5, STABLE, engine="a:b", batch=2)


def test_the_code_that_opens_a_setting():
    assert Setting(engine="a:b", batch=2).code == 'open_engine(bundle, "a:b")'
    assert Setting(engine="a:b", batch=2, threads=1).code == 'open_engine(bundle, "a:b", threads=1)'
    assert Setting(engine="a:b", batch=2, streams=2).code == 'open_engine(bundle, "a:b", streams=2)'
    assert (
        Setting(engine="a:b", batch=2, threads=3, streams=2).code == 'open_engine(bundle, "a:b", threads=3, streams=2)'
    )


def test_the_table_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "latency_plot", lambda *_: "data:")
    manifest = {"recipe": {"name": "r", "network": {"model": "m", "backbone": "b"}}, "licence": "l", "versions": {}}
    manifest["recipe"]["network"] |= dict.fromkeys(("dense_dilated", "channel_attention", "boundary_refinement"), True)
    path = tmp_path / "report.html"
    write_report(path, title="t", manifest=manifest | {"artifacts": {}}, bench=written(REPORT))
    (table,) = page_tables(path.read_text(encoding="utf-8")).values()
    rows = by_name(table, "Engine", "Batch")
    assert rows["slow:fp32 3"] == {
        "Engine": "slow:fp32", "Batch": "3", "p50 ms": "14.5", "p90 ms": "23.6", "p95 ms": "26.3", "p99 ms": "28.5",
        "Mean ms": "16.2", "Images/s": "185.19", "MP/s": "1.14", "Speed-up": "1.00×", "Runs": "10",
        "Variation": "4.9% unstable",
    }  # fmt: skip
    assert rows["fast:int8 3"] == {
        "Engine": "fast:int8", "Batch": "3", "p50 ms": "7.3", "p90 ms": "9.0", "p95 ms": "9.2", "p99 ms": "9.4",
        "Mean ms": "7.2", "Images/s": "418.25", "MP/s": "2.57", "Speed-up": "1.99× (1.08–3.66)", "Runs": "11",
        "Variation": "1.4%",
    }  # fmt: skip
    assert rows["slow:fp32 6"]["Speed-up"] == "1.00×"
    assert rows["fast:int8 6"]["Speed-up"] == "2.00× (2.00–2.00)"


class Clock:
    """A clock that stands still unless a call lets it go on: the durations of its calls, in ms, one after another."""

    def __init__(self, monkeypatch, *durations):
        self.now, self._durations, self.calls = 7_000_000, iter(durations), 0
        monkeypatch.setattr(timing, "perf_counter_ns", lambda: self.now)

    def call(self):
        self.calls += 1
        self.now += round(next(self._durations) * 1e6)


def test_a_window_counts_neither_the_warm_up_nor_its_first_run(monkeypatch):
    # The warm-up is 4 + 5, 4.5 + 4.4, the first run of the first window 50; then until there are 3 runs and 20 ms.
    clock = Clock(monkeypatch, 4, 5, 4.5, 4.4, 50, 4, 5, 6, 7, 60, 9.5, 8, 3)
    (timing,) = time_interleaved([clock.call], seconds=0.02, windows=2, min_runs=3)
    assert timing.windows == ((4, 5, 6, 7), (9.5, 8, 3))
    assert clock.calls == 13


def test_a_window_lasts_until_it_has_three_runs(monkeypatch):
    clock = Clock(monkeypatch, 30, 30, 30, 1, 2, 3, 30, 6, 7, 8)
    (timing,) = time_interleaved([clock.call], seconds=0.006, windows=2)
    assert timing.windows == ((1, 2, 3), (6, 7, 8))


def test_a_window_lasts_until_the_time_is_up(monkeypatch):
    clock = Clock(monkeypatch, 10, 10, 1, 4, 5, 2, 1, 9, 1)
    (timing,) = time_interleaved([clock.call], seconds=0.010, windows=2, min_runs=1)
    assert timing.windows == ((4, 5, 2), (9, 1))  # 4 + 5 < 10 <= 4 + 5 + 2, and 9 + 1 is just up


@pytest.mark.parametrize(
    ("durations", "runs"),
    [
        ((10, 10, 10, 10), 4),  # two and two take as long
        ((10, 11, 10, 10.01), 4),  # 0.99 of 20.01 apart: less than 5%
        ((11, 10, 10, 10, 10), 5),  # 1 of 20 is 5%, so one more
        ((10, 10, 11, 10, 10.9, 10), 4),  # 1 of 21 is less: it does not matter which two are slower
        ((30, 20, 10, 10, 10, 10), 6),
        ((10, 20, 18, 12), 4),  # the sums count, and not the single runs
        ((10.2, 11, 15, 5, 21), 5),  # 1.2 of 20 apart; then 26 and 26
        ((50, 40, 30, 20), 4),  # 140 ms: the time is up before two and two agree
        ((80, 61), 2),  # two at least, though the time is up
        ((150, 1), 2),
    ],
)
def test_how_long_a_call_is_warmed_up(monkeypatch, durations, runs):
    clock = Clock(monkeypatch, *durations, *range(1000, 2000, 100))
    counted = []
    monkeypatch.setattr(timing, "time_window", lambda *_: counted.append(clock.calls) or (1.0,))
    time_interleaved([clock.call], seconds=0.14, windows=2)
    assert counted == [runs, runs]  # before the first window only


def test_seconds_are_counted_in_nanoseconds(monkeypatch):
    almost = 10_000 - 5e-6  # 5 ns before the 10 s of a window, and of the warm-up, are up
    clock = Clock(monkeypatch, 1, almost - 1, 7, 1, almost, 7, 1, almost, 7)
    (timing,) = time_interleaved([clock.call], seconds=10, windows=2, min_runs=1)
    assert timing.runs == 4 and clock.calls == 9


def test_what_was_measured_cannot_be_changed():
    for frozen, name in ((STABLE, "windows"), (Setting(engine="a:b", batch=1), "batch"), (REPORT, "results")):
        with pytest.raises(AttributeError):
            setattr(frozen, name, 1)
    with pytest.raises(AttributeError):
        REPORT.results[0].batch = 1


def test_calls_are_timed_in_turns(monkeypatch):
    clock, order = Clock(monkeypatch, *[5] * 100), []
    calls = [lambda: order.append("a") or clock.call(), lambda: order.append("b") or clock.call()]
    ticks = []
    timings = time_interleaved(calls, seconds=1e-9, windows=2, min_runs=3, tick=lambda: ticks.append(len(order)))
    assert "".join(order) == "aa" + "aaaa" + "bb" + "bbbb" + "aaaa" + "bbbb"  # warm-up, then one uncounted and three
    assert [timing.windows for timing in timings] == [((5, 5, 5), (5, 5, 5))] * 2
    assert ticks == [6, 12, 16, 20]


@pytest.mark.parametrize(
    ("values", "interval"),
    [
        ([3], (3, 3)),
        ([5, 1, 4, 2, 3], (1, 5)),  # 2.5 − 0.98 · 2.236 = 0.3: the first from each end
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], (2, 8)),  # 4.5 − 0.98 · 3 = 1.56: the second
        (list(range(1, 12)), (3, 9)),  # 5.5 − 0.98 · 3.3166 = 2.25: the third
        (list(range(100)), (40, 59)),  # 50 − 9.8 = 40.2
    ],
)
def test_the_interval_of_a_median(values, interval):
    assert median_interval(values) == interval
