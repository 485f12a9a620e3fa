"""Overlays: a patch, the patch with the outlines of truth and prediction, and a map of correct and wrong pixels."""

import base64
import io
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

RGB = tuple[int, int, int]

# Colours by Okabe and Ito: distinct for colour-blind readers, and distinct from the pink and violet of H&E.
TRUTH: RGB = (240, 228, 66)
PREDICTION: RGB = (86, 180, 233)
FALSE_POSITIVE: RGB = (213, 94, 0)
FALSE_NEGATIVE: RGB = (0, 114, 178)
TRUE_POSITIVE: RGB = (190, 190, 190)
BACKGROUND: RGB = (250, 250, 250)
MAX_SIDE = 512  # pixels of a picture on the page


class Overlay(msgspec.Struct, frozen=True, eq=False):
    """A patch for the page, with its true and predicted masks.

    >>> mask = np.zeros((64, 64), bool)
    >>> image = np.zeros((64, 64, 3), np.uint8)
    >>> overlay = Overlay("TCGA-1", "top-left", "best", 1.0, image, mask, mask, engine="openvino:int8")
    >>> overlay.rank
    'best'

    Attributes:
        stem: Name of the image, without suffix.
        corner: Position of the patch in the image.
        rank: Why this patch is shown.
        dice: Dice of truth and prediction.
        image: uint8[H,W,3], RGB.
        truth: bool[H,W].
        prediction: bool[H,W].
        engine: Id of the engine that predicted the mask.
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
    """Return uint8[H,W,3]: the patch with the outlines of the truth and, above them, of the prediction."""
    from skimage.segmentation import find_boundaries

    picture = overlay.image.copy()
    for mask, colour in ((overlay.truth, TRUTH), (overlay.prediction, PREDICTION)):
        picture[find_boundaries(mask)] = colour  # type: ignore[no-untyped-call]
    return picture


def disagreement(overlay: Overlay) -> NDArray[np.uint8]:
    """Return uint8[H,W,3]: true positives, false positives and false negatives in different colours."""
    palette = np.array([BACKGROUND, FALSE_POSITIVE, FALSE_NEGATIVE, TRUE_POSITIVE], np.uint8)
    colours: NDArray[np.uint8] = palette[overlay.truth * 2 + overlay.prediction]
    return colours


def as_jpeg(picture: NDArray[np.uint8]) -> str:
    """Return the data URI of uint8[H,W,3] as a JPEG, scaled down to `MAX_SIDE`."""
    return _data_uri(picture, "jpeg", quality=85, subsampling=0)  # chroma subsampling would blur thin outlines


def as_png(picture: NDArray[np.uint8]) -> str:
    """Return the data URI of uint8[H,W,3] as a PNG, which suits a few flat colours."""
    return _data_uri(picture, "png", optimize=True)


def _data_uri(picture: NDArray[np.uint8], kind: str, **options: int) -> str:
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
