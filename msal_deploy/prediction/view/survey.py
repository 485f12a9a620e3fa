"""One pass over the regions of a slide: where its nuclei are, how dense, and how large."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from msal_deploy.prediction.record import REGIONS, Region, RunRecord, SlideFolder

MIN_CELL, MAX_CELLS = 50.0, 512  # µm along the side of a cell of the heat map; cells along the longer side
HISTOGRAM_STEP, HISTOGRAM_BINS = 10.0, 20  # µm²; the last bin also counts everything above


@dataclass(frozen=True)
class Survey:
    """What is known of a slide without its outlines.

    Attributes:
        cores: (row, column) -> top, left, height, width of the region at the model's resolution.
        x, y: float32[N], centroids at the model's resolution.
        areas: float32[N], in µm².
        microns_per_pixel: The model's resolution.
        shape: Height and width at the model's resolution.
    """

    cores: dict[tuple[int, int], tuple[int, int, int, int]]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    areas: NDArray[np.float32]
    microns_per_pixel: float
    shape: tuple[int, int]

    @property
    def cell(self) -> float:
        """Side of a cell of the heat map, in µm."""
        return max(MIN_CELL, max(self.shape) * self.microns_per_pixel / MAX_CELLS)

    def density(self) -> NDArray[np.float64]:
        """Return nuclei/mm² of each cell, float64[rows,columns]. A cell at the border counts its part of the image."""
        side = self.cell / self.microns_per_pixel
        edges = [np.minimum(np.arange(int(np.ceil(length / side)) + 1) * side, length) for length in self.shape]
        counts, _, _ = np.histogram2d(self.y, self.x, bins=edges)
        heights, widths = (np.diff(edge) * self.microns_per_pixel / 1000 for edge in edges)
        return np.asarray(counts / np.outer(heights, widths))

    def within(self, top: int, left: int, height: int, width: int) -> dict[str, Any]:
        """Return count, nuclei/mm² and the histogram of areas of a window, which is clipped to the image."""
        bottom, right = min(top + height, self.shape[0]), min(left + width, self.shape[1])
        inside = (self.y >= top) & (self.y < bottom) & (self.x >= left) & (self.x < right)
        areas = self.areas[inside]
        mm2 = max(bottom - top, 0) * max(right - left, 0) * self.microns_per_pixel**2 / 1e6
        bins = np.minimum(areas / HISTOGRAM_STEP, HISTOGRAM_BINS - 1).astype(np.int64)
        return {
            "count": len(areas),
            "mm2": mm2,
            "density": len(areas) / mm2 if mm2 else 0.0,
            "median_area": float(np.median(areas)) if len(areas) else 0.0,
            "step": HISTOGRAM_STEP,
            "histogram": np.bincount(bins, minlength=HISTOGRAM_BINS).tolist(),
        }


def survey(folder: SlideFolder, record: RunRecord) -> Survey:
    """Read every region once; one region is in memory at a time."""
    cores, columns = {}, []
    for place in places(folder):
        region = Region.load(folder.region_path(*place))
        cores[place] = region.core
        columns.append([region.nuclei.features[name].astype(np.float32) for name in ("x", "y", "area_um2")])
    nothing = [np.empty(0, np.float32)] * 3
    x, y, areas = (np.concatenate(part) for part in zip(nothing, *columns, strict=True))
    x, y = (np.asarray(values / record.scale, np.float32) for values in (x, y))
    return Survey(cores, x, y, areas, record.model_microns_per_pixel, record.shape)


def places(folder: SlideFolder) -> list[tuple[int, int]]:
    """Return row and column of each region that has a file, in the order of `SlideFolder.regions`."""
    stems = [path.stem.split("-") for path in (folder.path / REGIONS).glob("*.npz")]
    return sorted((int(row), int(column)) for row, column in stems)


def heat_map(density: NDArray[np.float64]) -> bytes:
    """Return a PNG of a density, a pixel for each cell: transparent without nuclei, opaque from a third of the most."""
    share = np.round(255 * density / max(density.max(initial=0.0), 1e-9)).astype(np.uint8)
    colours = cv2.applyColorMap(share, cv2.COLORMAP_INFERNO)
    alpha = np.minimum(3 * share.astype(np.int64), 255).astype(np.uint8)
    return bytes(cv2.imencode(".png", np.dstack([colours, alpha]))[1])
