"""The figure of a simulation: how often an engine at the budget passes, what passes at each loss, and catastrophes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gate_tables import rows_where
from matplotlib.figure import Figure

from msal_deploy.files import atomic_file

# Okabe and Ito. A marker and a line style for each line serve readers who see no colours.
INK, GRID = "#22262b", "#d9dde2"
BOUNDS = {
    "percentile bootstrap": ("percentile bootstrap (before)", "#d55e00", "s", "--"),
    "studentized bootstrap": ("studentized bootstrap", "#7a6ff0", "^", ":"),
    "this gate": ("this gate", "#0072b2", "o", "-"),
}
IMAGES = {5: ("#cc79a7", "v", ":"), 14: ("#0072b2", "o", "-"), 60: ("#009e73", "D", "--")}
KINDS = (("#d55e00", "s"), ("#0072b2", "o"), ("#009e73", "D"))
FAMILIES = {
    "normal": "At the budget, normal differences",
    "skewed": "…, skewed: a few images lose much",
    "heavy-tailed": "…, heavy-tailed: t with 3 degrees",
}


def save_plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw the results. The suffix of `path` selects the format."""
    figure = Figure(figsize=(11, 7.4), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.12)
    above, below = figure.subplots(2, 3)
    for axes, family in zip(above, FAMILIES, strict=True):
        axes.sharey(above[0])
        _errors(axes, results, family)
    above[0].set_ylabel("engines that pass wrongly", fontsize=9)
    above[0].set_ylim(0, 22)
    above[0].legend(frameon=False, fontsize=9, loc="upper right")
    for axes, (name, spread) in zip(below, results["spreads"].items(), strict=False):
        _power(axes, results, name, spread)
    below[0].set_ylabel("engines that pass", fontsize=9)
    _catastrophes(below[2], results)
    with atomic_file(path) as temporary:
        figure.savefig(temporary)


def _errors(axes: Any, results: Mapping[str, Any], family: str) -> None:
    _style(axes, FAMILIES[family])
    axes.axhline(5, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
    for name, (label, colour, marker, line) in BOUNDS.items():
        rows = rows_where(results["other_bounds"], family=family, correlation=0.8, bound=name)
        shares = [100 * row["lower_wrong"] for row in rows]
        axes.plot(range(len(rows)), shares, color=colour, marker=marker, ls=line, lw=1.8, ms=5, label=label)
    _image_axis(axes, [row["images"] for row in rows])


def _power(axes: Any, results: Mapping[str, Any], name: str, spread: float) -> None:
    _style(axes, f"Spread {spread:.4f} ({name})")
    budget = results["budget"]
    axes.axvline(budget, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
    axes.annotate("budget", (budget, 50), (4, 0), textcoords="offset points", fontsize=8.5, color=INK)
    for images, (colour, marker, line) in IMAGES.items():
        rows = rows_where(results["gate"], family="normal", correlation=0.8, spread=name, images=images)
        points = [(row["loss"], 100 * row["within"]) for row in rows]
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, ls=line, lw=1.8, ms=5, label=f"{images}")
    axes.set_xlabel("true loss of Dice", fontsize=9)
    axes.set_ylim(0, 103)
    axes.legend(title="images", title_fontsize=9, frameon=False, fontsize=9, loc="upper right")


def _catastrophes(axes: Any, results: Mapping[str, Any]) -> None:
    """Solid lines: this gate; dotted: the percentile bootstrap, which had no limit for the worst image."""
    _style(axes, "Some images are ruined")
    rows = results["catastrophes"]
    kinds = dict.fromkeys((row["share"], row["loss"]) for row in rows)
    for (share, loss), (colour, marker) in zip(kinds, KINDS, strict=True):
        found = rows_where(rows, share=share, loss=loss)
        label = f"1 in {round(1 / share)} loses {loss:g}"
        for key, line, name in (("passed_before", ":", None), ("passes_with_the_worst_image", "-", label)):
            shares = [100 * row[key] for row in found]
            axes.plot(range(len(found)), shares, color=colour, marker=marker, ls=line, lw=1.8, ms=5, label=name)
    axes.plot([], [], color=INK, ls=":", lw=1.8, label="before")
    _image_axis(axes, [row["images"] for row in found])
    axes.set_ylim(0, 138)
    axes.set_yticks(range(0, 101, 20))
    axes.legend(frameon=False, fontsize=9, loc="upper right", ncols=2)


def _image_axis(axes: Any, images: list[int]) -> None:
    axes.set_xticks(range(len(images)), [str(count) for count in images])
    axes.set_xlabel("images", fontsize=9)


def _style(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    axes.yaxis.set_major_formatter("{x:.0f}%")
    axes.grid(True, axis="y", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
