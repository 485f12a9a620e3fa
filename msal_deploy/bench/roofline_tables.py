"""The tables and messages of a roofline report, for an 80-column terminal."""

import re

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msal_deploy.bench.roofline_report import LayerCost, RooflineReport
from msal_deploy.graph import Layer
from msal_deploy.roofline import FOOTNOTE, estimate_table

UNSTABLE = "Unstable (!): the medians of some windows vary too much; repeat on an idle machine."
PROFILE = (
    "Times of layers and kernels are from the runtime's profiler, in a run of its own. Other kernels compute no layer; "
    "a perfect engine would fuse them."
)
SHOWN = 12  # layers, and kinds of other kernels


def roofline_tables(report: RooflineReport) -> Group:
    """Return the peaks, the engines beside their floors, the layers that cost most, and the estimates for GPUs."""
    parts: list[RenderableType] = [_peaks(report), _engines(report)]
    if not all(timing.stable for timing in (*report.engines.values(), *(one.timing for one in report.peaks.values()))):
        parts.append(Text(UNSTABLE))
    parts += [Text(f"{engine} was not measured: {why}") for engine, why in report.left_out.items()]
    if report.profiled:
        parts += [Text(), _layers(report, report.profiled), _others(report, report.profiled)]
        parts.append(Text(PROFILE))
    if report.estimates:
        height, width = report.size
        parts += [Text(), estimate_table(report.estimates, f"{height} × {width}"), Text(FOOTNOTE)]
    return Group(*parts)


def _new_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _peaks(report: RooflineReport) -> Table:
    machine = report.roofs
    table = _new_table(f"Peak rates of this machine, {report.threads} threads, measured", "", "")
    for precision, rate in machine.operations.items():
        table.add_row(f"large {precision.upper()} convolutions", f"{rate / 1e9:.0f}", "G operations/s")
    table.add_row("copy in memory, bytes read and written", f"{machine.memory / 1e9:.1f}", "GB/s")
    if machine.cache:
        mib = machine.cache_bytes / 2**20
        table.add_row(f"copy in the last-level cache of {mib:.0f} MiB", f"{machine.cache / 1e9:.1f}", "GB/s")
    return table


def _engines(report: RooflineReport) -> Table:
    height, width = report.size
    table = _new_table(
        f"{report.batch} × {height} × {width} px, ms", "p50", "floor", "of it memory", "times the floor", ""
    )
    for engine, timing in report.engines.items():
        precision, ratio = engine.partition(":")[2], report.times_the_floor(engine)
        cells = ("–", "–", "–")
        if ratio:
            share = f"{report.memory_share(precision):.0%}"
            cells = (
                f"{report.floor_ms(precision):.1f}",
                share,
                f"{ratio.ratio:.2f} ({ratio.low:.2f}–{ratio.high:.2f})",
            )
        table.add_row(engine, f"{timing.latency_ms['p50']:.1f}", *cells, "" if timing.stable else "[yellow]![/]")
    return table


def _layers(report: RooflineReport, engine: str) -> Table:
    costs = report.costs(engine)
    table = _new_table(
        f"Layers that cost most beyond their floor: {engine}", "G op", "op/byte", "bound", "floor", "ms", "beyond"
    )
    for cost in costs[:SHOWN]:
        table.add_row(*_cells(cost))
    rest = costs[SHOWN:]
    if rest:
        table.add_row(f"{len(rest)} other layers", *_sum(rest))
    table.add_section()
    table.add_row(f"all {len(costs)} layers", *_sum(costs))
    return table


def _cells(cost: LayerCost) -> tuple[str, ...]:
    bound = cost.bound
    return (
        _short(bound.layer),
        f"{2 * bound.layer.macs / 1e9:.2f}",
        f"{bound.intensity:.0f}",
        bound.bound,
        f"{bound.floor_ms:.2f}",
        f"{cost.milliseconds:.2f}",
        f"{cost.beyond_ms:+.2f}",
    )


def _short(layer: Layer) -> str:
    """Return a name such as ``encoder1.0/conv1`` for ``/network/encoder1/encoder1.0/conv1/Conv``."""
    name = layer.name.removeprefix("/network/").removesuffix(f"/{layer.op}")
    while (shorter := re.sub(r"(^|/)([\w.]+)/\2\.", r"\1\2.", name)) != name:
        name = shorter
    return name


def _sum(costs: tuple[LayerCost, ...]) -> tuple[str, ...]:
    floor, measured = sum(cost.bound.floor_ms for cost in costs), sum(cost.milliseconds for cost in costs)
    operations = sum(2 * cost.bound.layer.macs for cost in costs)
    return (f"{operations / 1e9:.2f}", "", "", f"{floor:.2f}", f"{measured:.2f}", f"{measured - floor:+.2f}")


def _others(report: RooflineReport, engine: str) -> Table:
    table = _new_table("Other kernels", "ms")
    others = report.other_ms(engine)
    for kind, milliseconds in list(others.items())[:SHOWN]:
        table.add_row(kind, f"{milliseconds:.2f}")
    table.add_section()
    table.add_row("all", f"{sum(others.values()):.2f}")
    return table
