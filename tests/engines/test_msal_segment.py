"""JPEG and TIFF: msal-segment reads the same pixels as Python, or refuses the file in one sentence."""

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from pixel_dump import read_by_cpp

from msal_deploy.errors import BadInput
from msal_deploy.prediction.readers.open import open_slide

MONUSEG = os.environ.get("MSAL_DEPLOY_MONUSEG")
HEIGHT, WIDTH = 45, 61
MPP = 0.25


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth colours with some noise, as in tissue."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5 + c) * np.cos(y / (7 + c)) for c in range(3)], -1)
    noise = np.random.default_rng(0).normal(0, 8, waves.shape)
    return np.clip(150 + 70 * waves + noise, 0, 255).astype(np.uint8)


def profile(name: str) -> bytes:
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return content.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x112] = orientation
    return tags.tobytes()


def jpeg(image: np.ndarray | Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
    opened.save(stream, "JPEG", **{"quality": 90, **options})
    return stream.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, metadata=None, **{"photometric": "rgb", **options})
    return stream.getvalue()


def pages(*shapes: tuple[int, int], **options: object) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for shape in shapes:
            file.write(picture(*shape), photometric="rgb", metadata=None, contiguous=False, **options)
    return stream.getvalue()


def pyramid() -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(picture(64, 96), photometric="rgb", subifds=1, tile=(32, 32), metadata=None)
        file.write(picture(32, 48), photometric="rgb", subfiletype=1, tile=(32, 32), metadata=None)
    return stream.getvalue()


def jpegs() -> Iterator[tuple[str, bytes]]:
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for progressive in (False, True):
            yield f"{subsampling} {progressive}", jpeg(picture(), subsampling=subsampling, progressive=progressive)
    yield "low quality", jpeg(picture(), quality=20)
    yield "odd size", jpeg(picture(17, 33))
    yield "grey", jpeg(picture()[..., 0])
    yield "RGB", jpeg(picture(), keep_rgb=True)
    yield "restarts", jpeg(picture(), restart_marker_blocks=2)
    yield "sRGB", jpeg(picture(), icc_profile=profile("sRGB"))
    yield "upright", jpeg(picture(), exif=exif(1))
    yield "bytes after the end", jpeg(picture()) + b"more"


def tiffs() -> Iterator[tuple[str, bytes]]:
    image = picture()
    for compression in (None, "lzw", "deflate", "packbits"):
        yield f"{compression}", tiff(image, compression=compression)
        yield f"{compression} strips", tiff(image, compression=compression, rowsperstrip=7)
        yield f"{compression} tiles", tiff(image, compression=compression, tile=(16, 32))
    yield "predictor", tiff(image, compression="lzw", predictor=True)
    yield "big endian", tiff(image, byteorder=">")
    yield "BigTIFF", tiff(image, bigtiff=True)
    yield "grey", tiff(image[..., 0], photometric="minisblack")
    yield "inverted grey", tiff(image[..., 0], photometric="miniswhite")
    yield "1 bit", tiff(image[..., 0] > 128, photometric="minisblack")
    yield "palette", tiff(image[..., 0], photometric="palette", colormap=palette())
    yield "planes", tiff(np.moveaxis(image, -1, 0), planarconfig="separate")
    yield "opaque", tiff(np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]), extrasamples=["unassalpha"])
    yield "upright", tiff(image, extratags=[(274, 3, 1, 1, True)])
    yield "sRGB", tiff(image, iccprofile=profile("sRGB"))
    yield "72 dpi", tiff(image, resolution=(72, 72), resolutionunit="inch")
    yield "pyramid", pyramid()
    yield "JPEG", tiff(picture(64, 96), compression="jpeg", compressionargs={"level": 90}, tile=(32, 48))


def palette() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16) * 257


READ = {"jpg": dict(jpegs()), "tif": dict(tiffs())}

# Both refuse these.
BOTH = {
    "16 bits": (tiff(picture().astype(np.uint16)), "has 16 bits per channel; convert it to 8-bit RGB"),
    "planes of 16 bits": (
        tiff(np.moveaxis(picture().astype(np.uint16), -1, 0), planarconfig="separate"),
        "has 16 bits per channel",
    ),
    "float": (tiff(picture().astype(np.float32)), "has 32 bits per channel; convert it to 8-bit RGB"),
    "signed": (tiff(picture().astype(np.int8)), "has pixels that are not unsigned numbers; convert it to 8-bit RGB"),
    "pages": (pages((20, 30), (20, 30)), "has several pages; convert it to 8-bit RGB"),
    "a promise": (tiff(picture())[:-5], "is not a readable TIFF ("),
}

# Python converts these.
ONLY_PYTHON = {
    "CMYK.jpg": (jpeg(Image.fromarray(picture()).convert("CMYK")), "is CMYK; convert it to 8-bit RGB"),
    "rotated.jpg": (jpeg(picture(), exif=exif(6)), "is stored rotated (EXIF); convert it to 8-bit RGB"),
    "profile.jpg": (jpeg(picture(), icc_profile=profile("mine")), "has a colour profile that is not sRGB;"),
    "CMYK.tif": (tiff(np.dstack([picture(), picture()[..., :1]]), photometric="separated"), "is CMYK;"),
    "rotated.tif": (tiff(picture(), extratags=[(274, 3, 1, 3, True)]), "is stored rotated; convert it to 8-bit RGB"),
    "profile.tif": (tiff(picture(), iccprofile=profile("mine")), "has a colour profile that is not sRGB;"),
    "transparent.tif": (
        tiff(np.dstack([picture(), picture()[..., :1]]), extrasamples=["unassalpha"]),
        "has transparent pixels; convert it to 8-bit RGB",
    ),
    "other sizes.tif": (pages((20, 30), (10, 15)), "has several pages; convert it to 8-bit RGB"),
}


def read_by_python(file: Path) -> np.ndarray:
    with open_slide(file, MPP, mpp=MPP) as slide:
        return slide.read(0, 0, *slide.shape)


def write(folder: Path, suffix: str, contents: list[bytes]) -> list[Path]:
    files = [folder / f"{index}.{suffix}" for index in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return files


@pytest.mark.parametrize("suffix", READ)
def test_both_read_the_same_pixels(dump: Path, tmp_path: Path, suffix: str) -> None:
    cases = READ[suffix]
    files = write(tmp_path, suffix, list(cases.values()))
    different = []
    for name, file, cpp in zip(cases, files, read_by_cpp(dump, files), strict=True):
        python = read_by_python(file)
        if isinstance(cpp, str):
            different.append(f"{name}: {cpp}")
        elif not np.array_equal(cpp, python):
            different.append(f"{name}: other pixels, by up to {np.abs(cpp.astype(int) - python).max()}")
    assert different == []


@pytest.mark.parametrize("case", BOTH)
def test_both_refuse(dump: Path, tmp_path: Path, case: str) -> None:
    content, message = BOTH[case]
    (file,) = write(tmp_path, "tif", [content])
    (cpp,) = read_by_cpp(dump, [file])
    assert isinstance(cpp, str) and f"{file} {message}" in cpp
    with pytest.raises(BadInput):
        read_by_python(file)


@pytest.mark.parametrize("case", ONLY_PYTHON)
def test_what_only_python_can_convert_is_refused(dump: Path, tmp_path: Path, case: str) -> None:
    content, message = ONLY_PYTHON[case]
    (file,) = write(tmp_path, case.partition(".")[2], [content])
    (cpp,) = read_by_cpp(dump, [file])
    assert isinstance(cpp, str) and f"{file} {message}" in cpp
    assert read_by_python(file).ndim == 3


def damaged(content: bytes) -> Iterator[bytes]:
    """All beginnings of a file, and copies with one bit that is wrong."""
    draw = random.Random(0)
    for at in range(len(content)):
        yield content[:at]
    for _ in range(300):
        at = draw.randrange(len(content))
        yield content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_damaged_files_are_refused_or_read_as_python_reads_them(dump: Path, tmp_path: Path, suffix: str) -> None:
    small = picture(16, 20)
    content = jpeg(small, quality=50) if suffix == "jpg" else tiff(small, compression="lzw", rowsperstrip=5)
    files = write(tmp_path, suffix, list(damaged(content)))
    (undamaged,) = read_by_cpp(dump, write(tmp_path, f"whole.{suffix}", [content]))
    refused, different = 0, []
    for index, (file, cpp) in enumerate(zip(files, read_by_cpp(dump, files), strict=True)):
        if isinstance(cpp, str):
            assert cpp.startswith((f"{file} ", "Expected up to 1000000 pixels in "))
            assert ";" in cpp and "\n" not in cpp
            refused += 1
            continue
        try:
            expected = read_by_python(file)
        except BadInput:
            expected = undamaged  # libtiff finds the pixels where tifffile does not trust the header
        if not np.array_equal(cpp, expected):
            different.append(index)
    assert different == []
    assert refused >= len(content)


@pytest.mark.skipif(not MONUSEG, reason="MSAL_DEPLOY_MONUSEG does not name a MoNuSeg copy")
def test_the_images_of_monuseg_are_read(dump: Path) -> None:
    files = sorted(Path(MONUSEG or "").rglob("*.tif"))
    assert len(files) == 44
    for file, cpp in zip(files, read_by_cpp(dump, files), strict=True):
        assert not isinstance(cpp, str), cpp
        np.testing.assert_array_equal(cpp, read_by_python(file))
