"""Select the calibration tiles: training tiles that differ from each other as much as possible in stain."""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.bundle import CALIBRATION, Bundle
from msal_deploy.data import AnnotatedImage, pixel_hash
from msal_deploy.documents import read_json
from msal_deploy.errors import BadInput
from msal_deploy.spec import UInt8Images

SIDE = 256  # px; ranges of a convolutional network do not depend on it, and small tiles cover more tissue per minute
TISSUE_DENSITY = 0.15  # optical density above which a pixel is stained (Macenko et al., ISBI 2009)
MIN_TISSUE = 0.1  # fraction of stained pixels below which a tile is background


class Tile(msgspec.Struct, frozen=True, eq=False):
    """A calibration tile: a square of a training image.

    Attributes:
        stem: File name of the image, without its suffix.
        row: Top edge in pixels.
        column: Left edge in pixels.
        image: uint8[SIDE,SIDE,3] RGB.
    """

    stem: str
    row: int
    column: int
    image: NDArray[np.uint8]

    @property
    def sha256(self) -> str:
        """SHA-256 of the pixels."""
        return pixel_hash(self.image)


class CalibrationList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tiles that a bundle's graphs were calibrated on; stored in the bundle.

    Attributes:
        method: Calibration method.
        side: Height and width of a tile in pixels.
        images: Stem of each image with a tile -> SHA-256 of its pixels.
        tiles: Stem, row, column and SHA-256 of each tile.
    """

    method: str
    side: int
    images: dict[str, str]
    tiles: tuple[tuple[str, int, int, str], ...]


def tissue_tiles(images: Sequence[AnnotatedImage], test: Sequence[AnnotatedImage] = ()) -> tuple[Tile, ...]:
    """Cut training images into non-overlapping tiles and return those that show tissue.

    >>> from pathlib import Path
    >>> from msal_deploy.data import find_dataset
    >>> dataset = find_dataset(Path("monuseg"))
    >>> tiles = tissue_tiles(dataset.train, dataset.test)
    >>> [(tile.row, tile.column) for tile in tiles[:4]]
    [(0, 0), (0, 256), (256, 0), (256, 256)]

    Args:
        images: Training images.
        test: Test images, which must differ from `images`.

    Raises:
        BadInput: There are no training images, one of them is also a test image, or none shows tissue.
    """
    if not images:
        raise BadInput(
            "Expected training images to calibrate on, got none",
            "put those to calibrate on in a folder named train, and those to score in one named test",
        )
    _require_disjoint(images, {pixel_hash(image.image()): image.stem for image in test})
    tiles = tuple(tile for image in images for tile in _grid(image))
    if not tiles:
        raise BadInput(f"None of the calibration tiles of {SIDE} px shows stained tissue", "use H&E images of tissue")
    return tiles


def _require_disjoint(images: Iterable[AnnotatedImage], test: dict[str, str]) -> None:
    for annotated in images:
        if test and (other := test.get(pixel_hash(annotated.image()))):
            raise BadInput(
                f"Training image {annotated.stem} and test image {other} have the same pixels",
                "calibrate on images that are not test images",
            )


def require_unseen(bundle: Bundle, images: Iterable[AnnotatedImage]) -> None:
    """Check that a bundle's graphs were not calibrated on any of `images`.

    Raises:
        BadInput: An image of the bundle's calibration list has the same pixels as one of `images`.
    """
    if CALIBRATION in bundle:
        file = bundle.file(CALIBRATION)
        calibrated = read_json(file, CalibrationList, "a list of calibration tiles", "export the bundle again")
        _require_disjoint(images, {digest: stem for stem, digest in calibrated.images.items()})


def _grid(annotated: AnnotatedImage) -> Iterable[Tile]:
    image = annotated.image()
    for row in range(0, image.shape[0] - SIDE + 1, SIDE):
        for column in range(0, image.shape[1] - SIDE + 1, SIDE):
            tile = image[row : row + SIDE, column : column + SIDE]
            if (_optical_density(tile).mean(axis=2) > TISSUE_DENSITY).mean() >= MIN_TISSUE:
                yield Tile(annotated.stem, row, column, tile)


def _optical_density(image: UInt8Images) -> NDArray[np.float64]:
    """Return −ln of the transmitted light, in which stains are additive (Beer-Lambert law)."""
    return -np.log((image.astype(np.float64) + 1) / 256)


def select_tiles(tiles: Sequence[Tile], count: int) -> tuple[Tile, ...]:
    """Select `count` tiles that differ most in stain; the selection is deterministic.

    Greedy k-centre selection (Gonzalez, Theoretical Computer Science 38, 1985) on the mean and standard deviation of
    the haematoxylin, eosin and residual channels. It starts with the tile nearest to the average; each next tile is the
    one farthest from all selected tiles.

    >>> pink, blue = np.array([230, 150, 190], np.uint8), np.array([60, 50, 140], np.uint8)
    >>> tiles = [Tile(f"image-{i}", 0, 0, np.tile(colour, (8, 8, 1))) for i, colour in enumerate([pink, pink, blue])]
    >>> [tile.stem for tile in select_tiles(tiles, 2)]
    ['image-0', 'image-2']

    Raises:
        BadInput: `count` is less than 1 or more than the number of tiles.
    """
    if not 1 <= count <= len(tiles):
        raise BadInput(f"Expected between 1 and {len(tiles)} calibration tiles, got {count}", "change --tiles")
    features = np.array([_stain(tile) for tile in tiles])
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    selected = [int(np.linalg.norm(features, axis=1).argmin())]
    distance = np.linalg.norm(features - features[selected[0]], axis=1)
    while len(selected) < count:
        distance[selected] = -1
        selected.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(features - features[selected[-1]], axis=1))
    return tuple(tiles[index] for index in selected)


def disjoint_selections(tiles: Sequence[Tile], count: int, limit: int, seed: int = 0) -> tuple[tuple[Tile, ...], ...]:
    """Return up to `limit` selections of `count` tiles without a common tile; none if there is only one."""
    selections = min(limit, len(tiles) // count)
    if selections < 2:
        return ()
    order = np.random.default_rng(seed).permutation(len(tiles))
    return tuple(select_tiles([tiles[i] for i in part], count) for part in np.array_split(order, selections))


def _stain(tile: Tile) -> NDArray[np.float64]:
    from skimage.color import rgb2hed

    stains = rgb2hed(tile.image)
    return np.concatenate([stains.mean(axis=(0, 1)), stains.std(axis=(0, 1))])


def describe_tiles(tiles: Sequence[Tile], images: Iterable[AnnotatedImage], method: str) -> CalibrationList:
    """Return the calibration list of the selected tiles, with the hashes of their images."""
    used = {tile.stem for tile in tiles}
    return CalibrationList(
        method,
        SIDE,
        {image.stem: pixel_hash(image.image()) for image in images if image.stem in used},
        tuple((tile.stem, tile.row, tile.column, tile.sha256) for tile in tiles),
    )
