"""The figures of ΔDice by patch, latency, trade-off, training and search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from msal_deploy.report.drawing import (
    COLOURS,
    DASHED,
    GRID,
    INK,
    LEGEND,
    MARK,
    add_legend,
    as_svg,
    colour_of,
    label_points,
    limit_x,
    new_figure,
    style_axes,
)
from msal_deploy.report.formatting import Json, other_engines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def delta_plot(validation: Json) -> str:
    """Draw the ΔDice of each patch, engine minus reference, with one row per image; return a data URI."""
    reference = validation["engines"][validation["reference"]]["per_patch"]
    stems = list(dict.fromkeys(patch["stem"] for patch in reference if patch["dice"] is not None))
    engines = list(other_engines(validation))
    figure = new_figure(0.9 + 0.27 * len(stems))
    axes = style_axes(figure.add_subplot())
    shown = [0.0, -validation["budget"]]
    for k, name in enumerate(engines):
        patches = validation["engines"][name]["per_patch"]
        pairs = [pair for pair in zip(patches, reference, strict=True) if pair[1]["dice"] is not None]
        deltas = [patch["dice"] - other["dice"] for patch, other in pairs]
        shown += deltas
        # Each engine has its own height within a row, so that points do not overlap.
        rows = [stems.index(patch["stem"]) + 0.5 * ((k + 0.5) / len(engines) - 0.5) for patch, _ in pairs]
        axes.plot(deltas, rows, "o", ms=4, alpha=0.8, mec="none", color=colour_of(k), label=name)
    axes.axvline(0, color=INK, lw=1)
    axes.axvline(-validation["budget"], color=INK, lw=1, ls=DASHED, label="−budget (for the mean)")
    axes.set_yticks(range(len(stems)), stems)
    axes.set_ylim(len(stems) - 0.5, -0.5)
    limit_x(axes, shown)
    axes.set_xlabel("ΔDice of a patch, engine minus reference")
    add_legend(figure, axes)
    return as_svg(figure, "delta")


def latency_plot(bench: Mapping[str, Any]) -> str:
    """Draw the median latency of each engine with marks at p90 and p99, one panel per batch; return a data URI.

    Args:
        bench: The value of `BenchReport.to_json`, with a ``name`` in each result.
    """
    panels = [(batch, list(rows)) for batch, rows in groupby(bench["results"], key=lambda row: row["batch"])]
    figure = new_figure(0.6 + sum(0.6 + 0.3 * len(rows) for _, rows in panels))
    grid = figure.add_gridspec(len(panels), 1, height_ratios=[len(rows) + 0.4 for _, rows in panels])
    for k, (batch, rows) in enumerate(panels):
        axes = style_axes(figure.add_subplot(grid[k]))
        axes.set_title(f"batch {batch}", loc="left", fontsize=9.5, color=INK)
        _bars(axes, rows)
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(sorted(zip(labels, handles, strict=True)))  # Matplotlib lists lines before bars
    figure.legend(by_label.values(), by_label, **LEGEND, loc="outside upper right")
    axes.set_xlabel("latency, ms per batch")
    return as_svg(figure, "latency")


def _bars(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    y = range(len(rows))
    p50, p90, p99 = ([row["latency_ms"][key] for row in rows] for key in ("p50", "p90", "p99"))
    axes.barh(y, p50, height=0.55, color=colour_of(0), label="p50")
    axes.hlines(y, p50, p99, color=INK, lw=1)
    axes.plot(p90, y, "|", color=INK, ms=9, label="p90")
    axes.plot(p99, y, "D", color=INK, ms=4, label="p99")
    axes.set_yticks(y, [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)


def training_plot(history: Sequence[Mapping[str, Any]]) -> str:
    """Draw training loss and validation Dice by epoch, each with its own axis; return a data URI."""
    figure = new_figure(2.9)
    loss = style_axes(figure.add_subplot())
    loss.plot([row["epoch"] for row in history], [row["train_loss"] for row in history], color=colour_of(0), lw=1.6)
    loss.set_xlabel("epoch")
    loss.set_ylabel("training loss", color=colour_of(0))
    validated = [row for row in history if row.get("validation_dice") is not None]
    if validated:
        dice = style_axes(loss.twinx())
        dice.grid(False)
        values = [row["validation_dice"] for row in validated]
        dice.plot([row["epoch"] for row in validated], values, color=colour_of(1), lw=1.6)
        dice.set_ylabel("validation Dice", color=colour_of(1))
    return as_svg(figure, "training")


def tradeoff_plot(rows: Sequence[Mapping[str, Any]], validations: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw Dice against latency, with the Pareto front connected; return a data URI.

    Args:
        rows: The value of `accuracy_latency`.
        validations: Name of the weights -> the value of `ValidationReport.to_json`. Several have a colour each.
    """
    rows = [row for row in rows if row["finite"]]
    latency, dice = [row["latency_ms_p50"] for row in rows], [row["pixel_dice_mean"] for row in rows]
    figure = new_figure(4.8 if len(validations) > 1 else 3.8)
    axes = figure.add_subplot()
    if len(validations) > 1:
        _points_by_weights(axes, rows, validations)
    else:
        (validation,) = validations.values()
        reference = _reference_dice(validation)
        _scatter_axes(axes, reference, validation["budget"], validation["reference"])
        _whiskers(axes, latency, dice, [reference + row["delta_dice_lower"] for row in rows])
        optimal = [k for k, row in enumerate(rows) if row["pareto_optimal"]]
        dominated = [k for k in range(len(rows)) if k not in optimal]
        axes.plot([latency[k] for k in optimal], [dice[k] for k in optimal], "o-", label="Pareto-optimal", **MARK)
        hollow = {"mfc": "none", "label": "dominated", **MARK}
        axes.plot([latency[k] for k in dominated], [dice[k] for k in dominated], "o", **hollow)
    axes.set_xlabel("latency p50, ms per batch")
    axes.set_xlim(left=0)
    add_legend(figure, axes)
    label_points(figure, axes, list(zip(latency, dice, strict=True)), [row["engine"] for row in rows])
    return as_svg(figure, "tradeoff")


def _points_by_weights(
    axes: Axes, rows: Sequence[Mapping[str, Any]], validations: Mapping[str, Mapping[str, Any]]
) -> None:
    """Draw the points of each weights in a colour, with lines at their reference and budget, and the common front."""
    front = [row for row in rows if row["pareto_optimal"]]
    style: dict[str, Any] = {"color": INK, "lw": 1.2, "label": "Pareto front", "zorder": 1.5}
    axes.plot([row["latency_ms_p50"] for row in front], [row["pixel_dice_mean"] for row in front], "-", **style)
    for k, (name, validation) in enumerate(validations.items()):
        own = [row for row in rows if row["weights"] == name]
        reference = _reference_dice(validation)
        _scatter_axes(axes, reference, validation["budget"], "_", colour_of(k))  # "_": not in the legend
        x, y = [row["latency_ms_p50"] for row in own], [row["pixel_dice_mean"] for row in own]
        _whiskers(axes, x, y, [reference + row["delta_dice_lower"] for row in own], colour_of(k))
        for row in own:
            fill = {} if row["pareto_optimal"] else {"mfc": "none"}
            axes.plot(row["latency_ms_p50"], row["pixel_dice_mean"], "o", **MARK | {"color": colour_of(k)} | fill)
        axes.plot([], [], "o", label=name, **MARK | {"color": colour_of(k)})


def _reference_dice(validation: Mapping[str, Any]) -> float:
    return float(validation["engines"][validation["reference"]]["pixel_dice_mean"])


def search_plot(search: Mapping[str, Any]) -> str:
    """Draw the Dice of the trials of a precision search against INT8 share and latency; return a data URI."""
    # The search bisects the number of nodes in float; sorted by that number, the line does not go back and forth.
    trials = sorted(search["trials"], key=lambda trial: len(trial["float_nodes"]))
    shares, latencies = [100 * trial["int8_share"] for trial in trials], [trial["latency_ms"] for trial in trials]
    figure = new_figure(3.8)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, x in zip(panels, (shares, latencies), strict=True):
        _trials(axes, x, trials, search)
    panels[0].set_xlabel("multiply-accumulates in INT8, %")
    _limit_to_100_percent(panels[0], min(shares))
    panels[1].set(xlabel="latency, ms per patch", ylabel="")
    add_legend(figure, panels[0])
    for axes, x in zip(panels, (shares, latencies), strict=True):
        points = [(value, trial["dice"]) for value, trial in zip(x, trials, strict=True)]
        label_points(figure, axes, points, [str(len(trial["float_nodes"])) for trial in trials])
    return as_svg(figure, "search")


def _trials(axes: Axes, x: Sequence[float], trials: Sequence[Mapping[str, Any]], search: Mapping[str, Any]) -> None:
    dice, differences = [trial["dice"] for trial in trials], [trial["delta_dice"] for trial in trials]
    reference = dice[0] - differences[0]["mean"]
    chosen = trials.index(search["trials"][search["chosen"]])
    _scatter_axes(axes, reference, search["budget"], "FP32")
    lower = [reference + difference["lower"] for difference in differences]
    _whiskers(axes, x, dice, lower)
    axes.plot(x, dice, "o-", ms=5, lw=1.2, color=colour_of(0), label="trial")
    _whiskers(axes, x[chosen : chosen + 1], dice[chosen : chosen + 1], lower[chosen : chosen + 1], colour_of(1))
    axes.plot(x[chosen], dice[chosen], "D", ms=9, color=colour_of(1), label="chosen")


def _limit_to_100_percent(axes: Axes, smallest: float) -> None:
    """Limit a percent axis to `smallest` … 100, which may be equal, without ticks above 100."""
    margin = max(0.08 * (100 - smallest), 0.5)
    axes.set_xlim(smallest - margin, 100 + margin)
    axes.set_xticks([tick for tick in axes.get_xticks() if smallest - margin <= tick <= 100])


def _scatter_axes(axes: Axes, reference: float, budget: float, name: str, colour: str = INK) -> Axes:
    """Style axes with Dice as y, and draw lines at the reference and at the budget below it."""
    style_axes(axes)
    axes.grid(True, axis="y", color=GRID, lw=0.7)
    axes.axhline(reference, color=colour, lw=1, label=name)
    axes.axhline(reference - budget, color=colour, lw=1, ls=DASHED, label=f"{name} − budget")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_ylabel("Dice, mean", color=INK)
    axes.margins(0.09)
    return axes


def _whiskers(
    axes: Axes, x: Sequence[float], dice: Sequence[float], lower: Sequence[float], colour: str = COLOURS[0]
) -> None:
    axes.vlines(x, lower, dice, color=colour, lw=1.2)
    axes.plot(x, lower, "_", ms=7, color=colour, mew=1.2)
