"""A bar chart of the results."""

from pathlib import Path

from cpu_results import INT8, LIMITS, TORCH, CpuResults
from matplotlib.figure import Figure

from msal_deploy.files import atomic_file

COLOURS = {"network": "#0f82c4", "ours": "#d55e00", "int8": "#22262b", "fp32": "#8a9099"}
STYLES = {"int8": (0, (4, 2)), "fp32": (0, (1, 2))}


def save_bars(results: CpuResults, path: Path) -> None:
    """Draw the median latencies and the two limits. The suffix of `path` selects the format."""
    names = results.engines
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(names)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    medians = [results.p50(name) for name in names]
    colours = [COLOURS["ours" if name == INT8 else "network"] for name in names]
    bars = axes.barh(names, medians, height=0.6, color=colours)
    labels = [f"{ms:.1f} ms, {results.speed_up(TORCH, name):.1f}×" for name, ms in zip(names, medians, strict=True)]
    # White boxes keep the labels readable if the line of a limit crosses them.
    axes.bar_label(bars, labels, padding=4, fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    for graph in LIMITS:
        ms = results.limit_ms(graph)
        label = f"{graph.upper()} limit, {ms:.1f} ms"
        axes.axvline(ms, color=COLOURS[graph], lw=1.2, ls=STYLES[graph], label=label)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(medians))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"ms, one image of {results.size} × {results.size} px, {results.threads} threads")
    axes.set_title(str(results.environment["processor"]), loc="left", fontsize=10)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    with atomic_file(path) as temporary:
        figure.savefig(temporary)
