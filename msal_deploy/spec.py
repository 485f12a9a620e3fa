"""ModelSpec: what goes into a graph and what comes out. The one source for ONNX axes, profiles and host code."""

from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput

UInt8Images = NDArray[np.uint8]
Float32Maps = NDArray[np.float32]


class Axis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dynamic axis: its name, the smallest and largest extent, and what the extent must be a multiple of."""

    name: str
    minimum: Annotated[int, msgspec.Meta(ge=1)]
    maximum: Annotated[int, msgspec.Meta(ge=1)]
    multiple: Annotated[int, msgspec.Meta(ge=1)] = 1


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, dtype and axes of a graph's input or output; a fixed axis is an integer."""

    name: str
    dtype: Literal["uint8", "float32"]
    axes: tuple[Axis | int, ...]


BATCH = Axis("batch", 1, 64)
HEIGHT = Axis("height", 32, 4096, multiple=32)
WIDTH = Axis("width", 32, 4096, multiple=32)


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contract of every graph and engine in a bundle.

    Attributes:
        image: uint8[N,H,W,3], RGB; the graph casts, transposes and normalises it.
        probability: float32[N,1,H,W], the probability that a pixel belongs to a nucleus, whatever the precision inside.
        mean, std: per channel, of intensities scaled to 0…1 (ImageNet's, as torchvision's weights expect).
        microns_per_pixel: the resolution the network was trained at (MoNuSeg is 40×, 0.25 µm).
        threshold: a pixel is a nucleus where the probability is at least this.
    """

    image: TensorSpec = TensorSpec("image", "uint8", (BATCH, HEIGHT, WIDTH, 3))
    probability: TensorSpec = TensorSpec("probability", "float32", (BATCH, 1, HEIGHT, WIDTH))
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    microns_per_pixel: float = 0.25
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if len(self.image.axes) != 4 or len(self.probability.axes) != 4:
            raise ValueError("images and probabilities have four axes")

    def check_images(self, images: UInt8Images) -> None:
        """Raise `BadInput` with one sentence unless `images` is what the graph takes."""
        if not isinstance(images, np.ndarray):
            raise BadInput(f"Images are a {type(images).__name__}; give a numpy array uint8[N, H, W, 3]")
        if images.dtype != self.image.dtype:
            raise BadInput(f"Images are {images.dtype}; the graph takes uint8 RGB (0 to 255) and normalises by itself")
        if images.ndim != 4 or images.shape[3] != 3:
            raise BadInput(f"Images have the shape {images.shape}; give uint8[N, H, W, 3]")
        for axis, extent in zip(self.image.axes, images.shape, strict=True):
            if isinstance(axis, Axis):
                check_extent(axis, extent)


def check_extent(axis: Axis, extent: int) -> None:
    """Raise `BadInput` unless `extent` lies in the axis' range and is a multiple of what it must be."""
    if not axis.minimum <= extent <= axis.maximum:
        raise BadInput(f"The {axis.name} is {extent}; it must lie between {axis.minimum} and {axis.maximum}")
    if extent % axis.multiple:
        below, above = extent // axis.multiple * axis.multiple, -(-extent // axis.multiple) * axis.multiple
        raise BadInput(f"The {axis.name} is {extent}, no multiple of {axis.multiple}; use {below or above} or {above}")
