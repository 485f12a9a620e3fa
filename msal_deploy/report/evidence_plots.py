"""The figures of validation: intervals against the budget, ΔDice by patch, flipped pixels by distance, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msal_deploy.report.drawing import DASHED, GRID, INK, add_legend, as_svg, colour_of, limit_x, new_figure, style_axes
from msal_deploy.report.formatting import Json, other_engines
from msal_deploy.report.verdict import engine_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = (("delta_dice", "ΔDice", "budget"), ("delta_aji", "ΔAJI", "budget_aji"), ("delta_pq", "ΔPQ", "budget_pq"))
STATE_COLOURS = {"passed": "#0b8f58", "undecided": "#c77700", "failed": "#d1382c"}


def interval_plot(validation: Json) -> str:
    """Draw the mean of ΔDice, ΔAJI and ΔPQ of each engine between its bounds, against the budget; return a data URI."""
    engines = other_engines(validation)
    figure = new_figure(1.0 + 0.34 * len(engines))
    for axes, measure in zip(figure.subplots(1, 3, sharey=True), MEASURES, strict=True):
        _intervals(style_axes(axes), engines, validation, *measure)
    axes.set_yticks(range(len(engines)), list(engines))
    axes.set_ylim(len(engines) - 0.5, -0.5)
    return as_svg(figure, "intervals")


def _intervals(axes: Axes, engines: Mapping[str, Json], validation: Json, key: str, label: str, budget: str) -> None:
    shown = [0.0]
    for row, score in enumerate(engines.values()):
        colour, delta = STATE_COLOURS[engine_state(score)], score[key]
        axes.plot([delta["lower"], delta["upper"]], [row, row], "|-", color=colour, lw=2, ms=8, mew=1.6)
        axes.plot(delta["mean"], row, "o", color=colour, ms=6)
        shown += [delta["lower"], delta["upper"]]
    axes.axvline(0, color=INK, lw=1)
    if validation[budget] is not None:
        axes.axvline(-validation[budget], color=INK, lw=1, ls=DASHED)
        shown.append(-validation[budget])
    limit_x(axes, shown)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel(f"{label}, mean and bounds")


def flips_plot(validation: Json) -> str:
    """Draw the share of pixels that flip by their distance to the nearest true boundary; return a data URI."""
    figure = new_figure(3.0)
    axes = style_axes(figure.add_subplot())
    axes.grid(True, axis="y", color=GRID, lw=0.7)
    for k, (name, score) in enumerate(other_engines(validation).items()):
        bins = score["differences"]["flips_by_distance"]
        axes.plot(
            range(len(bins)),
            [_percent(row["share"]) for row in bins],
            "o-",
            color=colour_of(k),
            lw=1.4,
            ms=5,
            label=name,
        )
    axes.set_xticks(range(len(bins)), [_distance(row) for row in bins])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("distance to the nearest true boundary, µm")
    axes.set_ylabel("flipped pixels, %", color=INK)
    add_legend(figure, axes)
    return as_svg(figure, "flips")


def _percent(share: float | None) -> float:
    """Return a share in percent; a bin without pixels has none, and no point."""
    return math.nan if share is None else 100 * share


def _distance(row: Json) -> str:
    return f"over {row['from_um']:g}" if row["to_um"] is None else f"{row['from_um']:g} to {row['to_um']:g}"


def calibration_plot(validation: Json) -> str:
    """Draw the observed share of nucleus pixels against the predicted probability; return a data URI."""
    figure = new_figure(3.6)
    axes = style_axes(figure.add_subplot())
    axes.grid(True, axis="y", color=GRID, lw=0.7)
    axes.plot([0, 1], [0, 1], color=INK, lw=1, ls=DASHED, label="calibrated")
    for k, (name, score) in enumerate(validation["engines"].items()):
        bins = [row for row in score["differences"]["calibration"] if row["pixels"]]
        colour = INK if name == validation["reference"] else colour_of(k - 1)
        axes.plot(
            [row["predicted"] for row in bins],
            [row["observed"] for row in bins],
            "o-",
            color=colour,
            lw=1.3,
            ms=4,
            label=name,
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("observed share of nucleus", color=INK)
    add_legend(figure, axes)
    return as_svg(figure, "calibration")
