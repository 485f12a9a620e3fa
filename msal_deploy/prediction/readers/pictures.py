"""Pictures in memory: arrays, and the files that Pillow decodes."""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from msal_deploy.data.images import MODE_NAMES, is_16_bit, opened_image
from msal_deploy.errors import BadInput
from msal_deploy.prediction.readers.pyramid import PyramidSlide


class Picture(PyramidSlide):
    """An image in memory.

    Attributes:
        image: uint8[H,W,3].
    """

    def __init__(
        self, image: NDArray[np.uint8], name: str, source: str, mpp: float, model_mpp: float, notes: tuple[str, ...]
    ) -> None:
        self.image = image
        super().__init__(name, source, [(image.shape[0], image.shape[1])], mpp, model_mpp, notes)

    def read_level(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a copy of a window."""
        return self.image[top : top + height, left : left + width].copy()

    def close(self) -> None:
        """There is nothing to close."""


def check_array(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an array if it is an image.

    Raises:
        BadInput: It is not uint8[H,W,3] with at least one pixel.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise BadInput(f"Expected an image uint8[H,W,3], got {image.dtype}{list(image.shape)}", "pass RGB, 0 to 255")
    return image


def read_picture(path: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """Return a PNG, JPEG or small TIFF as uint8[H,W,3], upright and in sRGB, and notes on what was converted.

    Raises:
        BadInput: The file cannot be read, or has 16 bits per channel.
    """
    with opened_image(path) as image:
        if is_16_bit(path, image) or image.mode in ("I", "F"):
            raise BadInput(f"{path} has more than 8 bits per channel", "convert it to 8-bit RGB")
        profile = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(image)
        notes = [] if upright.mode == "RGB" else [f"{path.name} is {MODE_NAMES.get(image.mode, image.mode)}: converted"]
        converted = _over_white(upright) if "A" in upright.mode or "transparency" in upright.info else upright
        if profile and converted.mode in ("RGB", "CMYK"):
            converted, note = _to_srgb(converted, profile, path.name)
            notes += note
        return np.array(converted.convert("RGB"), dtype=np.uint8), notes


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes, name: str) -> tuple[Image.Image, list[str]]:
    """Apply an embedded colour profile; one that is damaged is left out, and said so."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        description = ImageCms.getProfileDescription(source).strip()
        if "sRGB" in description:
            return image, []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        return image, [f"{name}: its colour profile cannot be used ({error})"]
    assert converted is not None
    return converted, [f"{name}: converted from its colour profile ({description}) to sRGB"]
