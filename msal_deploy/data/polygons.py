"""Fill polygons: the pixels of `skimage.draw.polygon`, in a time that grows with the outline and not with its square.

scikit-image looks at every vertex to decide for a pixel whether it is inside: a region of 20,000 vertices takes half a
minute. Here, each edge is intersected once with each row that it crosses, with scikit-image's own arithmetic, so that
the result is the same to the last pixel.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput

Polygon = NDArray[np.float64]

CHUNK = 1_000_000  # crossings of edges and rows that are computed together
MAX_COVER = 30  # times that the bounding boxes of the polygons may cover the image
MIN_LIMIT = 20_000_000  # crossings, and pixels in boxes, that are drawn in any image: 3 s; MoNuSeg has 0.6 million


def rasterise(polygons: Iterable[Polygon], shape: tuple[int, int], name: str = "this image") -> NDArray[np.int32]:
    """Draw filled polygons. Later polygons cover earlier ones; parts outside the image are cut off.

    >>> rasterise([np.array([[0, 0], [2, 0], [2, 1], [0, 1]])], (3, 4))
    array([[1, 1, 1, 0],
           [1, 1, 1, 0],
           [0, 0, 0, 0]], dtype=int32)

    Args:
        polygons: One float64[V,2] per nucleus, (x, y) in array coordinates.
        shape: Height and width in pixels.
        name: What the polygons belong to, for the error.

    Returns:
        int32[H,W]: 0 for background, n for the n-th polygon. If later polygons cover a polygon completely, its number
        is missing.

    Raises:
        BadInput: The polygons are no outlines of nuclei: they would take minutes to draw.
    """
    instances = np.zeros(shape, dtype=np.int32)
    covered = crossings = 0
    for number, vertices in enumerate(polygons, start=1):
        top, left, height, width = box = bounding_box(vertices, shape)
        covered += height * width
        crossings += _crossings(vertices, top, height)
        if covered > max(MAX_COVER * instances.size, MIN_LIMIT) or crossings > max(instances.size, MIN_LIMIT):
            raise BadInput(
                f"The outlines of {name} cross or cover each other too often", "use one outline for each nucleus"
            )
        if height and width:
            instances[top : top + height, left : left + width][inside(vertices, box)] = number
    return instances


def bounding_box(vertices: Polygon, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the part of the image that a polygon can cover; 0 × 0 if there is none."""
    least = np.maximum(vertices.min(axis=0), 0).astype(np.int64)
    most = np.minimum(np.ceil(vertices.max(axis=0)).astype(np.int64), np.array(shape[::-1]) - 1)
    (left, top), (width, height) = least.tolist(), (most - least + 1).tolist()
    return (top, left, height, width) if height > 0 and width > 0 else (0, 0, 0, 0)


def inside(vertices: Polygon, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Return bool[height,width] of a box (top, left, height, width): the pixels whose centre is in a polygon or on it.

    It counts, for each pixel, the edges to its right and to its left: an odd number is inside.

    >>> inside(np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]]), (0, 0, 3, 5)).astype(int)
    array([[1, 1, 1, 1, 1],
           [1, 1, 1, 0, 0],
           [1, 0, 0, 0, 0]])
    """
    # An edge that ends on the row counts to the right if it goes down from there, and to the left if it goes up. So the
    # two numbers differ for a pixel on the outline.
    top, left, height, width = box
    to_right = np.zeros(height * (width + 1), dtype=np.int64)
    to_left = np.zeros(height * (width + 1), dtype=np.int64)
    for row, column, ahead, below, above in _rows_of_edges(vertices, top, height):
        line = (row - top) * (width + 1) - left
        first, last = line + left, line + left + width
        to_right += np.bincount(np.clip(line + column + (ahead > 0), first, last)[below], minlength=len(to_right))
        to_left += np.bincount(np.clip(line + column + (ahead >= 0), first, last)[above], minlength=len(to_left))
    right = to_right.reshape(height, width + 1)[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    drawn = (right % 2 == 1) | (to_left.reshape(height, width + 1).cumsum(axis=1)[:, :-1] % 2 == 1)
    return np.asarray(drawn | _corners(vertices, box))


def _crossings(vertices: Polygon, top: int, height: int) -> int:
    """Return how often the edges of a polygon cross the rows of its box."""
    rows = np.clip(vertices[:, 1], top, top + height)
    return int(np.abs(rows - np.roll(rows, 1)).sum()) + len(vertices)


def _rows_of_edges(
    vertices: Polygon, top: int, height: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield, for edges and rows that meet, the row, the column nearest to the meeting point, how far it is ahead of
    that column, and whether the edge has a point below the row and one above it."""
    x1, y1 = vertices[:, 0], vertices[:, 1]
    x0, y0 = np.roll(x1, 1), np.roll(y1, 1)
    first = np.clip(np.ceil(np.minimum(y0, y1)), top, top + height).astype(np.int64)
    count = np.clip(np.floor(np.maximum(y0, y1)) + 1, top, top + height).astype(np.int64) - first
    count[y0 == y1] = 0
    ends = count.cumsum()
    for start in range(0, int(ends[-1]), CHUNK):
        index = np.arange(start, min(start + CHUNK, int(ends[-1])))
        edge = np.searchsorted(ends, index, side="right")
        row = first[edge] + index - (ends - count)[edge]
        a, b, c, d = x0[edge], y0[edge] - row, x1[edge], y1[edge] - row
        column = np.rint((c * b - a * d) / (b - d))
        ahead = ((c - column) * b - (a - column) * d) / (b - d)  # as scikit-image computes it, with its rounding
        yield row, column.astype(np.int64), ahead, (b > 0) != (d > 0), (b < 0) != (d < 0)


def _corners(vertices: Polygon, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Return the pixels of a box whose centre is a vertex."""
    top, left, height, width = box
    drawn = np.zeros((height, width), dtype=bool)
    columns, rows = (np.rint(vertices).astype(np.int64) - (left, top)).T
    exact = (np.abs(vertices - np.rint(vertices)) < 1e-12).all(axis=1)  # scikit-image's tolerance
    exact &= (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    drawn[rows[exact], columns[exact]] = True
    return drawn
