"""Tiles for the checks without labels, and the reference's outputs for them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from msal_deploy.data import Patch
from msal_deploy.runtimes import Engine
from msal_deploy.spec import Float32Maps, UInt8Images
from msal_deploy.trt.plan_metadata import Shape

TILES = 4  # the quadrants of the larger image, and the rows of a batch
MULTIPLE = 32  # of the height and width of tiles; see `ModelSpec`
STEP = 37  # px that a tile is shifted by when a batch needs more rows than there are tiles


class Probe(msgspec.Struct, frozen=True, eq=False):
    """Tiles for the checks, and the reference's outputs for them. Made once and used for every engine.

    Attributes:
        tiles: uint8[4,H,W,3], RGB.
        expected: float32[4,H,W], each tile alone.
        expected_whole: float32[2H,2W], the four tiles side by side; see `mosaic`.
    """

    tiles: UInt8Images
    expected: Float32Maps
    expected_whole: Float32Maps


def choose_tiles(patches: Sequence[Patch], size: int = 512) -> UInt8Images:
    """Return four tiles uint8[4,H,W,3] of one image; H and W are multiples of 32, at most `size`.

    They are the first four patches of an image that has as many, as with corner patches, or else the quadrants of a
    patch. One image, because side by side the tiles are to be one image: channel attention averages over the whole of
    it, and tiles of different stains would move each other's probabilities by up to 0.14 in the mean. Of several
    images, the one with the most contrast is taken.

    >>> from pathlib import Path
    >>> from msal_deploy.data import find_dataset, patches_of
    >>> choose_tiles(patches_of(find_dataset(Path("monuseg")).test, size=256)).shape
    (4, 256, 256, 3)

    Args:
        patches: At least one patch.
        size: Largest height and width in pixels.
    """
    groups: dict[str, list[UInt8Images]] = {}
    for patch in patches:
        groups.setdefault(patch.stem, []).append(patch.image)
    complete = [images[:TILES] for images in groups.values() if len(images) >= TILES]
    candidates = complete or [[patch.image] for patch in patches]
    images = max(candidates, key=lambda images: sum(float(image[::8, ::8].std()) for image in images))
    height, width = (min(image.shape[axis] for image in images) for axis in (0, 1))
    if complete:
        return rows(images, (TILES, _multiple(height, size), _multiple(width, size)))
    whole = (1, 2 * _multiple(height // 2, size), 2 * _multiple(width // 2, size))
    tiles: UInt8Images = quadrants(rows(images, whole)[0])
    return tiles


def _multiple(extent: int, size: int) -> int:
    """Return the largest multiple of `MULTIPLE` that is at most `extent` and `size`, but at least one."""
    return max(min(extent, size) // MULTIPLE, 1) * MULTIPLE


def mosaic(tiles: Sequence[Any] | UInt8Images) -> Any:
    """Return four arrays of shape (H, W, …) side by side, as one of shape (2H, 2W, …).

    >>> mosaic(np.arange(4).reshape(4, 1, 1)).tolist()
    [[0, 1], [2, 3]]
    """
    return np.concatenate([np.concatenate(tiles[:2], axis=1), np.concatenate(tiles[2:], axis=1)])


def quadrants(whole: Any) -> Any:
    """Return the four quadrants of an array of shape (2H, 2W, …), as one of shape (4, H, W, …).

    >>> quadrants(np.arange(4).reshape(2, 2)).tolist()
    [[[0]], [[1]], [[2]], [[3]]]
    """
    height, width = (extent // 2 for extent in whole.shape[:2])
    return np.stack([whole[y : y + height, x : x + width] for y in (0, height) for x in (0, width)])


def probe_reference(reference: Engine, tiles: UInt8Images) -> Probe:
    """Run the open reference engine on four tiles, alone and side by side.

    >>> from pathlib import Path
    >>> from msal_deploy.bundle import Bundle
    >>> from msal_deploy.runtimes import open_engine
    >>> tiles = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    >>> with open_engine(Bundle(Path("bundle")), "onnxruntime:fp32") as reference:
    ...     probe = probe_reference(reference, tiles)
    >>> probe.expected.shape, probe.expected_whole.shape
    ((4, 64, 64), (128, 128))
    """
    return Probe(tiles, each_alone(reference, tiles), alone(reference, mosaic(tiles)))


def alone(engine: Engine, tile: UInt8Images) -> Float32Maps:
    """Return float32[H,W] of a tile in the smallest batch that the engine accepts, all rows of which are that tile."""
    probability: Float32Maps = engine(np.repeat(tile[None], min_batch(engine), axis=0))[0, 0]
    return probability


def each_alone(engine: Engine, tiles: UInt8Images) -> Float32Maps:
    """Return float32[K,H,W] of K tiles, each computed alone."""
    return np.stack([alone(engine, tile) for tile in tiles])


def min_batch(engine: Engine) -> int:
    """Return the smallest batch that the open engine takes."""
    return engine.profile.min[0] if engine.profile else 1


def rows(images: Sequence[UInt8Images] | UInt8Images, shape: Shape) -> UInt8Images:
    """Return N different images of H × W px: cropped, or continued by their own pixels; repeated ones are shifted."""
    count, height, width = shape
    moved = [np.roll(images[row % len(images)], STEP * (row // len(images)), axis=1) for row in range(count)]
    down = [np.take(image, range(height), axis=0, mode="wrap") for image in moved]
    return np.stack([np.take(image, range(width), axis=1, mode="wrap") for image in down])
