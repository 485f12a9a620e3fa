"""Two pictures of a slide: its image with the outlines of the nuclei, and a map of their density."""

from io import BytesIO
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from msal_deploy.files import StrPath, atomic_file
from msal_deploy.prediction.outputs.labels import windows
from msal_deploy.prediction.record import SHRINK, RunRecord, SlideFolder
from msal_deploy.prediction.slide import Slide

LONGEST = 4096  # pixels of an overlay's longer side
OUTLINE = (0, 230, 118)  # a green that neither haematoxylin nor eosin has
EMPTY = 245  # where there is neither a region nor a slide to read
FRACTION = 4  # bits of a vertex below a pixel, for cv2.polylines


def write_overlay(folder: SlideFolder, path: StrPath, slide: Slide | None = None) -> None:
    """Write `overlay` as PNG."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(encoded(overlay(folder, slide), ".png"))


def encoded(picture: NDArray[np.uint8], suffix: str) -> bytes:
    """Return uint8[h,w,3], RGB, as the bytes of a ``.png`` or ``.jpg``."""
    return cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def overlay(folder: SlideFolder, slide: Slide | None = None) -> NDArray[np.uint8]:
    """Return the image with the outlines of all nuclei: uint8[h,w,3], RGB.

    Args:
        folder: The slide's results.
        slide: The open slide: the picture then has up to 4096 px, at the model's resolution or a half, a quarter, an
            eighth … of it. Without it, or of larger slides, it is made of the regions' small pictures.
    """
    record = folder.record()
    shrink = _shrink(record.shape, slide is not None)
    fine = shrink < SHRINK
    canvas = _read(slide, shrink) if slide is not None and fine else _small(folder, record, shrink, slide)
    for region in folder.regions():
        vertices = region.nuclei.points / (record.scale * shrink)
        _draw(canvas, vertices, region.nuclei.ends)
    return canvas


def _shrink(shape: tuple[int, int], readable: bool) -> int:
    """Return how many pixels of the model's resolution one of the picture has along each axis: a power of two."""
    shrink = 1 if readable else SHRINK
    while max(shape) > shrink * LONGEST:
        shrink *= 2
    return shrink


def _read(slide: Slide, shrink: int) -> NDArray[np.uint8]:
    if shrink > 1:
        return _thumbnail(slide, (ceil(slide.shape[0] / shrink), ceil(slide.shape[1] / shrink)))
    canvas = np.empty((*slide.shape, 3), np.uint8)
    for top, left, tall, wide in windows(slide.shape, 1024):
        canvas[top : top + tall, left : left + wide] = slide.read(top, left, tall, wide)
    return canvas


def _thumbnail(slide: Slide, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the whole slide as uint8[h,w,3] of exactly this shape."""
    picture = slide.thumbnail(max(shape))
    kind = cv2.INTER_AREA if picture.shape[0] > shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, shape[::-1], interpolation=kind), np.uint8)


def _small(folder: SlideFolder, record: RunRecord, shrink: int, slide: Slide | None) -> NDArray[np.uint8]:
    height, width = (ceil(side / shrink) for side in record.shape)
    canvas = np.full((height, width, 3), EMPTY, np.uint8)
    if slide is not None:
        canvas[:] = _thumbnail(slide, (height, width))
    for region in folder.regions():
        top, left, tall, wide = region.core
        rows = slice(top // shrink, ceil((top + tall) / shrink))
        columns = slice(left // shrink, ceil((left + wide) / shrink))
        target = canvas[rows, columns]
        target[:] = cv2.resize(region.picture, target.shape[1::-1], interpolation=cv2.INTER_AREA)
    return canvas


def _draw(canvas: NDArray[np.uint8], points: NDArray[np.floating], ends: NDArray[np.int64]) -> None:
    # OpenCV's coordinates count from the centre of the first pixel, ours from its corner.
    fixed = np.round((points - 0.5) * (1 << FRACTION)).astype(np.int32)
    outlines = np.split(fixed, ends[:-1]) if len(ends) else []
    cv2.polylines(canvas, outlines, True, OUTLINE, 1, cv2.LINE_AA, FRACTION)


def density(folder: SlideFolder, cell: float) -> NDArray[np.float64]:
    """Return float64[rows,columns], nuclei per mm² in square cells; NaN where there is no region.

    Args:
        folder: The slide's results.
        cell: Side of a cell in µm. Cells at the end of the slide are counted by the part inside it.
    """
    record = folder.record()
    side = cell / record.model_microns_per_pixel
    shape = (ceil(record.shape[0] / side), ceil(record.shape[1] / side))
    counts, seen = np.zeros(shape), np.zeros(shape, bool)
    for region in folder.regions():
        x, y = (region.nuclei.features[name] / (record.scale * side) for name in "xy")
        np.add.at(counts, (y.astype(np.int64), x.astype(np.int64)), 1)
        top, left, height, width = region.core
        rows = slice(int(top / side), ceil((top + height) / side))
        seen[rows, int(left / side) : ceil((left + width) / side)] = True
    sides = [np.minimum(side, size - side * np.arange(n)) for size, n in zip(record.shape, shape, strict=True)]
    area = np.outer(*sides) * (record.model_microns_per_pixel / 1000) ** 2
    return np.where(seen, counts / area, np.nan)


def cell_side(record: RunRecord) -> float:
    """Return the side of a cell of the density map in µm: 100, or 50 for images shorter than 5 mm."""
    longest = max(record.shape) * record.model_microns_per_pixel
    return 100.0 if longest >= 5000 else 50.0


def write_density(folder: SlideFolder, path: StrPath) -> None:
    """Write `density_map` as PNG."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(density_map(folder))


def density_map(folder: SlideFolder) -> bytes:
    """Return a PNG of the density of nuclei, with a colour bar in nuclei per mm² and axes in mm."""
    from matplotlib.figure import Figure

    record = folder.record()
    cell = cell_side(record)
    values = density(folder, cell)
    end_y, end_x = (size * record.model_microns_per_pixel / 1000 for size in record.shape)
    height, width = (size * cell / 1000 for size in values.shape)
    tall = min(10.0, max(2.6, 5.6 * end_y / end_x + 0.9))
    figure = Figure(figsize=(7.2, tall), dpi=150, layout="constrained")
    axes = figure.add_subplot(facecolor="#e9ecef")
    shown = axes.imshow(values, cmap="magma", vmin=0, extent=(0, width, height, 0), interpolation="nearest")
    figure.colorbar(shown, ax=axes, label="nuclei per mm²", pad=0.02)
    axes.set(xlabel="mm", ylabel="mm", xlim=(0, end_x), ylim=(end_y, 0), title=f"Cells of {cell:.0f} µm")
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
