"""The images that engines are timed on: tissue, real or drawn, and several sets of it.

Zeros and noise are not what an engine will see: they change how compressible and how sparse its activations are. One
set again and again would stay in the caches of the CPU, which images from a slide do not. The same sets are given to
every engine.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.spec import UInt8Images

SETS = 4
MAX_BYTES = 2**29  # of all sets together; large batches get fewer sets
FIELDS = 4  # drawn, and then cut into tiles
MAX_FIELD = 1024  # pixels; a larger one is drawn four times as long, and shows no other texture
MAX_FILES = 16  # of a folder


def image_sets(
    size: tuple[int, int], batch: int, sets: int = SETS, *, folder: Path | None = None
) -> tuple[UInt8Images, ...]:
    """Return sets of images to call an engine with, one after the other: synthetic H&E tissue, or tiles of own images.

    Tiles are cut at random positions and mirrored at random; every call returns the same pixels. An image that is
    smaller than a tile is continued by its mirror image.

    >>> sets = image_sets((64, 96), batch=2, sets=3)
    >>> len(sets), sets[0].shape, sets[0].dtype
    (3, (2, 64, 96, 3), dtype('uint8'))

    Args:
        size: Height and width of the images in pixels.
        batch: Images in a set.
        sets: Number of sets. There are fewer, but at least one, if they had more than `MAX_BYTES` together.
        folder: A folder of 8-bit RGB images, of which the first `MAX_FILES` by name are used; None for tissue that is
            drawn.

    Returns:
        One uint8[batch,H,W,3] per set, RGB.

    Raises:
        BadInput: The folder has no images, or one of them cannot be read.
    """
    rng = np.random.default_rng(0)
    fields = _draw(size) if folder is None else _read(folder)
    fields = [_extended(field, size) for field in fields]
    count = max(1, min(sets, MAX_BYTES // (batch * size[0] * size[1] * 3)))
    tiles = (_tile(rng, fields[index % len(fields)], size) for index in range(count * batch))
    return tuple(np.stack([next(tiles) for _ in range(batch)]) for _ in range(count))


def _draw(size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    from msal_deploy.data.tissue import draw_tissue

    side = min(2 * max(size), MAX_FIELD)
    return [draw_tissue(np.random.default_rng(seed), side)[0] for seed in range(FIELDS)]


def _read(folder: Path) -> list[NDArray[np.uint8]]:
    from msal_deploy.data.images import RASTER_SUFFIXES, read_image

    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder", "give a folder of 8-bit RGB images")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in RASTER_SUFFIXES)
    if not files:
        raise BadInput(f"{folder} has no images", f"give a folder of {', '.join(RASTER_SUFFIXES)} files")
    return [read_image(path) for path in files[:MAX_FILES]]


def _extended(field: NDArray[np.uint8], size: Sequence[int]) -> NDArray[np.uint8]:
    """Return `field`, continued by its mirror image to at least `size`."""
    missing = [(0, max(0, extent - present)) for extent, present in zip(size, field.shape, strict=False)]
    return np.pad(field, (*missing, (0, 0)), mode="symmetric")


def _tile(rng: np.random.Generator, field: NDArray[np.uint8], size: Sequence[int]) -> NDArray[np.uint8]:
    top, left = (int(rng.integers(0, present - extent + 1)) for extent, present in zip(size, field.shape, strict=False))
    tile = field[top : top + size[0], left : left + size[1]]
    return tile[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
