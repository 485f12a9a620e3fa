"""The paper's patches, and the images held out to choose the checkpoint."""

import hashlib
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.data.dataset import AnnotatedImage
from msal_deploy.errors import BadInput


class Patch(msgspec.Struct, frozen=True, eq=False):
    """A square cut from an image: uint8[S,S,3] RGB, with bool[S,S], where nuclei are."""

    stem: str
    corner: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def corner_patches(case: AnnotatedImage, size: int = 512) -> tuple[Patch, ...]:
    """Return the four corners of an image; of 1000×1000 px, four patches of 512×512 that overlap by 24 px.

    Where the image is just as high or wide as a patch, corners coincide and are taken once.

    Raises:
        BadInput: the image is smaller than `size`, or the label has another size than the image.
    """
    image, mask = case.image(), case.mask()
    height, width = mask.shape
    if min(height, width) < size:
        raise BadInput(f"{case.image_path} is {width}×{height} px, smaller than a patch of {size}; remove it")
    rows = {"top": 0, "bottom": height - size} if height > size else {"top": 0}
    columns = {"left": 0, "right": width - size} if width > size else {"left": 0}
    return tuple(
        Patch(case.stem, f"{row}-{column}", image[y : y + size, x : x + size], mask[y : y + size, x : x + size])
        for row, y in rows.items()
        for column, x in columns.items()
    )


def patches_of(cases: Iterable[AnnotatedImage], size: int = 512) -> tuple[Patch, ...]:
    """Return the corner patches of all cases, in their order: 120 of MoNuSeg's 30 training images, 56 of its 14."""
    return tuple(patch for case in cases for patch in corner_patches(case, size))


def validation_split(
    cases: Sequence[AnnotatedImage], fraction: float
) -> tuple[tuple[AnnotatedImage, ...], tuple[AnnotatedImage, ...]]:
    """Split images into those to train on and those to choose the checkpoint by.

    Images are ordered by the SHA-256 of their stem and the first `fraction` of them held out, so the split is the same
    on every machine, and an image more or less moves few others. Each part has at least one image.

    Raises:
        BadInput: fewer than two images.
    """
    if len(cases) < 2:
        raise BadInput(f"{len(cases)} training images cannot be split into training and validation; give two or more")
    held_out = min(max(round(fraction * len(cases)), 1), len(cases) - 1)
    ordered = sorted(cases, key=lambda case: hashlib.sha256(case.stem.encode()).digest())
    chosen = {case.stem for case in ordered[:held_out]}
    train = tuple(case for case in cases if case.stem not in chosen)
    return train, tuple(case for case in cases if case.stem in chosen)
