"""Read image and label files into arrays. Pillow decodes them; files that would lose information are rejected."""

import hashlib
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

from msal_deploy.data.arrays import ARRAY_SUFFIXES, read_array
from msal_deploy.data.png import check_png
from msal_deploy.errors import BadInput
from msal_deploy.files import regular_file

MODE_NAMES = {
    "1": "a 1-bit image",
    "L": "greyscale",
    "LA": "greyscale with an alpha channel",
    "I": "32-bit greyscale",
    "F": "floating-point greyscale",
    "P": "a palette image",
    "PA": "a palette image with an alpha channel",
    "RGBA": "RGB with transparent pixels (RGBA)",
    "CMYK": "CMYK",
}
RASTER_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
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
            (179 million), or is not 8-bit RGB. RGBA is, if it is opaque.
    """
    with opened_image(path) as image:
        if is_16_bit(path, image):
            raise BadInput(f"{path} has 16 bits per channel", "convert it to 8-bit RGB")
        if _is_opaque(image):
            return np.array(image, dtype=np.uint8)[..., :3].copy()
        if image.mode != "RGB":
            raise BadInput(f"{path} is {MODE_NAMES.get(image.mode, image.mode)}", "convert it to 8-bit RGB")
        return np.array(image, dtype=np.uint8)


def _is_opaque(image: Image.Image) -> bool:
    """Return whether the image is RGBA, and no pixel of it is transparent."""
    return image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255)


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width in pixels, read from the file's header.

    >>> image_size(Path("monuseg/MoNuSegTestData/SYNTH-TEST-000.tif"))
    (512, 512)

    Raises:
        BadInput: The file does not exist or is not an image.
    """
    with opened_image(path) as image:
        return image.height, image.width


def pixel_hash(image: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of an image's shape and pixels; it does not depend on the file format.

    >>> pixel_hash(np.zeros((2, 2, 3), np.uint8))[:8]
    '93d26e15'
    """
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def read_label(path: Path) -> NDArray[np.int32]:
    """Read an instance map or a binary mask: a picture, or an array (`read_array`).

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
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return _instances(read_array(path), path)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise BadInput(f"{path} is a JPEG, which blurs labels", "save label maps as PNG or TIFF")
    with opened_image(path) as image:
        if _is_opaque(image):
            return _instances(_grey(np.asarray(image)[..., :3].astype(np.int64), path), path)
        if image.mode not in LABEL_MODES and not image.mode.startswith("I;16"):
            mode = MODE_NAMES.get(image.mode, image.mode)
            raise BadInput(f"{path} is {mode}", "save labels as 8- or 16-bit greyscale")
        values = np.asarray(image).astype(np.int64)
    return _instances(_grey(values, path), path)


def read_masks(folder: Path) -> NDArray[np.int32]:
    """Read a folder with one mask for each nucleus, as int32[H,W]: n for the n-th file, 0 for background.

    Where masks overlap, the later file is on top.

    Raises:
        BadInput: A file cannot be read, or they differ in size.
    """
    labels: NDArray[np.int32] | None = None
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in RASTER_SUFFIXES)
    for number, path in enumerate(files, start=1):
        mask = read_label(path) > 0
        labels = np.zeros(mask.shape, dtype=np.int32) if labels is None else labels
        if mask.shape != labels.shape:
            raise BadInput(f"{path} and {files[0].name} differ in size", "give all masks the size of the image")
        labels[mask] = number
    if labels is None:
        raise BadInput(f"{folder} holds no masks", "add one for each nucleus")
    return labels


def _grey(values: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
    if values.ndim == 2:
        return values
    if (values != values[..., :1]).any():
        raise BadInput(f"{path} is a coloured label", "save an instance map (one value per nucleus) or a 0/255 mask")
    return values[..., 0]


def _instances(values: NDArray[np.int64], path: Path) -> NDArray[np.int32]:
    present = np.unique(values)
    if not present.size:
        raise BadInput(f"{path} has no pixels", "save it again")
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
    regular_file(path, "image")  # a FIFO would be waited for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.format == "PNG":
                    check_png(path)
                yield image
    except BadInput:
        raise
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
