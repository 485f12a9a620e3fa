"""How the figures are drawn: with Matplotlib's object interface (pyplot would change global state), as SVG.

Text stays text. Lines and text use CSS variables that follow the light or dark colour scheme of the page; the colours
of the data have medium lightness and suit both.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
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
DASHED = (0, (4, 3))
WIDTH = 9.5  # inches, the width of the page


def add_legend(figure: Figure, axes: Axes) -> None:
    """Add a legend above the axes."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, **LEGEND, loc="outside upper left")


# Label positions around a point, in order of preference: x and y offset in points, horizontal and vertical alignment.
LABEL_OFFSETS = (
    (0, 7, "center", "bottom"), (8, 6, "left", "bottom"), (-8, 6, "right", "bottom"), (8, 0, "left", "center"),
    (-8, 0, "right", "center"), (8, -6, "left", "top"), (-8, -6, "right", "top"), (0, 19, "center", "bottom"),
    (0, -8, "center", "top"), (0, -20, "center", "top"),
)  # fmt: skip


def label_points(figure: Figure, axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
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


def colour_of(k: int) -> str:
    """Return the colour of the k-th engine or weights.

    >>> colour_of(0) == colour_of(len(COLOURS))
    True
    """
    return COLOURS[k % len(COLOURS)]


def new_figure(height: float) -> Figure:
    """Return an empty figure of the page's width; `height` in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def style_axes(axes: Axes) -> Axes:
    """Style axes without a frame and with a vertical grid; return them."""
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    axes.grid(True, axis="x", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.yaxis.label.set_fontsize(9)
    return axes


def limit_x(axes: Axes, shown: Sequence[float]) -> None:
    """Limit the x axis to the values that are shown; the default would be far wider than the budget if all are 0."""
    margin = 0.08 * (max(shown) - min(shown)) or 1e-3
    axes.set_xlim(min(shown) - margin, max(shown) + margin)


def as_svg(figure: Figure, name: str) -> str:
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
