"""Which shapes a served model accepts, and at which it is warmed up."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from msal_deploy.errors import BadInput
from msal_deploy.package.triton_backends import Serving
from msal_deploy.spec import Axis, ModelSpec, TensorSpec, UInt8Images, check_extent

if TYPE_CHECKING:
    from msal_deploy.trt.plan_metadata import Shape

USUAL = (512, 512)  # height and width of the tiles that clients send unless told otherwise


def served_spec(spec: ModelSpec, serving: Serving) -> ModelSpec:
    """Return `spec` with the batches, and for plans the heights and widths, that are really served."""
    profile = serving.profile
    ranges = {"batch": (1, serving.max_batch)}
    if profile is not None:
        ranges |= {"height": (profile.min[1], profile.max[1]), "width": (profile.min[2], profile.max[2])}
    return replace(spec, image=_narrowed(spec.image, ranges), probability=_narrowed(spec.probability, ranges))


def _narrowed(tensor: TensorSpec, ranges: dict[str, tuple[int, int]]) -> TensorSpec:
    axes = (
        replace(axis, minimum=ranges[axis.name][0], maximum=ranges[axis.name][1])
        if isinstance(axis, Axis) and axis.name in ranges
        else axis
        for axis in tensor.axes
    )
    return replace(tensor, axes=tuple(axes))


def warm_ups(
    spec: ModelSpec, serving: Serving, golden: tuple[int, int], sizes: Iterable[tuple[int, int]]
) -> list[Shape]:
    """Return the shapes (N, H, W) that an instance computes before it serves requests.

    These are the golden tile or, for plans, the shape that they are tuned for; then 512 × 512 px if it is accepted,
    and `sizes`.

    Args:
        spec: What is served, from `served_spec`.
        golden: Height and width of the golden tiles.
        sizes: Further heights and widths, each for single images.

    Raises:
        BadInput: One of `sizes` is not accepted.
    """
    for size in sizes:
        for axis, extent in zip(spec.image.axes[1:3], size, strict=True):
            if isinstance(axis, Axis):
                check_extent(axis, extent)
    first = golden if serving.profile is None else serving.profile.opt[1:]
    singles = [first, *([USUAL] if _accepts(spec, USUAL) else []), *sizes]
    best = [(serving.best_batch, *first)] if serving.best_batch else []
    return list(dict.fromkeys([*((1, *size) for size in singles), *best]))


def _accepts(spec: ModelSpec, size: tuple[int, int]) -> bool:
    try:
        spec.check_images(np.empty((1, *size, 3), np.uint8))
    except BadInput:
        return False
    return True


def warm_up_name(shape: Shape) -> str:
    """Return the name of the file with the image of a warm-up: raw RGB.

    >>> warm_up_name((4, 384, 320))
    '384x320.rgb'
    """
    return f"{shape[1]}x{shape[2]}.rgb"


def write_warm_ups(image: UInt8Images, folder: Path, shapes: Iterable[Shape]) -> None:
    """Write `image`, uint8[H,W,3], repeated or cropped to the size of each shape."""
    folder.mkdir(parents=True)
    for shape in shapes:
        missing = [(0, max(0, wanted - extent)) for wanted, extent in zip(shape[1:], image.shape[:2], strict=True)]
        tile = np.pad(image, [*missing, (0, 0)], mode="wrap")[: shape[1], : shape[2]]
        (folder / warm_up_name(shape)).write_bytes(tile.tobytes())
