"""TIFF, BigTIFF and OME-TIFF, tile by tile through tifffile."""

import threading
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from defusedxml import ElementTree
from numpy.typing import NDArray

from msal_deploy.errors import BadInput, MissingExtra
from msal_deploy.prediction.readers.pyramid import PyramidSlide
from msal_deploy.prediction.slide import slide_name

MICRONS = {"µm": 1.0, "um": 1.0, "μm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
MAX_RATIO = 5000  # bytes of pixels for each byte of a file: more than any codec reaches, even on one colour
MAX_PICTURE = 100_000_000  # pixels that are decoded as one picture, through Pillow
PLAUSIBLE = (0.05, 10.0)  # µm/px; 72 dpi, which editors write, is 353 µm/px


class TiffSlide(PyramidSlide):
    """A TIFF of RGB pixels, of any size: only the tiles of a window are decoded."""

    def __init__(self, path: Path, mpp: float | None, model_mpp: float) -> None:
        """Open the file.

        Raises:
            BadInput: It is truncated, or not an 8-bit RGB or grey TIFF.
        """
        self._path, self._lock_file = path, threading.Lock()
        try:
            self._file = tifffile.TiffFile(path)
            series = self._file.series[0]
            pages = [level.keyframe for level in series.levels]
        except Exception as error:  # tifffile raises many exception types for damaged files
            raise BadInput(f"{path} is damaged or truncated ({error})", "copy it again") from error
        self._pages: list[Any] = pages
        for page in pages:
            _check_page(path, page)
        _check_axes(path, series)
        found = mpp or _resolution(path, self._file, pages[0])
        notes = [] if found else [f"{path.name} has no resolution: {model_mpp:g} µm/px, the model's, was assumed"]
        levels = [(page.imagelength, page.imagewidth) for page in pages]
        super().__init__(slide_name(path), str(path), levels, found or model_mpp, model_mpp, notes)

    def read_level(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Decode the tiles or strips of a window."""
        page = self._pages[level]
        if not page.is_tiled and page.compression == 1 and page.is_contiguous:
            return self._mapped(page, top, left, height, width)
        tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        across = -(-page.imagewidth // wide)
        window = np.full((height, width, 3), 255, np.uint8)
        rows, columns = range(top // tall, -(-(top + height) // tall)), range(left // wide, -(-(left + width) // wide))
        for row, column in product(rows, columns):
            tile = self._decoded(page, row * across + column)
            if tile is None:
                continue  # a tile of nothing: white
            y0, x0 = max(row * tall, top), max(column * wide, left)
            y1 = min(row * tall + tile.shape[0], top + height)
            x1 = min(column * wide + tile.shape[1], left + width)
            part = tile[y0 - row * tall : y1 - row * tall, x0 - column * wide : x1 - column * wide]
            window[y0 - top : y1 - top, x0 - left : x1 - left] = part
        return window

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _mapped(self, page: Any, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Read a window of pixels that are in the file as they are, however long its strips."""
        shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
        pixels = np.memmap(self._path, np.uint8, "r", page.dataoffsets[0], shape)
        window = np.array(pixels[top : top + height, left : left + width])
        return np.repeat(window, 3, axis=2) if page.samplesperpixel == 1 else window

    def _decoded(self, page: Any, index: int) -> NDArray[np.uint8] | None:
        """Return uint8[h,w,3 or 1] of a tile or strip; None if the file leaves it out."""
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:
            return None
        try:
            with self._lock_file:
                self._file.filehandle.seek(offset)
                data = self._file.filehandle.read(count)
            tile, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
        except Exception as error:  # the codecs raise many exception types
            if "'imagecodecs' package" in str(error):  # tifffile has no decoder for this compression itself
                raise MissingExtra("imagecodecs", "slides") from error
            raise BadInput(f"{self._path} is damaged at tile {index} ({error})", "copy it again") from error
        if tile is None:
            return None
        pixels: NDArray[np.uint8] = tile[0, : shape[1], : shape[2]]
        return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]


def is_simple(path: Path) -> bool:
    """Return whether a TIFF is 8-bit RGB or grey in one plane, which `TiffSlide` reads; also if it is damaged.

    Others, and those that are turned or have a colour profile, go through Pillow if they have one level.
    """
    try:
        with tifffile.TiffFile(path) as file:
            page = file.series[0].keyframe
            grey_or_rgb = page.samplesperpixel in (1, 3) and page.planarconfig == 1 and page.photometric in (1, 2, 6)
            turned = page.tags.valueof("Orientation", 1) != 1 or page.tags.valueof("InterColorProfile") is not None
            small = page.imagelength * page.imagewidth < MAX_PICTURE and len(file.series[0].levels) == 1
            return bool(grey_or_rgb and page.dtype == np.uint8 and not (turned and small))
    except Exception:  # TiffSlide says what is wrong
        return True


def _check_page(path: Path, page: Any) -> None:
    """Refuse what would be read wrongly, and headers that promise more than the file holds."""
    if page.dtype != np.uint8:
        raise BadInput(f"{path} has {page.dtype} pixels", "convert it to 8-bit RGB")
    if page.samplesperpixel not in (1, 3) or (page.samplesperpixel > 1 and page.planarconfig != 1):
        raise BadInput(f"{path} has {page.samplesperpixel} channels", "convert it to 8-bit RGB")
    if page.photometric not in (1, 2, 6):  # grey, RGB, YCbCr
        raise BadInput(f"{path} has {page.photometric.name} pixels", "convert it to 8-bit RGB")
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    expected = -(-page.imagelength // tall) * -(-page.imagewidth // wide)
    promised = page.imagelength * page.imagewidth * page.samplesperpixel
    size = path.stat().st_size
    if promised > MAX_RATIO * size:
        raise BadInput(
            f"{path} claims {page.imagewidth}×{page.imagelength} px but has {size} bytes",
            "copy it again",
        )
    if len(ends) < expected or max(ends, default=0) > size:
        raise BadInput(f"{path} is truncated: it ends before its last tile", "copy it again")


def _check_axes(path: Path, series: Any) -> None:
    """Refuse stacks and separate channels: the first plane would be taken for the whole."""
    extra = [axis for axis, extent in zip(series.axes, series.shape, strict=True) if axis not in "YXS" and extent > 1]
    if extra:
        raise BadInput(f"{path} has the axes {series.axes}", "save one image with interleaved RGB pixels")


def file_resolution(path: Path) -> float | None:
    """Return µm/px of a TIFF; None if it says nothing plausible."""
    with tifffile.TiffFile(path) as file:
        return _resolution(path, file, file.series[0].keyframe)


def _resolution(path: Path, file: tifffile.TiffFile, page: Any) -> float | None:
    x, y = _ome_resolution(file) or _tag_resolution(page) or (0.0, 0.0)
    if not all(PLAUSIBLE[0] <= value <= PLAUSIBLE[1] for value in (x, y)):
        return None
    if abs(x - y) > 0.02 * x:
        raise BadInput(f"The pixels of {path} are {x:.3f} by {y:.3f} µm, not square", "resample it, or give --mpp")
    return (x + y) / 2


def _ome_resolution(file: tifffile.TiffFile) -> tuple[float, float] | None:
    """Return µm/px of OME metadata."""
    if not file.ome_metadata:
        return None
    try:
        root = ElementTree.fromstring(file.ome_metadata)
        pixels = next(element for element in root.iter() if element.tag.endswith("}Pixels"))
        unit = MICRONS[pixels.get("PhysicalSizeXUnit", "µm")]
        return float(pixels.attrib["PhysicalSizeX"]) * unit, float(pixels.attrib["PhysicalSizeY"]) * unit
    except (ElementTree.ParseError, StopIteration, KeyError, ValueError):
        return None


def _tag_resolution(page: Any) -> tuple[float, float] | None:
    """Return µm/px of the resolution tags, if a microscope can have written them."""
    unit = {2: 25400.0, 3: 10000.0}.get(int(page.resolutionunit), 0.0)
    x, y = page.resolution
    return (unit / x, unit / y) if unit and x > 1 and y > 1 else None
