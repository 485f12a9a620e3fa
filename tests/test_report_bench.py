"""The section on latency: speed-ups with intervals, memory, what failed, and the plots of intervals and of drift."""

import base64
import json
import re
import sys
from pathlib import Path

import pytest
import report_fixture
from columns import page_facts, table_with
from typer.testing import CliRunner

from msal_deploy.cli import app
from msal_deploy.report import Report, bench_plots, save_report, write_report
from msal_deploy.report.latency import bench_notes, latency_rows, optional_columns, with_names

sys.path.insert(0, str(Path(__file__).parent / "bench"))
from saved_reports import MACHINE, report, result

TORCH = [400.0, 404.0, 396.0, 400.0]
ENGINES = {
    "torch:fp32": TORCH,
    "openvino:int8": [80.0, 80.8, 81.0, 80.0],
    "onnxruntime:fp32": [200.0, 202.0, 198.0, 200.0],
}


def two_batches(**changes):
    made = report(ENGINES)
    made["results"] += report(ENGINES, batch=4)["results"]
    return made | changes


@pytest.fixture
def page(tmp_path):
    def write(bench):
        path = tmp_path / "report.html"
        write_report(path, title="t", manifest=report_fixture.MANIFEST, bench=bench)
        return path.read_text(encoding="utf-8")

    return write


def of_an_older_version():
    keys = ("speed_up", "windows_per_process", "window_medians_ms", "peak_memory_mb", "load_s")
    results = [{key: value for key, value in row.items() if key not in keys} for row in report_fixture.BENCH["results"]]
    return {"results": results, "environment": report_fixture.BENCH["environment"]}


def svg(uri):
    return base64.b64decode(uri.partition("base64,")[2]).decode()


def test_speed_ups_have_the_interval_that_was_measured(page):
    made = two_batches()
    made["results"][1]["speed_up"] = {"ratio": 5.4321, "low": 5.354, "high": 5.5}
    made["results"][2]["speed_up"] = None
    rows = table_with(page(made), "MP/s")
    assert [row["Speed-up"] for row in rows[:3]] == ["1.00×", "5.43× (5.35–5.50)", "–"]
    assert [row["Peak MB"] for row in rows] == ["812"] * 6 and [row["Load s"] for row in rows] == ["0.6"] * 6


def test_what_is_unknown_is_a_dash_and_a_column_of_nothing_is_left_out(page):
    made = two_batches()
    made["results"][0] |= {"peak_memory_mb": None, "coefficient_of_variation": None, "stable": False}
    for row in made["results"]:
        row["load_s"] = None
    rows = table_with(page(made), "MP/s")
    assert (rows[0]["Peak MB"], rows[1]["Peak MB"], rows[0]["Variation"]) == ("–", "812", "– unstable")
    assert "Load s" not in rows[0]
    assert optional_columns(made) == ["peak_memory_mb"]


def test_a_report_of_an_older_version_has_the_ratio_of_medians_and_no_new_figure(page):
    text = page(of_an_older_version())
    rows = table_with(text, "MP/s")
    assert rows[2]["Speed-up"] == "5.40×" and "Peak MB" not in rows[0]  # 241.3 / 44.7
    assert "Dot plot of the speed-up" not in text and "Line plot of the median latency" not in text


def test_what_failed_and_what_cannot_run_there_is_said(page):
    made = two_batches(
        failed=[{"engine": "openvino:fp32", "batch": 4, "message": "Its process ended with <SIGKILL>"}],
        unavailable=[{"engine": f"tensorrt:{name}", "needs": "an NVIDIA GPU"} for name in ("fp16", "int8")],
        interrupted=True,
    )
    assert bench_notes(made) == [
        "The measurement was interrupted: results may have fewer windows, or be missing.",
        "openvino:fp32 failed with a batch of 4: Its process ended with <SIGKILL>.",
        "Not available there: tensorrt:fp16 and tensorrt:int8: an NVIDIA GPU.",
    ]
    text = page(made)
    assert "ended with &lt;SIGKILL&gt;." in text and "Not available there: tensorrt:fp16 and tensorrt:int8" in text
    assert bench_notes(of_an_older_version()) == []


def test_the_machine_is_described_with_units_and_without_what_is_unknown(page):
    environment = MACHINE | {"memory_gib": 15.6, "clock_mhz": 3100, "temperature_c": None, "busy_before": 0.25}
    facts = page_facts(page(two_batches(environment=environment)))
    assert (facts["Clock, MHz"], facts["Memory GiB"]) == ("3100", "15.6")
    assert facts["Threads"] == "default 2, affinity 2"
    assert facts["Share of the cores that was busy before"] == "0.25"
    assert not any("emperature" in label for label in facts)


def test_the_page_has_both_figures_with_captions(page):
    text = page(two_batches())
    assert "Dot plot of the speed-up" in text and "Line plot of the median latency of each time window" in text
    assert "Speed-up over torch:fp32, window by window" in text


def drawn(function, made, monkeypatch):
    """Return the axes of a figure, and what is written in it."""
    figures = []
    monkeypatch.setattr(bench_plots, "as_svg", lambda figure, name: figures.append((figure, name)) or "data:")
    function(with_names(made))
    return figures[0]


def test_each_speed_up_is_a_mark_with_its_interval(monkeypatch):
    made = two_batches()
    made["results"][1]["speed_up"] = {"ratio": 5.0, "low": 4.5, "high": 5.5}
    figure, name = drawn(bench_plots.speed_up_plot, made, monkeypatch)
    first, second = figure.axes
    assert name == "speed-up" and (first.get_title("left"), second.get_title("left")) == ("batch 1", "batch 4")
    (whiskers,) = first.collections
    assert whiskers.get_segments()[0].tolist() == [[4.5, 0.0], [5.5, 0.0]]
    baseline, marks = first.lines
    assert baseline.get_xdata()[0] == 1 and marks.get_xdata()[0] == 5.0
    assert [label.get_text() for label in first.get_yticklabels()] == ["openvino:int8", "onnxruntime:fp32"]
    assert first.texts[0].get_text() == "5.00×" and "over torch:fp32" in second.get_xlabel()
    low, high = first.get_xlim()
    assert low == 0 and high > 5.5


def test_drift_is_relative_to_the_median_of_the_engine(monkeypatch):
    figure, _ = drawn(bench_plots.windows_plot, two_batches(), monkeypatch)
    first = figure.axes[0]
    lines = {line.get_label(): line for line in first.lines}
    assert lines["torch:fp32"].get_ydata().tolist() == pytest.approx([0, 1, -1, 0])
    assert lines["torch:fp32"].get_xdata().tolist() == [1, 2, 3, 4]
    borders = [line.get_xdata()[0] for line in first.lines if line.get_label().startswith("_")]
    assert borders == [2.5]  # two windows per process
    assert len({line.get_color() for name, line in lines.items() if not name.startswith("_")}) == 3


def test_an_engine_has_the_same_colour_in_every_panel(monkeypatch):
    made = two_batches()
    del made["results"][3:5]  # only the last engine has a batch of 4
    figure, _ = drawn(bench_plots.windows_plot, made, monkeypatch)
    first, second = ({line.get_label(): line.get_color() for line in axes.lines} for axes in figure.axes)
    assert first["onnxruntime:fp32"] == second["onnxruntime:fp32"]


def test_there_is_no_figure_of_nothing():
    alone = with_names(report({"torch:fp32": TORCH}))
    assert bench_plots.speed_up_plot(alone) == ""
    single = with_names({"results": [result("a:fp32", [1.0], None)]})
    assert bench_plots.windows_plot(single) == bench_plots.speed_up_plot(single) == ""


def test_figures_are_the_same_every_time_and_hold_their_text():
    made = with_names(two_batches())
    for function in (bench_plots.speed_up_plot, bench_plots.windows_plot):
        assert function(made) == function(made)
        assert "openvino:int8" in re.sub("<[^>]*>", " ", svg(function(made)))


def test_the_first_of_each_batch_leads():
    assert [row["leads"] for row in latency_rows(two_batches())] == [True, False, False, True, False, False]


def call(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def test_the_bench_of_another_run_replaces_that_of_a_report(tmp_path):
    folder, other = tmp_path / "report", tmp_path / "bench.json"
    save_report(folder, Report(title="t", manifest=report_fixture.MANIFEST, bench=report_fixture.BENCH))
    other.write_text(json.dumps(two_batches(environment=MACHINE | {"processor": "The target"})))
    result = call(folder, "--bench", other)
    assert result.exit_code == 0, result.output
    page = (folder / "report.html").read_text(encoding="utf-8")
    rows = table_with(page, "MP/s")
    assert (len(rows), rows[1]["p50 ms"], page_facts(page)["Processor"]) == (6, "80.4", "The target")
    assert call(folder).exit_code == 0 and (folder / "report.html").read_text(encoding="utf-8") == page


def test_another_file_leaves_the_report_as_it_is(tmp_path):
    folder, other = tmp_path / "report", tmp_path / "bench.json"
    save_report(folder, Report(title="t", manifest=report_fixture.MANIFEST, bench=report_fixture.BENCH))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    other.write_text('{"schema": "other"}')
    result = call(folder, "--bench", other)
    assert result.exit_code == 2 and "has the schema 'other'" in " ".join(result.stderr.split())
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
