"""Open an image or slide with the reader of its format."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput, translate_missing_extra
from msal_deploy.files import StrPath, regular_file, sha256
from msal_deploy.prediction.readers.pictures import Picture, check_array, read_picture
from msal_deploy.prediction.slide import Slide, slide_name

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
TIFFS = (".tif", ".tiff", ".btf", ".tf8", ".tf2")
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".czi")
MIN_MPP, MAX_MPP = 0.01, 10.0


def open_slide(source: StrPath | NDArray[np.uint8], model_mpp: float, *, mpp: float | None = None) -> Slide:
    """Open an image or slide of any format.

    >>> with open_slide("monuseg/MoNuSegTestData/SYNTH-TEST-000.tif", 0.25, mpp=0.5) as slide:
    ...     slide.shape, slide.scale, slide.read(0, 0, 10, 20).shape
    ((1024, 1024), 0.5, (10, 20, 3))

    Args:
        source: A file, a folder of OME-Zarr, or uint8[H,W,3], RGB.
        model_mpp: The model's resolution in µm/px, which the slide is read at.
        mpp: µm/px of level 0, which replaces the file's.

    Raises:
        BadInput: The file does not exist, is of no known format or damaged, or has no resolution though its format
            should.
        MissingExtra: The format needs a package that is not installed.
    """
    if mpp is not None and not MIN_MPP <= mpp <= MAX_MPP:
        raise BadInput(f"Expected a resolution from {MIN_MPP} to {MAX_MPP} µm/px, got {mpp:g}", "check --mpp")
    if isinstance(source, np.ndarray):
        return Picture(check_array(source), "array", "array", mpp or model_mpp, model_mpp, ())
    path = Path(source)
    if path.is_dir():
        return _folder(path, model_mpp, mpp)
    regular_file(path, "image")
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return _picture(path, model_mpp, mpp)
    if suffix in SLIDES or (suffix in TIFFS and _vendor(path) not in (None, "generic-tiff")):
        return _openslide(path, model_mpp, mpp)
    if suffix in TIFFS:
        return _tiff(path, model_mpp, mpp)
    raise BadInput(f"{path} has no known format", f"use one of {', '.join((*PICTURES[:3], *TIFFS[:2], *SLIDES[:7]))}")


def _picture(path: Path, model_mpp: float, mpp: float | None) -> Slide:
    image, notes = read_picture(path)
    if mpp is None and path.suffix.lower() in TIFFS:
        from msal_deploy.prediction.readers.tiff import file_resolution

        mpp = file_resolution(path)
    if mpp is None:
        notes.insert(0, f"{path.name} has no resolution: {model_mpp:g} µm/px, the model's, was assumed")
    return Picture(image, slide_name(path), str(path), mpp or model_mpp, model_mpp, tuple(notes))


def _folder(path: Path, model_mpp: float, mpp: float | None) -> Slide:
    if not any((path / name).exists() for name in (".zattrs", ".zgroup", "zarr.json")):
        raise BadInput(f"{path} is a folder", "name the files in it")
    with translate_missing_extra():
        import zarr  # noqa: F401
    from msal_deploy.prediction.readers.ome_zarr import OmeZarrSlide

    return OmeZarrSlide(path, mpp, model_mpp)


def _tiff(path: Path, model_mpp: float, mpp: float | None) -> Slide:
    from msal_deploy.prediction.readers.tiff import TiffSlide, is_simple

    return _picture(path, model_mpp, mpp) if not is_simple(path) else TiffSlide(path, mpp, model_mpp)


def _vendor(path: Path) -> str | None:
    """Return the scanner's format of a TIFF; None if OpenSlide is not installed or does not know it."""
    try:
        import openslide
    except ImportError:
        return None
    return str(found) if (found := openslide.OpenSlide.detect_format(path)) else None


def _openslide(path: Path, model_mpp: float, mpp: float | None) -> Slide:
    with translate_missing_extra():
        import openslide  # noqa: F401
    from msal_deploy.prediction.readers.openslide import OpenSlideSlide

    if _vendor(path) is None:
        raise BadInput(f"{path} is not a slide that OpenSlide can read", "check that it is complete")
    return OpenSlideSlide(path, mpp, model_mpp)


def source_sha256(source: StrPath | NDArray[np.uint8]) -> str:
    """Return the SHA-256 of an image: of its file, or an array's shape and pixels.

    Of a folder, and of the other files of a slide that has several, names and sizes count.

    >>> source_sha256(np.zeros((1, 1, 3), np.uint8))[:8]
    '5b5b6c1f'
    """
    if isinstance(source, np.ndarray):
        return hashlib.sha256(str(source.shape).encode() + np.ascontiguousarray(source).tobytes()).hexdigest()
    path = Path(source)
    others = _companions(path)
    if not others:
        return sha256(path)
    files = sorted((str(file.relative_to(path.parent)), file.stat().st_size) for file in others if file.is_file())
    return hashlib.sha256(repr((files, "" if path.is_dir() else sha256(path))).encode()).hexdigest()


def _companions(path: Path) -> list[Path]:
    """Return the other files of an image: the content of a folder, and what some scanners put beside the named file."""
    if path.is_dir():
        return list(path.rglob("*"))
    if path.suffix.lower() == ".mrxs":
        return list(path.with_suffix("").rglob("*"))
    return list(path.parent.iterdir()) if path.suffix.lower() in (".vms", ".vmu", ".dcm") else []
