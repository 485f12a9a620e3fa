"""The figure of a run: Dice against the stain shift, and the Dice of every image."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from source_results import HOLDS, POOR, RANGE, Results, SourceResult

from msal_deploy.files import atomic_file

# Okabe and Ito, without those too light for a white page. A marker per source serves readers who see no colours.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#7a6ff0")
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, GRID, SHADE = "#22262b", "#d9dde2", "#f1f3f5"
LABEL_GAP = 0.13  # smallest distance of two labels, as a share of the axis


def save_plot(results: Results, path: Path) -> None:
    """Draw the curves and the images of each source. The suffix of `path` selects the format."""
    curves = list(dict.fromkeys(curve for source in results.sources for curve in source.curves))
    rows = 0.62 * len(results.sources) + 0.9
    figure = Figure(figsize=(9.5, rows + (3.7 if curves else 0)), dpi=150, layout="constrained")
    grid = figure.add_gridspec(2 if curves else 1, 1, height_ratios=[3.7, rows] if curves else [1])
    if curves:
        panels = grid[0].subgridspec(1, len(curves)).subplots(sharey=True, squeeze=False)[0]
        for axes, curve in zip(panels, curves, strict=True):
            _curves(axes, results.sources, curve)
        _limit(panels[0], results.sources, curves)
        _label_ends(panels[-1], results.sources, curves[-1])
    _images(figure.add_subplot(grid[-1]), results.sources)
    with atomic_file(path) as temporary:
        figure.savefig(temporary)


def _curves(axes: Any, sources: Sequence[SourceResult], curve: str) -> None:
    _style(axes, "y")
    axes.axvspan(*RANGE, color=SHADE, lw=0, zorder=0)
    axes.axhline(100 * HOLDS, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
    for k, source in enumerate(sources):
        points = source.curves.get(curve, ())
        shown = [(point.factor, 100 * point.relative) for point in points if point.relative is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), lw=1.8, ms=5, mec="white", mew=0.6, **_look(k))
    axes.set_xscale("log")
    axes.margins(x=0.02)
    ticks = sorted({point.factor for source in sources for point in source.curves.get(curve, ())})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("factor on the optical density" if curve == "density" else f"factor on {curve} only", fontsize=9)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel("Dice, % of the unshifted Dice", fontsize=9)


def _limit(axes: Any, sources: Sequence[SourceResult], curves: Sequence[str]) -> None:
    values = [
        100 * point.relative
        for source in sources
        for curve in curves
        for point in source.curves.get(curve, ())
        if point.relative is not None
    ]
    low, high = min([90.0, *values]), max([102.0, *values])
    axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    # All curves are at 100% here, so there is room below.
    axes.annotate(
        f"{HOLDS:.0%}", (1, 100 * HOLDS), (0, -3), textcoords="offset points", ha="center", va="top", fontsize=8.5,
        color=INK,
    )  # fmt: skip


def _label_ends(axes: Any, sources: Sequence[SourceResult], curve: str) -> None:
    """Write the name of each source at the end of its line, moved apart where two would overlap."""
    low, high = axes.get_ylim()
    last = {k: source.curves[curve][-1].relative for k, source in enumerate(sources) if source.curves.get(curve)}
    ends = {k: 100 * relative for k, relative in last.items() if relative is not None}
    heights = spread({k: (y - low) / (high - low) for k, y in ends.items()}, LABEL_GAP)
    for k in ends:
        text = f"{sources[k].name}\n({len(sources[k].curve_images)} images)"
        axes.annotate(
            text, (1, heights[k]), (4, 0), xycoords="axes fraction", textcoords="offset points", va="center",
            fontsize=9, color=COLOURS[k % len(COLOURS)], annotation_clip=False,
        )  # fmt: skip


def spread(heights: Mapping[int, float], gap: float) -> dict[int, float]:
    """Move heights apart so that neighbours differ by at least `gap`; pairs that overlap move equally."""
    moved = dict(heights)
    order = sorted(moved, key=lambda k: moved[k])
    for _ in range(100):
        for lower, upper in pairwise(order):
            missing = gap - (moved[upper] - moved[lower])
            if missing > 1e-9:
                moved[lower] -= missing / 2
                moved[upper] += missing / 2
    return moved


def _images(axes: Any, sources: Sequence[SourceResult]) -> None:
    _style(axes, "x")
    axes.axvline(POOR, color=INK, lw=1, ls=(0, (1, 2)))
    axes.annotate(
        f"{POOR:g}", (POOR, 1), (3, -1), xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
        fontsize=8.5, color=INK,
    )  # fmt: skip
    random = np.random.default_rng(0)
    for k, source in enumerate(sources):
        values = np.array([value for value, _ in source.ranked])
        heights = k + random.uniform(-0.26, 0.26, len(values))
        heights[0] = k  # the worst image, with its name beside it
        axes.plot(values, heights, ls="", ms=4, alpha=0.4 if len(values) > 60 else 0.75, mec="none", **_look(k))
        axes.vlines(np.median(values), k - 0.34, k + 0.34, color=INK, lw=2, zorder=4)
        _name_worst(axes, source, k)
    names = [f"{source.name}, {len(source.ranked)} images\nmedian {_median(source):.2f}" for source in sources]
    axes.set_yticks(range(len(sources)), names)
    axes.set_ylim(len(sources) - 0.45, -0.55)
    axes.set_xlim(-0.01, 1.01)
    axes.set_xlabel("Dice of an image; the bar is the median, and the worst image is named", fontsize=9)


def _name_worst(axes: Any, source: SourceResult, row: int) -> None:
    value, stem = source.ranked[0]
    # All other images are to the right of the worst; where the axis begins too soon, the name is above the row.
    place = (
        ((value, row), (-6, 0), "right", "center") if value > POOR else ((value, row - 0.3), (0, 0), "left", "bottom")
    )
    point, offset, horizontal, vertical = place
    axes.annotate(
        f"{stem}, {value:.2f}", point, offset, textcoords="offset points", ha=horizontal, va=vertical, fontsize=8,
        color=INK, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _median(source: SourceResult) -> float:
    return float(np.median([value for value, _ in source.ranked]))


def _look(k: int) -> dict[str, Any]:
    return {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}


def _style(axes: Any, grid: str) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    axes.grid(True, axis=grid, color=GRID, lw=0.7)
    axes.set_axisbelow(True)
