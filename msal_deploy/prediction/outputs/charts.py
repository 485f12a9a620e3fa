"""The charts of the page: the areas of the nuclei, and when each stage worked."""

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c6670")
DOTS_PER_INCH = 110


def area_histogram(areas: NDArray[np.float64]) -> bytes:
    """Return a PNG of how many nuclei have which area: float64[N] in µm², N > 0."""
    figure = _figure(2.8)
    axes = figure.add_subplot()
    # A few large clumps would push all nuclei into the first bars.
    end = float(np.quantile(areas, 0.995)) * 1.05
    axes.hist(areas, bins=40, range=(0, end), color=COLOURS[0])
    axes.axvline(float(np.median(areas)), color="#22262b", lw=1.2, ls="--", label=f"median {np.median(areas):.1f} µm²")
    axes.set(xlabel="area of a nucleus in µm²", ylabel="nuclei", xlim=(0, end))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def timeline(spans: Sequence[tuple[str, str, float, float]]) -> bytes:
    """Return a PNG with a row per stage, where bars show when it worked: (stage, region, start, end) in seconds."""
    stages = list(dict.fromkeys(stage for stage, _, _, _ in spans))
    figure = _figure(0.9 + 0.32 * len(stages))
    axes = figure.add_subplot()
    for row, stage in enumerate(stages):
        bars = [(start, end - start) for name, _, start, end in spans if name == stage]
        colour = COLOURS[row % len(COLOURS)]
        axes.broken_barh(bars, (row - 0.35, 0.7), facecolor=colour, edgecolor="white", linewidth=0.3)
    axes.set_yticks(range(len(stages)), stages)
    axes.set(xlabel="seconds since the start", ylim=(len(stages) - 0.5, -0.5), xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(7.2, height), dpi=DOTS_PER_INCH, layout="constrained")


def _png(figure: "Figure") -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
