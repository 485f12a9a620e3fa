"""Accuracy × latency: the Pareto front, the rows, and the terminal table."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from msal_deploy.report import accuracy_latency, accuracy_latency_table, pareto_front


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(70, 0.81)], [True]),
        ([(70, 0.81), (450, 0.82)], [True, True]),  # faster; more accurate
        ([(70, 0.82), (450, 0.81)], [True, False]),  # better in both
        ([(70, 0.82), (450, 0.82)], [True, False]),  # as accurate, and faster
        ([(70, 0.82), (70, 0.81)], [True, False]),  # as fast, and more accurate
        ([(70, 0.82), (70, 0.82)], [True, True]),  # the same: neither is better in one
        ([(60, 0.80), (70, 0.82), (100, 0.81), (450, 0.83)], [True, True, False, True]),
    ],
)
def test_pareto_front(points, front):
    assert pareto_front(points) == front


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=12))
def test_pareto_front_matches_a_sweep_from_the_fastest_point(points):
    front, best = set(), 0
    for latency, dice in sorted(points, key=lambda point: (point[0], -point[1])):
        if dice > best:
            front.add((latency, dice))
            best = dice
    assert pareto_front(points) == [point in front for point in points]


def validation(**engines):
    """Return validation JSON for engine=Dice or engine=(Dice, changes)."""
    scores = {}
    for name, given_dice in engines.items():
        dice, changes = given_dice if isinstance(given_dice, tuple) else (given_dice, {})
        delta = {"mean": dice - 0.8, "lower": dice - 0.8 - 0.0003}
        scores[name.replace("_", ":")] = {
            "pixel_dice_mean": dice, "delta_dice": delta, "finite": True, "passed": delta["lower"] >= -0.002,
            "verdicts": {"dice": "within" if delta["lower"] >= -0.002 else "over"}, "failures": [],
        } | changes  # fmt: skip
    return {"reference": "torch:fp32", "budget": 0.002, "engines": scores}


def bench(*timings):
    return {"results": [{"engine": e, "batch": b, "latency_ms": {"p50": p50, "p90": 2 * p50}} for e, b, p50 in timings]}


def test_rows_join_scores_and_latencies_with_the_fastest_first():
    scores = validation(torch_fp32=0.8, openvino_int8=0.7991, onnxruntime_fp16=0.8)
    times = bench(("torch:fp32", 1, 440.0), ("openvino:int8", 1, 55.0), ("tensorrt:int8", 1, 2.0))
    rows = accuracy_latency(scores, times)
    assert [row["engine"] for row in rows] == ["openvino:int8", "torch:fp32"]
    assert rows[0] | {"delta_dice_lower": None} == {
        "engine": "openvino:int8", "batch": 1, "pixel_dice_mean": 0.7991, "delta_dice_lower": None,
        "latency_ms_p50": 55.0, "speed_up": 8.0, "finite": True, "passed": True, "state": "passed",
        "pareto_optimal": True, "threads": None, "streams": 1,
    }  # fmt: skip
    assert rows[0]["delta_dice_lower"] == pytest.approx(-0.0012)
    assert rows[1]["speed_up"] == 1.0
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_rows_use_the_smallest_batch_only():
    times = bench(("torch:fp32", 8, 900.0), ("torch:fp32", 2, 300.0), ("openvino:int8", 8, 90.0))
    (row,) = accuracy_latency(validation(torch_fp32=0.8, openvino_int8=0.8), times)
    assert (row["engine"], row["batch"], row["latency_ms_p50"]) == ("torch:fp32", 2, 300.0)


def test_rows_use_the_fastest_setting_of_an_engine():
    times = bench(("torch:fp32", 1, 300.0), ("openvino:int8", 1, 60.0), ("openvino:int8", 1, 90.0))
    fastest, _ = accuracy_latency(validation(torch_fp32=0.8, openvino_int8=0.8), times)
    assert (fastest["latency_ms_p50"], fastest["speed_up"]) == (60.0, 5.0)


def test_pareto_front_ignores_differences_that_the_tables_do_not_show():
    scores = validation(torch_fp32=0.8, openvino_fp32=0.79999999, openvino_int8=0.7991)
    times = bench(("torch:fp32", 1, 440.0), ("openvino:fp32", 1, 260.0), ("openvino:int8", 1, 70.0))
    best = {row["engine"]: row["pareto_optimal"] for row in accuracy_latency(scores, times)}
    assert best == {"torch:fp32": False, "openvino:fp32": True, "openvino:int8": True}


def test_pareto_front_ignores_an_engine_with_nan():
    nan = (0.81, {"finite": False, "passed": False})
    times = bench(("torch:fp32", 1, 440.0), ("tensorrt:fp16", 1, 3.0))
    broken, reference = accuracy_latency(validation(torch_fp32=0.8, tensorrt_fp16=nan), times)
    assert (broken["engine"], broken["pareto_optimal"]) == ("tensorrt:fp16", False)
    assert reference["pareto_optimal"]


def test_rows_have_no_speed_up_if_the_reference_was_not_timed():
    (row,) = accuracy_latency(validation(torch_fp32=0.8, openvino_int8=0.8), bench(("openvino:int8", 1, 70.0)))
    assert row["speed_up"] is None
    assert "–" in printed(validation(torch_fp32=0.8, openvino_int8=0.8), bench(("openvino:int8", 1, 70.0)))


def printed(*reports):
    stream = io.StringIO()
    Console(file=stream, width=80).print(accuracy_latency_table(*reports))
    return stream.getvalue()


def test_table_fits_a_terminal_and_marks_the_front():
    scores = validation(torch_fp32=0.8, openvino_int8=0.7991, onnxruntime_int8=0.797, tensorrt_rtx_fp16=0.8)
    times = bench(("torch:fp32", 1, 446.2), ("openvino:int8", 1, 71.3), ("onnxruntime:int8", 1, 162.0))
    text = printed(scores, times)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert all(len(line) <= 80 and "…" not in line for line in text.splitlines())
    assert all(cell in lines["openvino:int8"] for cell in ("0.7991", "-0.0012", "71.3", "6.26×", "●", "✓"))
    assert "●" not in lines["onnxruntime:int8"]
    assert "✗" in lines["onnxruntime:int8"]
    assert "batch 1" in text


def test_table_without_timed_engines_says_so():
    assert "no engine was timed" in printed(validation(torch_fp32=0.8), bench())
