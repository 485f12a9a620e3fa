"""The outline, mask and convex hull of each nucleus of a label image."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


class Outlines(NamedTuple):
    """Outlines of N labels, in pixels of the window.

    Attributes:
        points: float32[P,2], the vertices (x, y) of all outlines.
        ends: int64[N], where each outline ends in `points`.
        boxes: int64[N,4], top, left, height, width.
        masks: uint8[M], np.packbits of each mask.
        mask_ends: int64[N], where each mask ends in `masks`.
        hull_areas: float64[N], area of the convex hull of the pixels' corners.
    """

    points: NDArray[np.float32]
    ends: NDArray[np.int64]
    boxes: NDArray[np.int64]
    masks: NDArray[np.uint8]
    mask_ends: NDArray[np.int64]
    hull_areas: NDArray[np.float64]


def trace(labels: NDArray[np.int32], wanted: NDArray[np.int64]) -> Outlines:
    """Return the outlines of some labels; holes are ignored.

    An outline runs a quarter of a pixel inside the edges of the pixels. It is a simple polygon, even where a nucleus
    is one pixel wide or touches itself at a corner.

    Args:
        labels: int32[h,w]. Each label is 4-connected; of another one only the largest part is outlined.
        wanted: int64[N], labels that occur.
    """
    from scipy.ndimage import find_objects

    objects = find_objects(labels)
    rows = [objects[label - 1] for label in wanted.tolist()]
    crops = [labels[row] == label for row, label in zip(rows, wanted.tolist(), strict=True)]
    contours = [_contour(crop) for crop in crops]
    corners = np.array([(row.start, column.start) for row, column in rows], np.int64).reshape(-1, 2)
    shapes = np.array([crop.shape for crop in crops], np.int64).reshape(-1, 2)
    ends = np.cumsum([len(contour) for contour in contours], dtype=np.int64)
    masks = [np.packbits(crop) for crop in crops]
    return Outlines(
        points=_in_window(contours, corners),
        ends=ends,
        boxes=np.concatenate([corners, shapes], axis=1),
        masks=np.concatenate(masks) if masks else np.zeros(0, np.uint8),
        mask_ends=np.cumsum([len(mask) for mask in masks], dtype=np.int64),
        hull_areas=np.array([_hull_area(*pair) for pair in zip(contours, crops, strict=True)], np.float64),
    )


def _contour(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    # OpenCV joins the centres of pixels, which folds a part one pixel wide into a line. At twice the size every part
    # is at least two pixels wide.
    height, width = mask.shape
    twice = cv2.resize(mask.view(np.uint8), (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = contours[0] if len(contours) == 1 else max(contours, key=cv2.contourArea)
    return np.asarray(largest, np.int32)[:, 0]


def _in_window(contours: list[NDArray[np.int32]], corners: NDArray[np.int64]) -> NDArray[np.float32]:
    if not contours:
        return np.zeros((0, 2), np.float32)
    offsets = np.repeat(corners[:, ::-1], [len(contour) for contour in contours], axis=0)
    return ((np.concatenate(contours) + 0.5) / 2 + offsets).astype(np.float32)


def _hull_area(contour: NDArray[np.int32], mask: NDArray[np.bool_]) -> float:
    # Growing a convex shape by a unit square adds its width, its height and 1: from the centres of the pixels of the
    # doubled mask to their corners.
    height, width = mask.shape
    centres = cv2.contourArea(cv2.convexHull(contour))
    return float(centres + (2 * height - 1) + (2 * width - 1) + 1) / 4
