"""The figures of a benchmark besides latency: speed-ups with their intervals, and drift over the windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING, Any

from msal_deploy.report.drawing import (
    COLOURS,
    DASHED,
    GRID,
    INK,
    add_legend,
    as_svg,
    colour_of,
    new_figure,
    style_axes,
)
from msal_deploy.report.formatting import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def speed_up_plot(bench: Json) -> str:
    """Draw each speed-up over the baseline as a mark with its interval, one panel per batch; return a data URI.

    Args:
        bench: The value of `BenchReport.to_json`, with a ``name`` in each result. Results without an interval, and the
            baseline itself, are left out. Empty if nothing is left.
    """
    panels = _panels([row for row in bench["results"] if has_interval(row)])
    if not panels:
        return ""
    figure, grid = _stacked(panels)
    for k, (batch, rows) in enumerate(panels.items()):
        axes = _titled(figure, grid[k], batch)
        _dots(axes, [row["speed_up"] for row in rows])
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.margins(x=0.12)  # room for the labels
    axes.set_xlabel(f"speed-up over {bench['baseline']}, with its interval of 95%", parse_math=False)
    return as_svg(figure, "speed-up")


def has_interval(row: Json) -> bool:
    """Return whether a result has a speed-up that was measured: not the baseline's own, which is one.

    >>> has_interval({"speed_up": {"ratio": 5.0, "low": 4.9, "high": 5.1}}), has_interval({"speed_up": None})
    (True, False)
    """
    ratio = row.get("speed_up")
    return ratio is not None and not ratio["ratio"] == ratio["low"] == ratio["high"] == 1


def _dots(axes: Axes, ratios: Sequence[Mapping[str, float]]) -> None:
    y = range(len(ratios))
    low, middle, high = ([one[key] for one in ratios] for key in ("low", "ratio", "high"))
    axes.axvline(1, color=INK, lw=1, ls=DASHED)
    axes.hlines(y, low, high, color=COLOURS[0], lw=2.2)
    axes.plot(middle, y, "|", ms=11, mew=2.2, color=COLOURS[0])
    for k, one in enumerate(ratios):
        label = f"{one['ratio']:.2f}×"
        axes.annotate(label, (one["high"], k), (8, 0), textcoords="offset points", va="center", color=INK, fontsize=8.5)


def windows_plot(bench: Json) -> str:
    """Draw the median of each time window relative to the engine's, in the order of time; return a data URI.

    A machine that slows down or is disturbed moves all engines alike; a step between processes is the process's own.

    Args:
        bench: The value of `BenchReport.to_json`, with a ``name`` in each result. Empty if none has two windows.
    """
    panels = _panels([row for row in bench["results"] if len(row.get("window_medians_ms", ())) > 1])
    if not panels:
        return ""
    figure = new_figure(0.5 + 1.9 * len(panels))
    grid = figure.add_gridspec(len(panels), 1)
    colours = {name: k for k, name in enumerate(dict.fromkeys(row["name"] for row in bench["results"]))}
    for k, (batch, rows) in enumerate(panels.items()):
        axes = _titled(figure, grid[k], batch)
        _drift(axes, rows, colours)
    axes.set_xlabel("time window")
    add_legend(figure, axes)
    return as_svg(figure, "windows")


def _drift(axes: Axes, rows: Sequence[Json], colours: Mapping[str, int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.grid(False, axis="x")
    axes.grid(True, axis="y", color=GRID, lw=0.7)
    most = max(len(row["window_medians_ms"]) for row in rows)
    per_process = rows[0].get("windows_per_process", most)
    for start in range(per_process, most, per_process):
        axes.axvline(start + 0.5, color=GRID, lw=1)
    for row in rows:
        medians = row["window_medians_ms"]
        relative = [100 * (one / median(medians) - 1) for one in medians]
        style: dict[str, Any] = {"ms": 4, "lw": 1.2, "color": colour_of(colours[row["name"]])}
        axes.plot(range(1, len(medians) + 1), relative, "o-", label=row["name"], **style)
    axes.set_xlim(0.5, most + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("latency, % of its median", color=INK)


def _panels(rows: Sequence[Json]) -> dict[int, list[Json]]:
    """Return batch -> its results."""
    return {batch: list(group) for batch, group in groupby(rows, key=lambda row: int(row["batch"]))}


def _stacked(panels: Mapping[int, Sequence[Json]]) -> tuple[Figure, Any]:
    """Return a figure, and a grid with a row for each panel, as high as its results need."""
    figure = new_figure(0.6 + sum(0.6 + 0.3 * len(rows) for rows in panels.values()))
    grid = figure.add_gridspec(len(panels), 1, height_ratios=[len(rows) + 0.4 for rows in panels.values()])
    return figure, grid


def _titled(figure: Figure, cell: Any, batch: int) -> Axes:
    axes = style_axes(figure.add_subplot(cell))
    axes.set_title(f"batch {batch}", loc="left", fontsize=9.5, color=INK)
    return axes
