"""The figures of the report, drawn by Matplotlib's objects (no pyplot: nothing global is touched).

A figure becomes an SVG with its text as text. Its ink and grid are CSS variables that follow the reader's light or
dark mode; the colours of the data are of middle lightness and read on both.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, without the ones too light for a white page; engines beyond them start anew.
COLOURS = ("#0f82c4", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#7a6ff0")
INK, GRID = "#22262b", "#d9dde2"
DARK_INK, DARK_GRID = "#d7dbe0", "#3a4149"
LEGEND: dict[str, Any] = {"ncols": 4, "frameon": False, "fontsize": 9, "labelcolor": INK}
WIDTH = 9.5  # inches, the width of the page's column


def delta_plot(validation: Mapping[str, Any]) -> str:
    """Draw ΔDice of every patch, engine minus reference, a row an image; return a data URI."""
    reference = validation["engines"][validation["reference"]]["per_patch"]
    stems = list(dict.fromkeys(patch["stem"] for patch in reference))
    engines = [name for name in validation["engines"] if name != validation["reference"]]
    figure = _figure(0.9 + 0.27 * len(stems))
    axes = _style(figure.add_subplot())
    shown = [0.0, -validation["budget"]]
    for k, name in enumerate(engines):
        patches = validation["engines"][name]["per_patch"]
        deltas = [patch["dice"] - other["dice"] for patch, other in zip(patches, reference, strict=True)]
        shown += deltas
        # Engines side by side within a row, so that none hides another.
        rows = [stems.index(patch["stem"]) + 0.5 * ((k + 0.5) / len(engines) - 0.5) for patch in patches]
        axes.plot(deltas, rows, "o", ms=4, alpha=0.8, mec="none", color=_colour(k), label=name)
    axes.axvline(0, color=INK, lw=1)
    axes.axvline(-validation["budget"], color=INK, lw=1, ls=(0, (4, 3)), label="−budget, for the mean")
    axes.set_yticks(range(len(stems)), stems)
    axes.set_ylim(len(stems) - 0.5, -0.5)
    margin = 0.08 * (max(shown) - min(shown)) or 1e-3
    # Not Matplotlib's own limits: where every difference is exactly 0, they dwarf the budget.
    axes.set_xlim(min(shown) - margin, max(shown) + margin)
    axes.set_xlabel("ΔDice of a patch (engine minus reference)")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, **LEGEND, loc="outside upper left")
    return _svg(figure, "delta")


def latency_plot(bench: Mapping[str, Any]) -> str:
    """Draw the median latency of each engine, a panel a batch, with marks at p90 and p99; return a data URI."""
    panels = [(batch, list(rows)) for batch, rows in groupby(bench["results"], key=lambda row: row["batch"])]
    figure = _figure(0.6 + sum(0.6 + 0.3 * len(rows) for _, rows in panels))
    grid = figure.add_gridspec(len(panels), 1, height_ratios=[len(rows) + 0.4 for _, rows in panels])
    for k, (batch, rows) in enumerate(panels):
        axes = _style(figure.add_subplot(grid[k]))
        axes.set_title(f"batch {batch}", loc="left", fontsize=9.5, color=INK)
        _bars(axes, rows)
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(sorted(zip(labels, handles, strict=True)))  # Matplotlib lists lines before bars
    figure.legend(by_label.values(), by_label, **LEGEND, loc="outside upper right")
    axes.set_xlabel("latency, ms a batch")
    return _svg(figure, "latency")


def _bars(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    y = range(len(rows))
    p50, p90, p99 = ([row["latency_ms"][key] for row in rows] for key in ("p50", "p90", "p99"))
    axes.barh(y, p50, height=0.55, color=_colour(0), label="p50")
    axes.hlines(y, p50, p99, color=INK, lw=1)
    axes.plot(p90, y, "|", color=INK, ms=9, label="p90")
    axes.plot(p99, y, "D", color=INK, ms=4, label="p99")
    axes.set_yticks(y, [row["engine"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)


def training_plot(history: Sequence[Mapping[str, Any]]) -> str:
    """Draw the training loss and, on its own scale, the validation Dice by epoch; return a data URI."""
    figure = _figure(2.9)
    loss = _style(figure.add_subplot())
    loss.plot([row["epoch"] for row in history], [row["train_loss"] for row in history], color=_colour(0), lw=1.6)
    loss.set_xlabel("epoch")
    loss.set_ylabel("training loss", color=_colour(0))
    validated = [row for row in history if row.get("validation_dice") is not None]
    if validated:
        dice = _style(loss.twinx())
        dice.grid(False)
        values = [row["validation_dice"] for row in validated]
        dice.plot([row["epoch"] for row in validated], values, color=_colour(1), lw=1.6)
        dice.set_ylabel("validation Dice", color=_colour(1))
    return _svg(figure, "training")


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _style(axes: Axes) -> Axes:
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    axes.grid(True, axis="x", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.yaxis.label.set_fontsize(9)
    return axes


def _svg(figure: Figure, name: str) -> str:
    """Return the figure as the data URI of an SVG; `name` makes its ids, and so its bytes, the same every time."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    style = (
        f"<style>:root{{--ink:{INK};--grid:{GRID}}}text{{font-family:system-ui,sans-serif!important}}"
        f"@media(prefers-color-scheme:dark){{:root{{--ink:{DARK_INK};--grid:{DARK_GRID}}}}}</style><defs>"
    )
    svg = stream.getvalue().replace(INK, "var(--ink)").replace(GRID, "var(--grid)").replace("<defs>", style, 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
