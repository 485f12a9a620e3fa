"""The table of a bench report, for a terminal of 80 columns."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

import msgspec
from rich import box
from rich.cells import cell_len
from rich.table import Table

from msal_deploy.bench.results import BenchReport, BenchResult, Failure
from msal_deploy.bench.timing import MAX_VARIATION

WIDTH = 80
DROPPED = ("p90", "peak", "p99")  # if the table is too wide for the terminal, in this order; the JSON has them
RUNS_FOR_P99 = 100  # with fewer runs, the 99th percentile is close to the slowest run
BUSY = 0.25  # share of the processor that other programs had before the measurement
UNKNOWN = "–"


class Column(msgspec.Struct, frozen=True):
    """A column: its heading, and the cell of a result."""

    heading: str
    cell: Callable[[BenchResult], str]


def bench_table(report: BenchReport) -> Table:
    """Return the table. Threads and streams have a column if several values were measured."""
    columns = _fitting(report)
    table = Table(
        title=_title(report),
        caption=" ".join(_notes(report)) or None,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, 1 if _width(columns, report, gap=2) <= WIDTH else 0),
    )
    for index, column in enumerate(columns):
        table.add_column(column.heading, justify="right" if index else "left", no_wrap=True)
    rows: list[BenchResult | Failure] = sorted([*report.results, *report.failed], key=_batch)
    for _, group in groupby(rows, key=_batch):
        table.add_section()
        for row in group:
            table.add_row(*_cells(row, columns))
    return table


def _title(report: BenchReport) -> str:
    if not report.results:
        return "Latency, end to end: nothing was measured"
    height, width = report.results[0].size
    return f"Latency, end to end, {height} × {width} px, ms per batch"


def _batch(row: BenchResult | Failure) -> int:
    return row.setting.batch if isinstance(row, Failure) else row.batch


def _cells(row: BenchResult | Failure, columns: Sequence[Column]) -> list[str]:
    if isinstance(row, Failure):
        return [row.setting.engine, str(row.setting.batch), *["failed"] * (len(columns) > 2)]
    return [column.cell(row) for column in columns]


def _fitting(report: BenchReport) -> list[Column]:
    """Return the columns, without some of `DROPPED` if they would not fit."""
    columns = list(_columns(report))
    for heading in DROPPED:
        if _width(columns, report) <= WIDTH:
            break
        columns = [column for column in columns if column.heading != heading]
    return columns


def _width(columns: Sequence[Column], report: BenchReport, gap: int = 1) -> int:
    """Return the width of the table with `gap` spaces between columns; the box adds one at each end."""
    rows = [[column.heading for column in columns], *(_cells(row, columns) for row in report.results + report.failed)]
    padded = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    return sum(max(map(cell_len, cells)) + gap for cells in zip(*padded, strict=True)) - gap + 2


def _columns(report: BenchReport) -> Iterator[Column]:
    yield Column("engine", lambda one: one.engine)
    yield Column("batch", lambda one: str(one.batch))
    for name in ("threads", "streams"):
        if len({getattr(one, name) for one in report.results}) > 1:
            yield Column(name, partial(_setting, name))
    for name in ("p50", "p90", "p99"):
        yield Column(name, partial(_percentile, name))
    yield Column("images/s", lambda one: f"{one.images_per_s:.2f}")
    yield Column("speed-up", lambda one: _speed_up(report, one))
    if any(one.peak_memory_mb is not None for one in report.results):
        yield Column("peak", lambda one: UNKNOWN if one.peak_memory_mb is None else f"{one.peak_memory_mb:.0f} MB")
    yield Column("", lambda one: "" if one.timing.stable else "!")


def _setting(name: str, result: BenchResult) -> str:
    return str(getattr(result, name) or "auto")


def _percentile(name: str, result: BenchResult) -> str:
    latency = result.timing.latency_ms[name]
    return f"{latency:.{0 if latency >= 1000 else 1}f}"


def _speed_up(report: BenchReport, result: BenchResult) -> str:
    if report.baseline_of(result) == result:
        return "1.00×"
    ratio = report.speed_up(result)
    return UNKNOWN if ratio is None else str(ratio)


def _notes(report: BenchReport) -> Iterator[str]:
    if report.interrupted:
        yield "Interrupted: results may have fewer windows, or be missing."
    for failure in report.failed:
        yield f"Failed: {failure.setting.engine} with a batch of {failure.setting.batch}: {failure.error}."
    timings = [one.timing for one in report.results]
    if len(timings) > 1:
        baseline = report.baseline or report.results[0].engine
        yield f"±: the 95% interval of the speed-up over {baseline}."
    if any(timing.runs < RUNS_FOR_P99 for timing in timings):
        yield f"With fewer than {RUNS_FOR_P99} runs, p99 is close to the slowest run."
    if not all(timing.stable for timing in timings):
        yield f"! Unstable: the medians of windows vary by more than {MAX_VARIATION:.1%}; repeat on an idle machine."
    if (busy := report.environment.get("busy_before") or 0) > BUSY:
        yield f"This machine was {busy:.0%} busy before the measurement: other programs slow down all figures."
