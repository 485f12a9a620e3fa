"""The charts of the page as SVG: areas of the nuclei, when each stage worked, and the density of nuclei.

They are written by hand: matplotlib takes a third of a second for the three, longer than the engine for a small image.
"""

import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c6670")
EMPTY = 233  # grey level of cells without a region
WIDTH, LEFT, RIGHT, BOTTOM = 720.0, 72.0, 16.0, 44.0  # of a chart and its margins
FONT = 'font-family="system-ui, sans-serif" font-size="13" fill="#22262b"'
MAX_TICKS = 6


def area_histogram(areas: NDArray[np.float64]) -> str:
    """Return how many nuclei have which area as SVG: float64[N] in µm², N > 0."""
    # A few large clumps would push all nuclei into the first bars.
    end = float(np.quantile(areas, 0.995)) * 1.05
    counts, _ = np.histogram(areas, bins=40, range=(0, end))
    height, median = 280.0, float(np.median(areas))
    top, scale = 12.0, (height - BOTTOM - 12.0) / max(counts.max(), 1)
    base, wide = height - BOTTOM, (WIDTH - LEFT - RIGHT) / len(counts)
    bars = [(LEFT + index * wide, base - count * scale, wide, count * scale) for index, count in enumerate(counts)]
    x = LEFT + median / end * (WIDTH - LEFT - RIGHT)
    parts = [
        _path(bars, COLOURS[0]),
        f'<path d="M{x:.1f} {base:.1f}V{top}" stroke="#22262b" stroke-dasharray="5 3"/>',
        _text(x + 6, top + 10, f"median {median:.1f} µm²", "start"),
        _across(end, base, "area of a nucleus in µm²"),
        *(_text(LEFT - 8, base - tick * scale + 4, f"{tick:g}", "end") for tick in ticks(float(counts.max()))),
        f'<text transform="translate(16 {(base + top) / 2:.0f}) rotate(-90)" text-anchor="middle">nuclei</text>',
    ]
    return _svg(height, parts)


def timeline(spans: Sequence[tuple[str, str, float, float]]) -> str:
    """Return when each stage worked as SVG, a row per stage: (stage, region, start, end) in seconds."""
    stages = list(dict.fromkeys(stage for stage, _, _, _ in spans))
    end = max(stop for _, _, _, stop in spans) or 1.0
    scale, tall = (WIDTH - LEFT - RIGHT) / end, 24.0
    base, parts = 8 + tall * len(stages), []
    for row, stage in enumerate(stages):
        bars = _joined((start, stop) for name, _, start, stop in spans if name == stage)
        boxes = [(LEFT + start * scale, 11 + tall * row, (stop - start) * scale, tall - 6) for start, stop in bars]
        parts += [_path(boxes, COLOURS[row % len(COLOURS)]), _text(LEFT - 8, 24 + tall * row, stage, "end")]
    return _svg(base + BOTTOM, [*parts, _across(end, base, "seconds since the start")])


def _joined(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the spans in order; those that overlap or touch are one: a slide has thousands.

    >>> _joined([(4.0, 5.0), (0.0, 1.0), (0.5, 2.0)])
    [(0.0, 2.0), (4.0, 5.0)]
    """
    joined: list[tuple[float, float]] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], stop)
        else:
            joined.append((start, stop))
    return joined


def density_chart(values: NDArray[np.float64], extent: tuple[float, float], cell: float) -> str:
    """Return the density of nuclei as SVG, with a colour bar.

    Args:
        values: float64[rows,columns], nuclei per mm² in square cells; NaN where there is no region.
        extent: Height and width of the slide in mm.
        cell: Side of a cell in mm.
    """
    seen = np.isfinite(values)
    top = float(values[seen].max(initial=0.0)) or 1.0
    levels = np.where(seen, values / top * 255, 0).round().astype(np.uint8)
    cells = np.where(seen[..., None], _colours(levels), EMPTY).astype(np.uint8)
    scale = min((WIDTH - LEFT - 90) / extent[1], 640 / extent[0])  # user units for each mm
    height, width = extent[0] * scale, extent[1] * scale
    x, levels = LEFT + width + 14, np.arange(255, -1, -1).astype(np.uint8)[:, None]
    clip = f'<clipPath id="slide"><rect x="{LEFT}" y="8" width="{width:.1f}" height="{height:.1f}"/></clipPath>'
    size = f'width="{values.shape[1] * cell * scale:.1f}" height="{values.shape[0] * cell * scale:.1f}"'
    parts = [
        clip,
        f'<g clip-path="url(#slide)">{_image(cells, f"""x="{LEFT}" y="8" {size}""")}</g>',
        _image(_colours(levels), f'x="{x:.1f}" y="8" width="12" height="{height:.1f}"'),
        *(_text(x + 18, 12 + height * (1 - tick / top), f"{tick:,.0f}", "start") for tick in ticks(top)),
        *(_text(LEFT - 8, 12 + tick * scale, f"{tick:g}", "end") for tick in ticks(extent[0])),
        *(_text(LEFT + tick * scale, 26 + height, f"{tick:g}", "middle") for tick in ticks(extent[1])),
        _text(LEFT + width / 2, height + 46, f"mm; nuclei per mm² in cells of {cell * 1000:.0f} µm", "middle"),
    ]
    return _svg(height + 56, parts)


def _colours(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8[h,w,3], BGR, of uint8[h,w]."""
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_MAGMA), np.uint8)


def ticks(end: float) -> list[float]:
    """Return round numbers from 0 to `end`, at most `MAX_TICKS` + 1.

    >>> ticks(7.3), ticks(0.25)
    ([0.0, 2.0, 4.0, 6.0], [0.0, 0.05, 0.1, 0.15, 0.2, 0.25])
    """
    power = 10.0 ** math.floor(math.log10(end / MAX_TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power * MAX_TICKS >= end * (1 - 1e-9))
    return [round(index * step, 12) for index in range(math.floor(end / step + 1e-9) + 1)]


def _across(end: float, y: float, label: str) -> str:
    """Return the horizontal axis from 0 to `end`."""
    scale = (WIDTH - LEFT - RIGHT) / end
    numbers = "".join(_text(LEFT + tick * scale, y + 18, f"{tick:g}", "middle") for tick in ticks(end))
    line = f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#22262b"/>'
    return line + numbers + _text((LEFT + WIDTH - RIGHT) / 2, y + 38, label, "middle")


def _path(boxes: Sequence[tuple[float, float, float, float]], colour: str) -> str:
    drawn = "".join(f"M{x:.1f} {y:.1f}h{max(w, 0.5):.1f}v{h:.1f}h{-max(w, 0.5):.1f}z" for x, y, w, h in boxes)
    return f'<path d="{drawn}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _image(pixels: NDArray[np.uint8], place: str) -> str:
    data = b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
    style = 'preserveAspectRatio="none" style="image-rendering: pixelated"'
    return f'<image {place} {style} href="data:image/png;base64,{data}"/>'


def _svg(height: float, parts: Iterable[str]) -> str:
    view = f'viewBox="0 0 {WIDTH:.0f} {height:.0f}"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {view} {FONT}>{background}{"".join(parts)}</svg>\n'
