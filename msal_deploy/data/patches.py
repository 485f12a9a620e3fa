"""Turn images into the patches that are scored, and split off the validation images."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import label

from msal_deploy.data.annotated import AnnotatedImage
from msal_deploy.errors import BadInput, suggest
from msal_deploy.spec import HEIGHT

MIN_PATCH, MAX_PATCH = 64, HEIGHT.maximum  # px; a smaller patch is mostly border, and a graph takes no larger one

Protocol = Literal["corners", "tiles", "resize"]


class Patch(msgspec.Struct, frozen=True, eq=False):
    """A labelled crop of an image, or a whole image. Only the pixels of `mask` are scored.

    ``image[:h, :w]`` is tissue. The rest, at the bottom and at the right, is a mirror image of it, so that an engine
    can take the patch.

    Attributes:
        stem: File name of the image, without its suffix.
        corner: The corner it was cut from, such as ``top-left``, or ``whole``.
        image: uint8[A,B,3] RGB, with A ≥ h and B ≥ w.
        mask: bool[h,w], true in nuclei.
        instances: int32[h,w], 0 for background and a number for each nucleus; None if they are not known.
        scale: Pixel size divided by that of the file: 2 if the image was reduced to half its height and width.
    """

    stem: str
    corner: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    instances: NDArray[np.int32] | None = None
    scale: float = 1.0

    @property
    def nuclei(self) -> NDArray[np.int32]:
        """int32[h,w], 0 for background: `instances`, or the 8-connected components of `mask` if they are not known.

        >>> mask = np.array([[True, False, True], [True, False, True]])
        >>> Patch("a", "whole", np.zeros((2, 3, 3), np.uint8), mask).nuclei
        array([[1, 0, 2],
               [1, 0, 2]], dtype=int32)
        """
        if self.instances is not None:
            return self.instances
        return np.asarray(label(self.mask), dtype=np.int32)  # type: ignore[no-untyped-call]


def corner_patches(annotated: AnnotatedImage, size: int = 512) -> tuple[Patch, ...]:
    """Cut the four corners of an image: of 1000×1000 px, four patches of 512×512 px that overlap by 24 px.

    If the image is not higher or not wider than a patch, corners coincide and each is returned once. Patches are padded
    to `size`, rounded up to a multiple of 32; the padding is not scored.

    >>> from pathlib import Path
    >>> from msal_deploy.data import find_dataset
    >>> test = find_dataset(Path("monuseg")).test
    >>> [patch.corner for patch in corner_patches(test[0], size=256)]
    ['top-left', 'top-right', 'bottom-left', 'bottom-right']
    >>> patch = corner_patches(test[0], size=600)[0]
    >>> patch.corner, patch.image.shape, patch.mask.shape
    ('top-left', (608, 608, 3), (512, 512))

    Args:
        annotated: The image and its annotation.
        size: Side of a patch in pixels, from 64 to 4096.

    Raises:
        BadInput: The size is out of range, or the label map and the image differ in size.
    """
    _check_size(size)
    image, instances = annotated.image(), annotated.instances()
    height, width = instances.shape
    rows = {"top": 0, "bottom": height - size} if height > size else {"top": 0}
    columns = {"left": 0, "right": width - size} if width > size else {"left": 0}
    squares = {
        f"{row}-{column}": (slice(y, y + size), slice(x, x + size))
        for row, y in rows.items()
        for column, x in columns.items()
    }
    return tuple(_patch(annotated.stem, corner, image[at], instances[at], size) for corner, at in squares.items())


def patches_of(images: Iterable[AnnotatedImage], size: int = 512) -> tuple[Patch, ...]:
    """Return the corner patches of all images, in order: MoNuSeg has 120 training and 56 test patches.

    >>> from pathlib import Path
    >>> from msal_deploy.data import find_dataset
    >>> len(patches_of(find_dataset(Path("monuseg")).test, size=256))
    8
    """
    return tuple(patch for annotated in images for patch in corner_patches(annotated, size))


def protocol_patches(
    images: Iterable[AnnotatedImage], protocol: Protocol = "corners", size: int = 512
) -> tuple[Patch, ...]:
    """Return the patches that a protocol scores. Published scores on MoNuSeg differ in it.

    ===========  ===================================================================================================
    ``corners``  the corners of each image (`corner_patches`), as in the paper of MSAL-Net
    ``tiles``    whole images at their own size; `Engine.segment` computes them in overlapping tiles of `size`
    ``resize``   whole images, resized to `size` × `size` and padded to a multiple of 32; the aspect ratio is not kept
    ===========  ===================================================================================================

    >>> from pathlib import Path
    >>> from msal_deploy.data import find_dataset
    >>> test = find_dataset(Path("monuseg")).test
    >>> {protocol: len(protocol_patches(test, protocol, 256)) for protocol in ("corners", "tiles", "resize")}
    {'corners': 8, 'tiles': 2, 'resize': 2}

    Args:
        images: Images and their annotations.
        protocol: One of the three.
        size: Side of a patch or tile in pixels, from 64 to 4096.

    Raises:
        BadInput: The protocol is unknown, the size is out of range, or a label map and its image differ in size.
    """
    parse_protocol(protocol)
    _check_size(size)
    if protocol == "corners":
        return patches_of(images, size)
    cut = _whole if protocol == "tiles" else _resized
    return tuple(cut(annotated, size) for annotated in images)


def parse_protocol(name: str) -> Protocol:
    """Return the protocol of that name.

    >>> parse_protocol("tiles")
    'tiles'

    Raises:
        BadInput: No protocol has that name.
    """
    if name not in get_args(Protocol):
        raise BadInput(f"Expected a protocol, got {name!r}", suggest(name, get_args(Protocol)))
    protocol: Protocol = name  # type: ignore[assignment]
    return protocol


def _check_size(size: int) -> None:
    if not MIN_PATCH <= size <= MAX_PATCH:
        raise BadInput(f"Expected patches of {MIN_PATCH} to {MAX_PATCH} px, got {size}", "use a size in that range")


def _patch(stem: str, corner: str, image: NDArray[np.uint8], instances: NDArray[np.int32], size: int) -> Patch:
    """Return a patch whose image is padded to `size`, rounded up to a multiple of 32."""
    side = HEIGHT.round_up(size)
    missing = [(0, side - extent) for extent in image.shape[:2]]
    padded = np.pad(image, [*missing, (0, 0)], mode="reflect")
    return Patch(stem, corner, padded, instances > 0, instances)


def _whole(annotated: AnnotatedImage, size: int) -> Patch:
    instances = annotated.instances()
    return Patch(annotated.stem, "whole", annotated.image(), instances > 0, instances)


def _resized(annotated: AnnotatedImage, size: int) -> Patch:
    """Return the image resized with Pillow's bilinear filter, which is wider than a pixel if the image is reduced."""
    image, instances = annotated.image(), annotated.instances()
    height, width = instances.shape
    small = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    labels = instances[np.ix_(_nearest(height, size), _nearest(width, size))]
    patch = _patch(annotated.stem, "whole", small, labels, size)
    return msgspec.structs.replace(patch, scale=math.sqrt(height * width) / size)


def _nearest(extent: int, size: int) -> NDArray[np.intp]:
    """Return for each of `size` pixels the one of `extent` pixels that its centre is in."""
    return (2 * np.arange(size) + 1) * extent // (2 * size)


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
        cause = f"Expected at least 2 training images to split off a validation set, got {len(images)}"
        raise BadInput(cause, "add images" if images else "put them in a folder named train, or use --split 0.2")
    count = min(max(round(fraction * len(images)), 1), len(images) - 1)
    ordered = sorted(images, key=lambda image: hashlib.sha256(image.stem.encode()).digest())
    held_out = {image.stem for image in ordered[:count]}
    train = tuple(image for image in images if image.stem not in held_out)
    return train, tuple(image for image in images if image.stem in held_out)
