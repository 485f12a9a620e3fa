"""Read image and label files into arrays. Pillow decodes them; files that would lose information are rejected."""

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

from msal_deploy.data.png import check_png
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
PNG_BIT_DEPTH = 24  # offset of the bit depth in a PNG's header


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an RGB image with 8 bits per channel.

    >>> read_image(Path("monuseg/MoNuSegTestData/SYNTH-TEST-000.tif")).shape
    (512, 512, 3)

    Returns:
        uint8[H,W,3].

    Raises:
        BadInput: The file does not exist, is not an image, is damaged or truncated, has more pixels than Pillow's limit
            (179 million), or is not 8-bit RGB.
    """
    with opened_image(path) as image:
        if is_16_bit(path, image):
            raise BadInput(f"{path} has 16 bits per channel", "convert it to 8-bit RGB")
        if image.mode != "RGB":
            raise BadInput(f"{path} is {MODE_NAMES.get(image.mode, image.mode)}", "convert it to 8-bit RGB")
        return np.array(image, dtype=np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width in pixels, read from the file's header.

    >>> image_size(Path("monuseg/MoNuSegTestData/SYNTH-TEST-000.tif"))
    (512, 512)

    Raises:
        BadInput: The file does not exist or is not an image.
    """
    with opened_image(path) as image:
        return image.height, image.width


def read_label(path: Path) -> NDArray[np.int32]:
    """Read an instance map or a binary mask.

    A file that holds only the values 0 and 255, or 0 and 1, is a binary mask: its nuclei are the 8-connected
    components, so touching nuclei count as one. Any other file is an instance map, with one value per nucleus. RGB
    files are accepted if all three channels are equal.

    >>> labels = read_label(Path("monuseg/MoNuSeg 2018 Training Data/Instance Maps/SYNTH-TRAIN-000.png"))
    >>> labels.shape, labels.dtype
    ((512, 512), dtype('int32'))

    Returns:
        int32[H,W], 0 for background.

    Raises:
        BadInput: The file cannot be read, is a JPEG, is coloured, or holds negative values or values above 31 bits.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise BadInput(f"{path} is a JPEG, which blurs labels", "save label maps as PNG or TIFF")
    with opened_image(path) as image:
        if image.mode not in LABEL_MODES and not image.mode.startswith("I;16"):
            mode = MODE_NAMES.get(image.mode, image.mode)
            raise BadInput(f"{path} is {mode}", "save labels as 8- or 16-bit greyscale")
        values = np.asarray(image).astype(np.int64)
    return _instances(_grey(values, path), path)


def _grey(values: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
    if values.ndim == 2:
        return values
    if (values != values[..., :1]).any():
        raise BadInput(f"{path} is a coloured label", "save an instance map (one value per nucleus) or a 0/255 mask")
    return values[..., 0]


def _instances(values: NDArray[np.int64], path: Path) -> NDArray[np.int32]:
    present = np.unique(values)
    if present[0] < 0 or present[-1] > np.iinfo(np.int32).max:
        raise BadInput(
            f"Expected labels from 0 (background) to 2**31 - 1, got {present[0]} to {present[-1]} in {path}",
            "save it as an 8- or 16-bit instance map",
        )
    if set(present.tolist()) <= {0, 255} or set(present.tolist()) <= {0, 1}:
        return np.asarray(label(values > 0), dtype=np.int32)  # type: ignore[no-untyped-call]
    return values.astype(np.int32)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Yield the opened image, without Pillow's warnings; its exceptions become `BadInput`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.format == "PNG":
                    check_png(path)
                yield image
    except BadInput:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist", "check the path") from error
    except UnidentifiedImageError as error:
        raise _unidentified(path) from error
    except Image.DecompressionBombError as error:
        raise BadInput(f"{path} has more than 179 million pixels", "cut it into smaller images") from error
    except Exception as error:  # Pillow's decoders raise many exception types for damaged files.
        raise BadInput(f"{path} is damaged or truncated ({error})", "copy it again") from error


def is_16_bit(path: Path, image: Image.Image) -> bool:
    """Return whether the file of an opened image has 16 bits per channel."""
    # Pillow opens 16-bit RGB as mode RGB and drops the low bytes silently.
    if image.format == "PNG":
        with path.open("rb") as stream:
            return stream.read(PNG_BIT_DEPTH + 1)[PNG_BIT_DEPTH] == 16
    if image.format == "TIFF":
        return 16 in image.tag_v2.get(BITS_PER_SAMPLE, ())  # type: ignore[attr-defined]
    return image.mode.startswith("I;16")


def _unidentified(path: Path) -> BadInput:
    # Pillow cannot open some TIFFs (16-bit planar, floating point); tifffile can still describe them.
    with path.open("rb") as stream:
        start = stream.read(4)
    if not start.startswith(MAGIC):
        return BadInput(f"{path} is not an image that can be read", "use a TIFF, PNG or JPEG")
    logger = logging.getLogger("tifffile")
    logger.addFilter(_drop)
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            return BadInput(f"{path} is a TIFF of {page.dtype}, shape {page.shape}", "convert it to 8-bit RGB")
    except Exception:  # not a TIFF, or too damaged for tifffile as well
        return BadInput(f"{path} is damaged or truncated", "copy it again")
    finally:
        logger.removeFilter(_drop)


def _drop(_: logging.LogRecord) -> bool:
    return False
