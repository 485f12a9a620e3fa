"""The plot of a load test: latency percentiles over throughput."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from msal_deploy.bench.load_report import LoadReport
from msal_deploy.bench.load_results import LoadResult
from msal_deploy.files import StrPath, atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1f6fb2", "#c1440e", "#2e8b57", "#8a5bb5", "#946a00", "#4f5d75")
STYLES = {"p50": ":", "p90": "--", "p99": "-"}


def plot_load(report: LoadReport, path: StrPath) -> None:
    """Draw p50, p90 and p99 over the achieved throughput, one colour for each setting; write the figure to `path`.

    Loads that the engine could not keep up with are hollow: their latencies depend on the duration.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for (label, results), colour in zip(_by_setting(report).items(), cycle(COLOURS), strict=False):
        _draw(axes, label, results, colour)
    axes.set(xlabel="images/s", ylabel="latency, ms", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _by_setting(report: LoadReport) -> dict[str, list[LoadResult]]:
    groups: dict[str, list[LoadResult]] = defaultdict(list)
    searched = [one for search in report.searches for one in search.loads]
    for one in (*report.results, *searched):
        loop = "closed loop" if one.load.in_flight else "open loop"
        threads = f", {one.threads} threads" if one.threads else ""
        streams = f", {one.streams} streams" if one.streams > 1 else ""
        groups[f"{one.engine}, batch {one.batch}{threads}{streams}, {loop}"].append(one)
    return groups


def _draw(axes: "Axes", label: str, results: Sequence[LoadResult], colour: str) -> None:
    ordered = sorted(results, key=lambda one: one.images_per_s)
    rates = [one.images_per_s for one in ordered]
    for name, style in STYLES.items():
        latencies = [one.latency_ms[name] for one in ordered]
        axes.plot(rates, latencies, style, color=colour, lw=1.2, label=f"{label}, {name}")
        for rate, latency, one in zip(rates, latencies, ordered, strict=True):
            axes.plot(rate, latency, "o", ms=5, color=colour, mfc="white" if one.is_saturated else colour)
