"""Image and label files as arrays. Pillow decodes; here is what is refused, and the sentence that says why."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from skimage.measure import label

from msal_deploy.errors import BadInput

MODE_NAMES = {
    "1": "a 1-bit image",
    "L": "greyscale",
    "LA": "greyscale with an alpha channel",
    "I": "32-bit greyscale",
    "F": "floating-point greyscale",
    "P": "a palette image",
    "PA": "a palette image with an alpha channel",
    "RGBA": "RGB with an alpha channel (RGBA)",
    "CMYK": "CMYK",
}
LABEL_MODES = ("1", "L", "P", "I", "RGB")
MAGIC = (b"II*", b"II+", b"MM", b"\x89PNG", b"\xff\xd8")  # TIFF, BigTIFF, PNG, JPEG
BITS_PER_SAMPLE = 258  # the TIFF tag
PNG_BIT_DEPTH = 24  # where a PNG's header holds it


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an RGB image of 8 bits a channel.

    Returns:
        uint8[H,W,3].

    Raises:
        BadInput: no file, no image, damaged or truncated, more pixels than Pillow's limit (179 million), or not 8-bit
            RGB.
    """
    with _opened(path) as image:
        if _is_16_bit(path, image):
            raise BadInput(f"{path} has 16 bits a channel; convert it to 8-bit RGB")
        if image.mode != "RGB":
            raise BadInput(f"{path} is {MODE_NAMES.get(image.mode, image.mode)}; convert it to 8-bit RGB")
        return np.array(image, dtype=np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width in pixels from the file's header; raises as `read_image` does for what is no image."""
    with _opened(path) as image:
        return image.height, image.width


def read_label(path: Path) -> NDArray[np.int32]:
    """Read an instance map or a binary mask.

    A file of two values, 0 and 255 or 0 and 1, is a binary mask: its instances are the 8-connected components, so
    touching nuclei count as one. Anything else is an instance map: a value is a nucleus. RGB files are taken where
    all three channels are equal.

    Returns:
        int32[H,W], 0 = background.

    Raises:
        BadInput: what `read_image` refuses of a file, a lossy or coloured label, or more than 31 bits.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise BadInput(f"{path} is a JPEG, which blurs labels; save label maps as PNG or TIFF")
    with _opened(path) as image:
        if image.mode not in LABEL_MODES and not image.mode.startswith("I;16"):
            raise BadInput(f"{path} is {MODE_NAMES.get(image.mode, image.mode)}; save labels as 8- or 16-bit greyscale")
        values = np.asarray(image).astype(np.int64)
    return _instances(_grey(values, path), path)


def _grey(values: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
    if values.ndim == 2:
        return values
    if (values != values[..., :1]).any():
        raise BadInput(f"{path} is a coloured label; save an instance map (one number a nucleus) or a 0/255 mask")
    return values[..., 0]


def _instances(values: NDArray[np.int64], path: Path) -> NDArray[np.int32]:
    present = np.unique(values)
    if present[0] < 0 or present[-1] > np.iinfo(np.int32).max:
        raise BadInput(f"{path} holds values from {present[0]} to {present[-1]}; labels are 0 (background) and above")
    if set(present.tolist()) <= {0, 255} or set(present.tolist()) <= {0, 1}:
        return np.asarray(label(values > 0), dtype=np.int32)  # type: ignore[no-untyped-call]
    return values.astype(np.int32)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Yield the opened image; whatever Pillow raises or warns about becomes one `BadInput`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                yield image
    except BadInput:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"There is no file {path}") from error
    except UnidentifiedImageError as error:
        raise BadInput(_why_unidentified(path)) from error
    except Image.DecompressionBombError as error:
        raise BadInput(f"{path} has more than 179 million pixels; cut it into smaller images") from error
    except Exception as error:  # Damaged files make Pillow's decoders raise nearly anything.
        raise BadInput(f"{path} is damaged or truncated ({error}); copy it again") from error


def _is_16_bit(path: Path, image: Image.Image) -> bool:
    # Pillow opens 16-bit RGB as mode RGB and drops the low bytes without a word.
    if image.format == "PNG":
        with path.open("rb") as stream:
            return stream.read(PNG_BIT_DEPTH + 1)[PNG_BIT_DEPTH] == 16
    if image.format == "TIFF":
        return 16 in image.tag_v2.get(BITS_PER_SAMPLE, ())  # type: ignore[attr-defined]
    return image.mode.startswith("I;16")


def _why_unidentified(path: Path) -> str:
    # Of a TIFF that Pillow does not know (16-bit planar, floating point), tifffile can at least tell what it is.
    with path.open("rb") as stream:
        start = stream.read(4)
    if not start.startswith(MAGIC):
        return f"{path} is not an image that can be read; give a TIFF, PNG or JPEG"
    logger = logging.getLogger("tifffile")
    logger.addFilter(_nothing)
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            return f"{path} is a TIFF of {page.dtype}, shape {page.shape}; convert it to 8-bit RGB"
    except Exception:  # No TIFF, or one too damaged for tifffile as well.
        return f"{path} is damaged or truncated; copy it again"
    finally:
        logger.removeFilter(_nothing)


def _nothing(_: logging.LogRecord) -> bool:
    return False
