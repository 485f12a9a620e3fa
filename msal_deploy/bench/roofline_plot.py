"""The roofline as a plot: the roofs of the machine, and the layers as dots."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from msal_deploy.bench.roofline_report import RooflineReport
from msal_deploy.files import atomic_file

LEFT = 0.5  # operations per byte at the left end
DRAWN_SHARE = 0.001  # of the time; shorter layers would only stretch the axes
COLOURS = {"fp32": "#8a9099", "bf16": "#7b5ea7", "int8": "#d55e00"}
MEMORY_COLOUR, CACHE_COLOUR = "#22262b", "#0f82c4"


def save_roofline(report: RooflineReport, path: Path) -> None:
    """Draw the roofs, and each layer at its operations per byte and at the rate that it reaches.

    Layers are those of the fastest engine with a profile, and of the fastest in FP32; those below `DRAWN_SHARE` of the
    time are left out. The area of a dot is the time of the layer. The suffix of `path` selects the format.
    """
    figure = Figure(figsize=(8, 5.2), dpi=150, layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    for engine in _drawn(report):
        _draw_layers(axes, report, engine)
    right = 10 ** np.ceil(np.log10(max(bound.intensity for p in report.precisions for bound in report.bounds(p))))
    _draw_roofs(axes, report, np.geomspace(LEFT, right, 400))
    axes.set_xlim(LEFT, right)
    axes.set_xlabel("operations per byte moved")
    axes.set_ylabel("10⁹ operations per second")
    axes.grid(which="major", color="#e4e7ea", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    height, width = report.size
    title = f"{report.environment['processor']}, {report.threads} threads, {report.batch} × {height} × {width} px"
    axes.set_title(title, loc="left", fontsize=10)
    dots: list[Any] = axes.legend(loc="lower right", frameon=False, fontsize=9).legend_handles
    for dot in dots[: len(_drawn(report))]:
        dot.set_sizes([40])
    with atomic_file(path) as temporary:
        figure.savefig(temporary)


def _drawn(report: RooflineReport) -> list[str]:
    """Return the engines whose layers are drawn."""
    fastest = report.profiled
    fp32 = [name for name in report.kernels if name.endswith(":fp32")]
    slow = min(fp32, key=lambda name: report.engines[name].latency_ms["p50"], default=None)
    return [name for name in dict.fromkeys((slow, fastest)) if name]


def _draw_layers(axes: Any, report: RooflineReport, engine: str) -> None:
    total = sum(cost.milliseconds for cost in report.costs(engine))
    costs = [cost for cost in report.costs(engine) if cost.milliseconds >= DRAWN_SHARE * total > 0]
    axes.scatter(
        [cost.bound.intensity for cost in costs],
        [cost.operations_per_s / 1e9 for cost in costs],
        s=[12 + 2500 * cost.milliseconds / total for cost in costs],
        color=COLOURS.get(engine.partition(":")[2], MEMORY_COLOUR),
        alpha=0.55,
        lw=0,
        label=f"layers of {engine}; area: time",
    )


def _draw_roofs(axes: Any, report: RooflineReport, intensity: Any) -> None:
    machine = report.roofs
    highest = max(machine.operations.values())
    bandwidths = {"memory": (machine.memory, MEMORY_COLOUR), "last-level cache": (machine.cache, CACHE_COLOUR)}
    for name, (bandwidth, colour) in bandwidths.items():
        if bandwidth:
            label = f"{name}, {bandwidth / 1e9:.0f} GB/s"
            slope = intensity[intensity * bandwidth <= highest]
            axes.plot(slope, slope * bandwidth / 1e9, color=colour, lw=1.2, label=label)
    for precision, rate in machine.operations.items():
        axes.axhline(rate / 1e9, color=COLOURS[precision], lw=1.2, ls=(0, (4, 2)))
        label = f"{precision.upper()} {rate / 1e9:.0f}"
        axes.annotate(label, (intensity[0], rate / 1e9), (4, 3), textcoords="offset points", fontsize=9)
