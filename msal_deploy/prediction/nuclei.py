"""Nuclei: outlines and features of the nuclei of an image or slide, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from msal_deploy.prediction.features import Pixels, find_centroids, measure_features
from msal_deploy.prediction.outlines import trace

if TYPE_CHECKING:
    from msal_deploy.files import StrPath

# Column -> its unit. x and y are the centroid, in pixels of level 0, counted from the corner of the first pixel.
FEATURES = {
    "x": "px",
    "y": "px",
    "area_um2": "µm²",
    "perimeter_um": "µm",
    "eccentricity": "",
    "solidity": "",
    "mean_probability": "",
    "haematoxylin_od": "",
}
ARRAYS = ("points", "ends", "boxes", "masks", "mask_ends")


@dataclass(frozen=True)
class Nuclei:
    """N nuclei in a fixed order: nucleus i has the label i + 1.

    Attributes:
        features: Name -> float64[N], the columns of `FEATURES`.
        points: float32[P,2], the vertices (x, y) of all outlines, in pixels of level 0, not closed.
        ends: int64[N], where each outline ends in `points`.
        boxes: int32[N,4], top, left, height and width of each nucleus, in pixels of the model's resolution.
        masks: uint8[M], for each nucleus np.packbits of its mask bool[height·width].
        mask_ends: int64[N], where each mask ends in `masks`.
        shape: Height and width of the image at the model's resolution.
        scale: Pixels of level 0 for each pixel at the model's resolution.
        microns_per_pixel: The model's resolution.
    """

    features: Mapping[str, NDArray[np.float64]]
    points: NDArray[np.float32]
    ends: NDArray[np.int64]
    boxes: NDArray[np.int32]
    masks: NDArray[np.uint8]
    mask_ends: NDArray[np.int64]
    shape: tuple[int, int] = (0, 0)
    scale: float = 1.0
    microns_per_pixel: float = 0.25

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def polygons(self) -> list[NDArray[np.float32]]:
        """The outline of each nucleus: float32[K,2], vertices (x, y) in pixels of level 0, not closed."""
        return np.split(self.points, self.ends[:-1]) if len(self) else []

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Return bool[height,width], the pixels of a nucleus within its box."""
        height, width = map(int, self.boxes[index, 2:])
        start = self.mask_ends[index - 1] if index else 0
        bits = np.unpackbits(self.masks[start : self.mask_ends[index]], count=height * width)
        return bits.reshape(height, width).view(bool)

    @property
    def labels(self) -> NDArray[np.int32]:
        """The nuclei as int32[H,W] of `shape`, 0 for background and 1 to N. A slide may need much memory."""
        labels = np.zeros(self.shape, np.int32)
        paint(self, labels, (0, 0), 1)
        return labels

    def napari_layer(self) -> tuple[NDArray[np.int32], dict[str, Any], str]:
        """Return a layer of labels in µm, as napari's readers do: data, options, and the kind of layer."""
        scale = (self.microns_per_pixel, self.microns_per_pixel)
        features = {"index": np.arange(1, len(self) + 1), **self.features}
        return self.labels, {"name": "nuclei", "scale": scale, "features": features}, "labels"

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame with one row per nucleus: `FEATURES`, indexed by the label."""
        import pandas

        return pandas.DataFrame(dict(self.features), index=pandas.RangeIndex(1, len(self) + 1, name="label"))

    def to_geojson(self, path: StrPath | None = None) -> dict[str, Any]:
        """Return the nuclei as a GeoJSON FeatureCollection that QuPath reads; write it to `path` if there is one.

        Args:
            path: Ends with ``.geojson`` or, to be compressed, with ``.geojson.gz``.
        """
        from msal_deploy.prediction.outputs.geojson import collection, write_features

        if path is not None:
            write_features(path, "array", [(self, 1)])
        return collection(self, "array")


def measure(
    labels: NDArray[np.int32],
    probability: NDArray[np.float32],
    image: NDArray[np.uint8],
    *,
    corner: tuple[int, int],
    core: tuple[int, int, int, int],
    scale: float,
    microns_per_pixel: float,
) -> Nuclei:
    """Return the nuclei of a window whose centroid is inside `core`, in the order of their labels.

    >>> labels = np.zeros((8, 8), np.int32)
    >>> labels[2:4, 2:6] = 1
    >>> nuclei = measure(labels, np.ones((8, 8), np.float32), np.full((8, 8, 3), 255, np.uint8),
    ...                  corner=(0, 0), core=(0, 0, 8, 8), scale=2.0, microns_per_pixel=0.25)
    >>> [float(nuclei.features[name][0]) for name in ("x", "y", "area_um2")]
    [8.0, 6.0, 0.5]
    >>> nuclei.boxes.tolist()
    [[2, 2, 2, 4]]

    Args:
        labels: int32[h,w], 0 for background.
        probability: float32[h,w].
        image: uint8[h,w,3], RGB.
        corner: Row and column of the window's first pixel in the image at the model's resolution.
        core: top, left, height, width at the model's resolution; a centroid on its lower edge is inside, on its upper
            edge outside, so that cores that touch share no nucleus.
        scale: Pixels of level 0 for each pixel of the window.
        microns_per_pixel: Resolution of the window.
    """
    pixels = find_centroids(labels)
    chosen = pixels.keep(_inside(pixels, corner, core))
    outlines = trace(labels, chosen.labels)
    features = measure_features(chosen, labels, probability, image) | {"solidity": chosen.area / outlines.hull_areas}
    units = {"area_um2": microns_per_pixel**2, "perimeter_um": microns_per_pixel, "x": scale, "y": scale}
    offsets = {"x": corner[1], "y": corner[0]}
    columns = {name: (features[name] + offsets.get(name, 0)) * units.get(name, 1.0) for name in FEATURES}
    points = ((outlines.points + np.array(corner[::-1])) * scale).astype(np.float32)
    boxes = (outlines.boxes + np.array([*corner, 0, 0])).astype(np.int32)
    return Nuclei(columns, points, outlines.ends, boxes, outlines.masks, outlines.mask_ends)


def _inside(pixels: Pixels, corner: tuple[int, int], core: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    # Sums of whole numbers are exact, so two windows that contain a nucleus agree about it, on an edge too.
    top, left = core[0] - corner[0], core[1] - corner[1]
    rows = (pixels.y >= top) & (pixels.y < top + core[2])
    return rows & (pixels.x >= left) & (pixels.x < left + core[3])


def join(parts: Iterable[Nuclei]) -> Nuclei:
    """Return the nuclei of several regions, one after the other.

    >>> len(join([]))
    0
    """
    chosen = list(parts)
    features = {name: _joined([part.features[name] for part in chosen], np.float64) for name in FEATURES}
    ends = _shifted([part.ends for part in chosen], [len(part.points) for part in chosen])
    mask_ends = _shifted([part.mask_ends for part in chosen], [len(part.masks) for part in chosen])
    points = _joined([part.points for part in chosen], np.float32).reshape(-1, 2)
    boxes = _joined([part.boxes for part in chosen], np.int32).reshape(-1, 4)
    return Nuclei(features, points, ends, boxes, _joined([part.masks for part in chosen], np.uint8), mask_ends)


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _shifted(ends: list[NDArray[np.int64]], sizes: list[int]) -> NDArray[np.int64]:
    starts = np.cumsum([0, *sizes])[:-1]
    return _joined([part + start for part, start in zip(ends, starts, strict=True)], np.int64)


def paint(nuclei: Nuclei, labels: NDArray[Any], corner: tuple[int, int], first_id: int) -> None:
    """Write the nuclei into a window of a label image, nucleus i as `first_id` + i.

    Pixels that are not 0 stay as they are: where two nuclei meet, the one painted first keeps the pixel.

    >>> labels = np.zeros((2, 3), np.int32)
    >>> labels[0, 1:] = 1
    >>> image = np.zeros((2, 3, 3), np.uint8)
    >>> nuclei = measure(labels, np.ones((2, 3), np.float32), image,
    ...                  corner=(10, 20), core=(10, 20, 2, 3), scale=1.0, microns_per_pixel=0.25)
    >>> window = np.zeros((2, 2), np.int32)
    >>> paint(nuclei, window, (10, 21), first_id=7)
    >>> window.tolist()
    [[7, 7], [0, 0]]

    Args:
        nuclei: At the resolution of the window.
        labels: int32[h,w] or another type of integers, changed in place.
        corner: Row and column of the window's first pixel in the image.
        first_id: Label of the first nucleus.
    """
    boxes = nuclei.boxes - np.array([*corner, 0, 0], np.int32)
    last = boxes[:, :2] + boxes[:, 2:]
    visible = (last > 0).all(axis=1) & (boxes[:, :2] < labels.shape).all(axis=1)
    for index in np.flatnonzero(visible).tolist():
        (top, left), (bottom, right) = boxes[index, :2], last[index]
        window = labels[max(top, 0) : bottom, max(left, 0) : right]
        mask = nuclei.mask(index)[max(-top, 0) :, max(-left, 0) :][: window.shape[0], : window.shape[1]]
        window[mask & (window == 0)] = first_id + index


def to_arrays(nuclei: Nuclei) -> dict[str, NDArray[Any]]:
    """Return every array by name, as `from_arrays` takes them.

    >>> sorted(to_arrays(join([])))[:4]
    ['boxes', 'ends', 'feature_area_um2', 'feature_eccentricity']
    """
    arrays = {name: getattr(nuclei, name) for name in ARRAYS}
    return {f"feature_{name}": nuclei.features[name] for name in FEATURES} | arrays


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Nuclei:
    """Return the nuclei that `to_arrays` saved.

    >>> len(from_arrays(to_arrays(join([]))))
    0

    Raises:
        KeyError: An array is missing.
    """
    features = {name: arrays[f"feature_{name}"] for name in FEATURES}
    points, ends, boxes, masks, mask_ends = (arrays[name] for name in ARRAYS)
    return Nuclei(features, points, ends, boxes, masks, mask_ends)
