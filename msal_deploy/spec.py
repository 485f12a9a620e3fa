"""ModelSpec: the input and output of every graph. ONNX axes, TensorRT profiles and host code are derived from it."""

from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput

UInt8Images = NDArray[np.uint8]
Float32Maps = NDArray[np.float32]


class Axis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dynamic axis: its name, its smallest and largest extent, and the number that every extent is a multiple of."""

    name: str
    minimum: Annotated[int, msgspec.Meta(ge=1)]
    maximum: Annotated[int, msgspec.Meta(ge=1)]
    multiple: Annotated[int, msgspec.Meta(ge=1)] = 1

    def round_up(self, extent: int) -> int:
        """Return the smallest multiple that is at least `extent`.

        >>> HEIGHT.round_up(100), HEIGHT.round_up(128)
        (128, 128)
        """
        return -(-extent // self.multiple) * self.multiple


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, dtype and axes of a graph's input or output. A fixed axis is an integer."""

    name: str
    dtype: Literal["uint8", "float32"]
    axes: tuple[Axis | int, ...]


BATCH = Axis("batch", 1, 64)
HEIGHT = Axis("height", 32, 4096, multiple=32)
WIDTH = Axis("width", 32, 4096, multiple=32)


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Input and output of every graph and engine of a bundle.

    >>> spec = ModelSpec()
    >>> spec.image.name, spec.image.dtype, spec.probability.dtype
    ('image', 'uint8', 'float32')
    >>> spec.check_images(np.zeros((1, 60, 64, 3), np.uint8))
    Traceback (most recent call last):
    msal_deploy.errors.BadInput: Expected a height that is a multiple of 32, got 60; use 32 or 64

    Attributes:
        image: uint8[N,H,W,3], RGB. The graph casts, transposes and normalises it.
        probability: float32[N,1,H,W], the probability that a pixel belongs to a nucleus, at every precision.
        mean, std: Per channel, for intensities scaled to 0…1 (ImageNet's, as torchvision's weights expect).
        microns_per_pixel: Resolution of the training images (MoNuSeg is 40×, 0.25 µm).
        threshold: A pixel is nucleus if its probability is at least this.
    """

    image: TensorSpec = TensorSpec("image", "uint8", (BATCH, HEIGHT, WIDTH, 3))
    probability: TensorSpec = TensorSpec("probability", "float32", (BATCH, 1, HEIGHT, WIDTH))
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    microns_per_pixel: float = 0.25
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if len(self.image.axes) != 4 or len(self.probability.axes) != 4:
            raise ValueError("Expected four axes for image and probability")

    def check_images(self, images: UInt8Images) -> None:
        """Raise `BadInput` unless the graph can take `images`."""
        if not isinstance(images, np.ndarray):
            raise BadInput(f"Expected a NumPy array, got {type(images).__name__}", "pass uint8[N, H, W, 3]")
        if images.dtype != self.image.dtype:
            raise BadInput(
                f"Expected uint8 images, got {images.dtype}", "pass RGB from 0 to 255; the graph normalises them"
            )
        if images.ndim != 4 or images.shape[3] != 3:
            raise BadInput(f"Expected images of shape (N, H, W, 3), got {images.shape}", "pass uint8[N, H, W, 3]")
        for axis, extent in zip(self.image.axes, images.shape, strict=True):
            if isinstance(axis, Axis):
                check_extent(axis, extent)


def check_extent(axis: Axis, extent: int) -> None:
    """Raise `BadInput` unless `extent` is in the range of `axis` and a multiple of `axis.multiple`.

    >>> check_extent(Axis("batch", 1, 64), 65)
    Traceback (most recent call last):
    msal_deploy.errors.BadInput: Expected a batch from 1 to 64, got 65; use a size in that range
    """
    if not axis.minimum <= extent <= axis.maximum:
        raise BadInput(
            f"Expected a {axis.name} from {axis.minimum} to {axis.maximum}, got {extent}", "use a size in that range"
        )
    if extent % axis.multiple:
        below = extent // axis.multiple * axis.multiple
        above = below + axis.multiple
        raise BadInput(
            f"Expected a {axis.name} that is a multiple of {axis.multiple}, got {extent}",
            f"use {below or above} or {above}",
        )
