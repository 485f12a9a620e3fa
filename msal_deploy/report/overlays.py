"""Overlays: a patch, the outlines of truth and prediction on it, and a map of where they disagree."""

import base64
import io
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

RGB = tuple[int, int, int]

# Told apart with every common colour vision (Okabe and Ito), and from the pink and violet of H&E.
TRUTH: RGB = (240, 228, 66)
PREDICTION: RGB = (86, 180, 233)
FALSE_POSITIVE: RGB = (213, 94, 0)
FALSE_NEGATIVE: RGB = (0, 114, 178)
TRUE_POSITIVE: RGB = (190, 190, 190)
BACKGROUND: RGB = (250, 250, 250)
MAX_SIDE = 512  # px in the page


class Overlay(msgspec.Struct, frozen=True, eq=False):
    """A patch to show: uint8[H,W,3] RGB, with bool[H,W] truth and prediction, and the Dice of the two.

    Attributes:
        engine: whose prediction it is.
    """

    stem: str
    corner: str
    rank: Literal["best", "median", "worst"]
    dice: float
    image: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    engine: str = ""


def outlines(overlay: Overlay) -> NDArray[np.uint8]:
    """Return uint8[H,W,3]: the patch with the truth's outline, and the prediction's drawn over it."""
    from skimage.segmentation import find_boundaries

    picture = overlay.image.copy()
    for mask, colour in ((overlay.truth, TRUTH), (overlay.prediction, PREDICTION)):
        picture[find_boundaries(mask)] = colour  # type: ignore[no-untyped-call]
    return picture


def disagreement(overlay: Overlay) -> NDArray[np.uint8]:
    """Return uint8[H,W,3]: each pixel coloured by whether truth and prediction say nucleus."""
    palette = np.array([BACKGROUND, FALSE_POSITIVE, FALSE_NEGATIVE, TRUE_POSITIVE], np.uint8)
    colours: NDArray[np.uint8] = palette[overlay.truth * 2 + overlay.prediction]
    return colours


def as_jpeg(picture: NDArray[np.uint8]) -> str:
    """Return uint8[H,W,3] as the data URI of a JPEG of at most `MAX_SIDE` px."""
    return _data_uri(picture, "jpeg", quality=85, subsampling=0)  # subsampled colours would smear thin outlines


def as_png(picture: NDArray[np.uint8]) -> str:
    """Return uint8[H,W,3] as the data URI of a PNG, which keeps a few flat colours sharp and small."""
    return _data_uri(picture, "png", optimize=True)


def _data_uri(picture: NDArray[np.uint8], kind: str, **options: int) -> str:
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
