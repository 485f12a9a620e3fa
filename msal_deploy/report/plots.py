"""The figures of the report, drawn with Matplotlib's object interface (pyplot would change global state).

Each figure is an SVG in which text stays text. Lines and text use CSS variables that follow the light or dark colour
scheme of the page; the colours of the data have medium lightness and suit both.
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
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Okabe and Ito's colours without those too light for a white page. More engines repeat the colours.
COLOURS = ("#0f82c4", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#7a6ff0")
INK, GRID, PAGE = "#22262b", "#d9dde2", "#fff"
DARK_INK, DARK_GRID, DARK_PAGE = "#d7dbe0", "#3a4149", "#14181c"
HALO = "paint-order:stroke;stroke:var(--page);stroke-width:3px"  # keeps text over a line legible
LEGEND: dict[str, Any] = {"ncols": 4, "frameon": False, "fontsize": 9, "labelcolor": INK}
MARK: dict[str, Any] = {"ms": 7, "mew": 1.4, "lw": 1.4, "color": COLOURS[0]}
WIDTH = 9.5  # inches, the width of the page


def delta_plot(validation: Mapping[str, Any]) -> str:
    """Draw the ΔDice of each patch, engine minus reference, with one row per image; return a data URI."""
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
        # Each engine has its own height within a row, so that points do not overlap.
        rows = [stems.index(patch["stem"]) + 0.5 * ((k + 0.5) / len(engines) - 0.5) for patch in patches]
        axes.plot(deltas, rows, "o", ms=4, alpha=0.8, mec="none", color=_colour(k), label=name)
    axes.axvline(0, color=INK, lw=1)
    axes.axvline(-validation["budget"], color=INK, lw=1, ls=(0, (4, 3)), label="−budget (for the mean)")
    axes.set_yticks(range(len(stems)), stems)
    axes.set_ylim(len(stems) - 0.5, -0.5)
    margin = 0.08 * (max(shown) - min(shown)) or 1e-3
    # Matplotlib's default limits would be far wider than the budget if all differences are 0.
    axes.set_xlim(min(shown) - margin, max(shown) + margin)
    axes.set_xlabel("ΔDice of a patch, engine minus reference")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, **LEGEND, loc="outside upper left")
    return _svg(figure, "delta")


def latency_plot(bench: Mapping[str, Any]) -> str:
    """Draw the median latency of each engine with marks at p90 and p99, one panel per batch; return a data URI.

    Args:
        bench: The value of `BenchReport.to_json`, with a ``name`` in each result.
    """
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
    axes.set_xlabel("latency, ms per batch")
    return _svg(figure, "latency")


def _bars(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    y = range(len(rows))
    p50, p90, p99 = ([row["latency_ms"][key] for row in rows] for key in ("p50", "p90", "p99"))
    axes.barh(y, p50, height=0.55, color=_colour(0), label="p50")
    axes.hlines(y, p50, p99, color=INK, lw=1)
    axes.plot(p90, y, "|", color=INK, ms=9, label="p90")
    axes.plot(p99, y, "D", color=INK, ms=4, label="p99")
    axes.set_yticks(y, [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)


def training_plot(history: Sequence[Mapping[str, Any]]) -> str:
    """Draw training loss and validation Dice by epoch, each with its own axis; return a data URI."""
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


def tradeoff_plot(rows: Sequence[Mapping[str, Any]], validations: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw Dice against latency, with the Pareto front connected; return a data URI.

    Args:
        rows: The value of `accuracy_latency`.
        validations: Name of the weights -> the value of `ValidationReport.to_json`. Several have a colour each.
    """
    rows = [row for row in rows if row["finite"]]
    latency, dice = [row["latency_ms_p50"] for row in rows], [row["pixel_dice_mean"] for row in rows]
    figure = _figure(4.8 if len(validations) > 1 else 3.8)
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
    _legend(figure, axes)
    _label_points(figure, axes, list(zip(latency, dice, strict=True)), [row["engine"] for row in rows])
    return _svg(figure, "tradeoff")


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
        _scatter_axes(axes, reference, validation["budget"], "_", _colour(k))  # "_": not in the legend
        x, y = [row["latency_ms_p50"] for row in own], [row["pixel_dice_mean"] for row in own]
        _whiskers(axes, x, y, [reference + row["delta_dice_lower"] for row in own], _colour(k))
        for row in own:
            fill = {} if row["pareto_optimal"] else {"mfc": "none"}
            axes.plot(row["latency_ms_p50"], row["pixel_dice_mean"], "o", **MARK | {"color": _colour(k)} | fill)
        axes.plot([], [], "o", label=name, **MARK | {"color": _colour(k)})


def _reference_dice(validation: Mapping[str, Any]) -> float:
    return float(validation["engines"][validation["reference"]]["pixel_dice_mean"])


def search_plot(search: Mapping[str, Any]) -> str:
    """Draw the Dice of the trials of a precision search against INT8 share and latency; return a data URI."""
    # The search bisects the number of nodes in float; sorted by that number, the line does not go back and forth.
    trials = sorted(search["trials"], key=lambda trial: len(trial["float_nodes"]))
    shares, latencies = [100 * trial["int8_share"] for trial in trials], [trial["latency_ms"] for trial in trials]
    figure = _figure(3.8)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, x in zip(panels, (shares, latencies), strict=True):
        _trials(axes, x, trials, search)
    panels[0].set_xlabel("multiply-accumulates in INT8, %")
    _limit_to_100_percent(panels[0], min(shares))
    panels[1].set(xlabel="latency, ms per patch", ylabel="")
    _legend(figure, panels[0])
    for axes, x in zip(panels, (shares, latencies), strict=True):
        points = [(value, trial["dice"]) for value, trial in zip(x, trials, strict=True)]
        _label_points(figure, axes, points, [str(len(trial["float_nodes"])) for trial in trials])
    return _svg(figure, "search")


def _trials(axes: Axes, x: Sequence[float], trials: Sequence[Mapping[str, Any]], search: Mapping[str, Any]) -> None:
    dice, differences = [trial["dice"] for trial in trials], [trial["delta_dice"] for trial in trials]
    reference = dice[0] - differences[0]["mean"]
    chosen = trials.index(search["trials"][search["chosen"]])
    _scatter_axes(axes, reference, search["budget"], "FP32")
    lower = [reference + difference["lower"] for difference in differences]
    _whiskers(axes, x, dice, lower)
    axes.plot(x, dice, "o-", ms=5, lw=1.2, color=_colour(0), label="trial")
    _whiskers(axes, x[chosen : chosen + 1], dice[chosen : chosen + 1], lower[chosen : chosen + 1], _colour(1))
    axes.plot(x[chosen], dice[chosen], "D", ms=9, color=_colour(1), label="chosen")


def _limit_to_100_percent(axes: Axes, smallest: float) -> None:
    """Limit a percent axis to `smallest` … 100, which may be equal, without ticks above 100."""
    margin = max(0.08 * (100 - smallest), 0.5)
    axes.set_xlim(smallest - margin, 100 + margin)
    axes.set_xticks([tick for tick in axes.get_xticks() if smallest - margin <= tick <= 100])


def _scatter_axes(axes: Axes, reference: float, budget: float, name: str, colour: str = INK) -> Axes:
    """Style axes with Dice as y, and draw lines at the reference and at the budget below it."""
    _style(axes)
    axes.grid(True, axis="y", color=GRID, lw=0.7)
    axes.axhline(reference, color=colour, lw=1, label=name)
    axes.axhline(reference - budget, color=colour, lw=1, ls=(0, (4, 3)), label=f"{name} − budget")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_ylabel("Dice, mean", color=INK)
    axes.margins(0.09)
    return axes


def _whiskers(
    axes: Axes, x: Sequence[float], dice: Sequence[float], lower: Sequence[float], colour: str = COLOURS[0]
) -> None:
    axes.vlines(x, lower, dice, color=colour, lw=1.2)
    axes.plot(x, lower, "_", ms=7, color=colour, mew=1.2)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, **LEGEND, loc="outside upper left")


# Label positions around a point, in order of preference: x and y offset in points, horizontal and vertical alignment.
LABEL_OFFSETS = (
    (0, 7, "center", "bottom"), (8, 6, "left", "bottom"), (-8, 6, "right", "bottom"), (8, 0, "left", "center"),
    (-8, 0, "right", "center"), (8, -6, "left", "top"), (-8, -6, "right", "top"), (0, 19, "center", "bottom"),
    (0, -8, "center", "top"), (0, -20, "center", "top"),
)  # fmt: skip


def _label_points(figure: Figure, axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Write a name beside each point, where possible without overlap with points and other names."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # positions in pixels are known only after the layout
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in axes.transData.transform(points)]
    for point, name in zip(points, names, strict=True):
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", color=INK, fontsize=8.5, parse_math=False)
        text.set_in_layout(False)
        free = (offset for offset in LABEL_OFFSETS if not _overlaps(axes, _move(text, offset), taken))
        taken.append(_move(text, next(free, LABEL_OFFSETS[0])))


def _move(text: Annotation, offset: tuple[float, float, str, str]) -> Bbox:
    """Move a label to an offset; return its bounding box in pixels."""
    x, y, horizontal, vertical = offset
    text.set(position=(x, y), ha=horizontal, va=vertical)
    return text.get_window_extent()


def _overlaps(axes: Axes, box: Bbox, taken: Sequence[Bbox]) -> bool:
    frame = axes.bbox
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    return not inside or box.count_overlaps(taken) > 0


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
    """Return the data URI of the figure as SVG. `name` seeds its ids, so the bytes are reproducible."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    style = (
        f"<style>:root{{--ink:{INK};--grid:{GRID};--page:{PAGE}}}"
        f"text{{font-family:system-ui,sans-serif!important;{HALO}}}@media(prefers-color-scheme:dark)"
        f"{{:root{{--ink:{DARK_INK};--grid:{DARK_GRID};--page:{DARK_PAGE}}}}}</style><defs>"
    )
    svg = stream.getvalue().replace(INK, "var(--ink)").replace(GRID, "var(--grid)").replace("<defs>", style, 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
