"""Cut images into the paper's corner patches, and split off the validation images."""

import hashlib
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.data.dataset import AnnotatedImage
from msal_deploy.errors import BadInput


class Patch(msgspec.Struct, frozen=True, eq=False):
    """A labelled square cut from an image.

    Attributes:
        stem: File name of the image, without its suffix.
        corner: The corner it was cut from, such as ``top-left``.
        image: uint8[S,S,3] RGB.
        mask: bool[S,S], true in nuclei.
        instances: int32[S,S], 0 for background and a number for each nucleus; None if they are not known.
    """

    stem: str
    corner: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    instances: NDArray[np.int32] | None = None


def corner_patches(annotated: AnnotatedImage, size: int = 512) -> tuple[Patch, ...]:
    """Cut the four corners of an image: of 1000×1000 px, four patches of 512×512 px that overlap by 24 px.

    If the image is exactly as high or as wide as a patch, corners coincide and each is returned once.

    >>> from pathlib import Path
    >>> from msal_deploy.data import find_dataset
    >>> test = find_dataset(Path("monuseg")).test
    >>> [patch.corner for patch in corner_patches(test[0], size=256)]
    ['top-left', 'top-right', 'bottom-left', 'bottom-right']

    Args:
        annotated: The image and its annotation.
        size: Side of a patch in pixels.

    Raises:
        BadInput: The image is smaller than `size`, or its label map has another size.
    """
    image, mask = annotated.image(), annotated.mask()
    height, width = mask.shape
    if min(height, width) < size:
        raise BadInput(f"{annotated.image_path} is {width}×{height} px, smaller than a patch of {size}", "remove it")
    rows = {"top": 0, "bottom": height - size} if height > size else {"top": 0}
    columns = {"left": 0, "right": width - size} if width > size else {"left": 0}
    return tuple(
        Patch(annotated.stem, f"{row}-{column}", image[y : y + size, x : x + size], mask[y : y + size, x : x + size])
        for row, y in rows.items()
        for column, x in columns.items()
    )


def patches_of(images: Iterable[AnnotatedImage], size: int = 512) -> tuple[Patch, ...]:
    """Return the corner patches of all images, in order: MoNuSeg has 120 training and 56 test patches.

    >>> from pathlib import Path
    >>> from msal_deploy.data import find_dataset
    >>> len(patches_of(find_dataset(Path("monuseg")).test, size=256))
    8
    """
    return tuple(patch for annotated in images for patch in corner_patches(annotated, size))


def validation_split(
    images: Sequence[AnnotatedImage], fraction: float
) -> tuple[tuple[AnnotatedImage, ...], tuple[AnnotatedImage, ...]]:
    """Split images into training images and validation images, which select the checkpoint.

    Images are ordered by the SHA-256 of their stem, and the first `fraction` of them is held out. The split is
    therefore the same on every machine, and adding or removing an image moves at most one other. Each part has at least
    one image.

    >>> from pathlib import Path
    >>> from msal_deploy.data import find_dataset
    >>> train, validation = validation_split(find_dataset(Path("monuseg")).train, 0.2)
    >>> len(train), len(validation)
    (1, 1)

    Raises:
        BadInput: There are fewer than two images.
    """
    if len(images) < 2:
        raise BadInput(
            f"Expected at least 2 training images to split off a validation set, got {len(images)}", "add images"
        )
    count = min(max(round(fraction * len(images)), 1), len(images) - 1)
    ordered = sorted(images, key=lambda image: hashlib.sha256(image.stem.encode()).digest())
    held_out = {image.stem for image in ordered[:count]}
    train = tuple(image for image in images if image.stem not in held_out)
    return train, tuple(image for image in images if image.stem in held_out)
