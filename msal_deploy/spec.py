"""ModelSpec: the input and output of every graph. ONNX axes, TensorRT profiles and host code are derived from it."""

from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.documents import Identifier
from msal_deploy.errors import BadInput

UInt8Images = NDArray[np.uint8]
Float32Maps = NDArray[np.float32]
MAX_EXTENT = 1 << 20  # of an axis, in pixels or images
Extent = Annotated[int, msgspec.Meta(ge=1, le=MAX_EXTENT)]
Intensity = Annotated[float, msgspec.Meta(ge=-10, le=10)]
Deviation = Annotated[float, msgspec.Meta(gt=0, le=10)]


class Axis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dynamic axis: its name, its smallest and largest extent, and the number that every extent is a multiple of."""

    name: Identifier
    minimum: Extent
    maximum: Extent
    multiple: Extent = 1

    def __post_init__(self) -> None:
        if self.round_up(self.minimum) > self.maximum:
            raise ValueError(f"Expected a {self.name} with a multiple of {self.multiple} from minimum to maximum")

    def round_up(self, extent: int) -> int:
        """Return the smallest multiple that is at least `extent`.

        >>> HEIGHT.round_up(100), HEIGHT.round_up(128)
        (128, 128)
        """
        return -(-extent // self.multiple) * self.multiple


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, dtype and axes of a graph's input or output. A fixed axis is an integer."""

    name: Identifier
    dtype: Literal["uint8", "float32"]
    axes: tuple[Axis | Extent, ...]


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
    mean: tuple[Intensity, Intensity, Intensity] = (0.485, 0.456, 0.406)
    std: tuple[Deviation, Deviation, Deviation] = (0.229, 0.224, 0.225)
    microns_per_pixel: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 0.25
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        if len(self.image.axes) != 4 or len(self.probability.axes) != 4:
            raise ValueError("Expected four axes for image and probability")
        if (self.image.dtype, self.probability.dtype) != ("uint8", "float32"):
            raise ValueError("Expected a uint8 image and a float32 probability")
        if (self.image.axes[3], self.probability.axes[1]) != (3, 1):
            raise ValueError("Expected axes N, H, W, 3 of the image and N, 1, H, W of the probability")
        if self.image.name == self.probability.name:
            raise ValueError("Expected different names for image and probability")

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
