"""Which tiles the ranges of activations are measured on: training tiles, as different in stain as can be had."""

import hashlib
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.bundle import CALIBRATION, Bundle
from msal_deploy.data import AnnotatedImage
from msal_deploy.errors import BadInput
from msal_deploy.spec import UInt8Images

SIDE = 256  # px; the ranges of a network of convolutions do not depend on it, and more places fit into a minute
TISSUE_DENSITY = 0.15  # optical density above which a pixel is stained (Macenko et al., ISBI 2009)
MIN_TISSUE = 0.1  # share of stained pixels below which a tile is background


class Tile(msgspec.Struct, frozen=True, eq=False):
    """A square of a training image: uint8[SIDE,SIDE,3] RGB, its place in pixels, and the hash of its pixels."""

    stem: str
    row: int
    column: int
    image: NDArray[np.uint8]

    @property
    def sha256(self) -> str:
        """Hash of the pixels."""
        return pixel_hash(self.image)


class CalibrationList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a graph was calibrated on, as the bundle keeps it.

    Attributes:
        images: stem of each image that tiles were drawn from -> SHA-256 of its pixels.
        tiles: stem, row, column and SHA-256 of the pixels of each tile.
    """

    method: str
    side: int
    images: dict[str, str]
    tiles: tuple[tuple[str, int, int, str], ...]


def pixel_hash(image: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of an image's shape and pixels, whatever file format they came in."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def tissue_tiles(images: Sequence[AnnotatedImage], test: Sequence[AnnotatedImage] = ()) -> tuple[Tile, ...]:
    """Return the tiles of `images` that show tissue, none of which overlaps another.

    Raises:
        BadInput: there are no training images, one of them is also a test image, or none shows any tissue.
    """
    if not images:
        raise BadInput("There are no training images to calibrate on; give a folder whose name holds the word train")
    _refuse(images, {pixel_hash(case.image()): case.stem for case in test})
    found = tuple(tile for case in images for tile in _grid(case))
    if not found:
        raise BadInput(
            f"No calibration tile of {SIDE} px shows stained tissue (all white or empty?); give H&E images of tissue"
        )
    return found


def _refuse(images: Iterable[AnnotatedImage], test: dict[str, str]) -> None:
    for case in images:
        if test and (other := test.get(pixel_hash(case.image()))):
            raise BadInput(
                f"The training image {case.stem} is the test image {other}, pixel for pixel; "
                "calibrate on images that are not tested on"
            )


def require_unseen(bundle: Bundle, images: Iterable[AnnotatedImage]) -> None:
    """Refuse to score on images that the bundle's graphs were calibrated on.

    Raises:
        BadInput: the bundle's calibration list holds one of `images`, pixel for pixel.
    """
    if CALIBRATION in bundle:
        calibrated = msgspec.json.decode(bundle.file(CALIBRATION).read_bytes(), type=CalibrationList)
        _refuse(images, {digest: stem for stem, digest in calibrated.images.items()})


def _grid(case: AnnotatedImage) -> Iterable[Tile]:
    image = case.image()
    for row in range(0, image.shape[0] - SIDE + 1, SIDE):
        for column in range(0, image.shape[1] - SIDE + 1, SIDE):
            tile = image[row : row + SIDE, column : column + SIDE]
            if (_optical_density(tile).mean(axis=2) > TISSUE_DENSITY).mean() >= MIN_TISSUE:
                yield Tile(case.stem, row, column, tile)


def _optical_density(image: UInt8Images) -> NDArray[np.float64]:
    """Return −ln of the transmitted light, to which the stains add up (Beer and Lambert)."""
    return -np.log((image.astype(np.float64) + 1) / 256)


def select_tiles(tiles: Sequence[Tile], count: int) -> tuple[Tile, ...]:
    """Choose `count` tiles that differ most in stain: each next one lies farthest from those chosen before.

    Greedy k-centre (Gonzalez, Theoretical Computer Science 38, 1985) on mean and spread of haematoxylin, eosin and the
    rest, from the tile suggest to the average on. The same tiles give the same choice.

    Raises:
        BadInput: fewer tiles than asked for.
    """
    if not 1 <= count <= len(tiles):
        raise BadInput(f"{count} calibration tiles were asked for and {len(tiles)} are there; ask for fewer tiles")
    features = np.array([_stain(tile) for tile in tiles])
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    chosen = [int(np.linalg.norm(features, axis=1).argmin())]
    distance = np.linalg.norm(features - features[chosen[0]], axis=1)
    while len(chosen) < count:
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(features - features[chosen[-1]], axis=1))
    return tuple(tiles[index] for index in chosen)


def disjoint_draws(tiles: Sequence[Tile], count: int, draws: int, seed: int = 0) -> tuple[tuple[Tile, ...], ...]:
    """Return up to `draws` choices of `count` tiles that have no tile in common; none where there are not even two."""
    draws = min(draws, len(tiles) // count)
    if draws < 2:
        return ()
    order = np.random.default_rng(seed).permutation(len(tiles))
    return tuple(select_tiles([tiles[i] for i in part], count) for part in np.array_split(order, draws))


def _stain(tile: Tile) -> NDArray[np.float64]:
    from skimage.color import rgb2hed

    stains = rgb2hed(tile.image)
    return np.concatenate([stains.mean(axis=(0, 1)), stains.std(axis=(0, 1))])


def describe_tiles(tiles: Sequence[Tile], images: Iterable[AnnotatedImage], method: str) -> CalibrationList:
    """Describe the chosen tiles and the images that they are of."""
    used = {tile.stem for tile in tiles}
    return CalibrationList(
        method,
        SIDE,
        {case.stem: pixel_hash(case.image()) for case in images if case.stem in used},
        tuple((tile.stem, tile.row, tile.column, tile.sha256) for tile in tiles),
    )
