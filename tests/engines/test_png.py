"""Every kind of PNG: the C++ programs read the same pixels as Python, or both refuse it."""

import itertools
import os
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from pixel_dump import read_by_cpp

from msal_deploy.errors import BadInput
from msal_deploy.prediction.readers.pictures import read_picture

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
HEIGHT, WIDTH = 11, 13


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def packed(values: np.ndarray, depth: int) -> bytes:
    """The rows of int[H,W,C] with filter 0."""
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    elif depth == 8:
        rows = [row.astype(np.uint8).tobytes() for row in values]
    else:
        bits = (values[..., 0, None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = [np.packbits(row.ravel()).tobytes() for row in bits]
    return b"".join(b"\0" + row for row in rows)


def png(colour: int, depth: int, more: bytes = b"", interlaced: bool = False, after: bytes = b"") -> bytes:
    rng = np.random.default_rng(colour * 100 + depth)
    values = rng.integers(0, 2**depth, (HEIGHT, WIDTH, CHANNELS[colour]))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlaced)
    passes = [values[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [values]
    pixels = zlib.compress(b"".join(packed(one, depth) for one in passes if one.size))
    palette = chunk(b"PLTE", rng.integers(0, 256, 3 * 2**depth, np.uint8).tobytes()) if colour == PALETTE else b""
    half = len(pixels) // 2
    data = chunk(b"IDAT", pixels[:half]) + chunk(b"IDAT", pixels[half:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + split(more, palette) + data + after + chunk(b"IEND", b"")


def split(more: bytes, palette: bytes) -> bytes:
    """tRNS comes after the palette, the others before."""
    return palette + more if more[4:8] == b"tRNS" else more + palette


def exif(orientation: int) -> bytes:
    return chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 0x112, 3, 1, orientation, 0, 0))


def xmp(orientation: int) -> bytes:
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="%d"/>' % orientation)


def profile(space: str = "sRGB", name: str = "sRGB") -> bytes:
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()  # type: ignore[arg-type]
    content = content.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))
    return chunk(b"iCCP", b"p\0\0" + zlib.compress(content))


def with_bytes(content: bytes, at: int, value: int) -> bytes:
    return content[:at] + bytes([content[at] ^ value]) + content[at + 1 :]


def cases() -> Iterator[tuple[str, bytes]]:
    for colour, interlaced in itertools.product(DEPTHS, (False, True)):
        for depth in DEPTHS[colour]:
            yield f"{colour} {depth} {interlaced}", png(colour, depth, interlaced=interlaced)
    for name, more in {
        "gAMA": chunk(b"gAMA", struct.pack(">I", 100_000)),
        "gAMA 1.8": chunk(b"gAMA", struct.pack(">I", 55_556)),
        "gAMA 0": chunk(b"gAMA", struct.pack(">I", 0)),
        "sRGB": chunk(b"sRGB", b"\0"),
        "cHRM": chunk(b"cHRM", struct.pack(">8I", *[31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000])),
        "iCCP sRGB": profile(),
        "iCCP of another colour space": profile("LAB"),
        "iCCP damaged": chunk(b"iCCP", b"p\0\0" + b"nonsense"),
        "pHYs": chunk(b"pHYs", struct.pack(">IIB", 1, 2, 0)),
        "sBIT": chunk(b"sBIT", bytes([5, 6, 5])),
        "bKGD": chunk(b"bKGD", struct.pack(">HHH", 1, 2, 3)),
        "tEXt": chunk(b"tEXt", b"Title\0a"),
        "private": chunk(b"prVt", b"abc"),
        "critical": chunk(b"CgBI", b"\x50\0\x20\x06"),
        "upright": exif(1),
        "upright XMP": xmp(1),
        "animation": chunk(b"acTL", struct.pack(">II", 1, 0))
        + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0)),
    }.items():
        yield name, png(RGB, 8, more)
    for colour in (GREY, RGBA, GREY_ALPHA, PALETTE):
        yield f"gAMA {colour}", png(colour, 8, chunk(b"gAMA", struct.pack(">I", 100_000)))
    for depth in DEPTHS[GREY]:
        for level in (0, 1, 2**depth - 1):
            yield f"tRNS grey {depth} {level}", png(GREY, depth, chunk(b"tRNS", struct.pack(">H", level)))
    first = np.random.default_rng(208).integers(0, 256, (HEIGHT, WIDTH, 3))[0, 0]
    yield "tRNS RGB", png(RGB, 8, chunk(b"tRNS", struct.pack(">3H", *map(int, first))))
    for depth in DEPTHS[PALETTE]:
        for alphas in (b"\0", b"\xff\0", bytes(range(2**depth))[: 2**depth], b"\x80\x40"):
            yield f"tRNS palette {depth} {alphas[:4]!r}", png(PALETTE, depth, chunk(b"tRNS", alphas))
    whole = png(RGB, 8, chunk(b"tEXt", b"Title\0a"), after=chunk(b"tEXt", b"Title\0b"))
    draw = random.Random(0)
    for at in sorted({*range(8, 41), *(draw.randrange(41, len(whole)) for _ in range(60))}):
        yield f"byte {at}", with_bytes(whole, at, 1 << draw.randrange(8))
        yield f"cut at {at}", whole[:at]
    yield "bytes after the end", whole + b"more"
    yield "no IEND", whole[:-12]
    yield "empty", b""


CASES = dict(cases())
# Python converts these; C++ has no colour management and refuses them.
ONLY_PYTHON = {"iCCP": profile(name="mine"), "rotated": exif(6), "rotated XMP": xmp(3)}


def write(folder: Path, cases: dict[str, bytes]) -> list[Path]:
    files = [folder / f"{index}.png" for index in range(len(cases))]
    for file, content in zip(files, cases.values(), strict=True):
        file.write_bytes(content)
    return files


def test_both_read_the_same_pixels_or_both_refuse(dump: Path, tmp_path: Path) -> None:
    files = write(tmp_path, CASES)
    different, read = [], 0
    for (name, content), file, cpp in zip(CASES.items(), files, read_by_cpp(dump, files), strict=True):
        try:
            python = read_picture(file)[0]
        except BadInput as error:
            if not isinstance(cpp, str):
                different.append(f"{name}: only Python refuses it: {error}")
            continue
        if isinstance(cpp, str):
            different.append(f"{name}: only C++ refuses it: {cpp}")
        elif not np.array_equal(cpp, python):
            different.append(f"{name}: other pixels, {len(content)} bytes")
        read += 1
    assert different == []
    assert read > 60


def test_16_bits_are_refused_by_both(dump: Path, tmp_path: Path) -> None:
    files = write(tmp_path, {str(colour): png(colour, 16) for colour in (GREY, RGB, GREY_ALPHA, RGBA)})
    for file, cpp in zip(files, read_by_cpp(dump, files), strict=True):
        assert cpp == f"{file} has 16 bits per channel; convert it to 8-bit RGB"
        with pytest.raises(BadInput, match="8 bits per channel"):
            read_picture(file)


def test_what_only_python_can_convert_is_refused_by_cpp(dump: Path, tmp_path: Path) -> None:
    files = write(tmp_path, {name: png(RGB, 8, more) for name, more in ONLY_PYTHON.items()})
    for cpp in read_by_cpp(dump, files):
        assert isinstance(cpp, str) and cpp.endswith("; convert it to 8-bit RGB")


def test_what_is_not_a_file_is_refused(dump: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    for cpp in read_by_cpp(dump, [tmp_path / "fifo.png", tmp_path]):
        assert str(cpp).endswith("is not a regular file; name an image")


def test_transparency_is_blended_like_pillow(dump: Path, tmp_path: Path) -> None:
    values = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).astype(np.uint8)
    rgba = np.concatenate([values[..., [0, 0, 0]], values[..., [1]]], -1)  # each level with each alpha
    Image.fromarray(rgba).save(tmp_path / "a.png")
    (cpp,) = read_by_cpp(dump, [tmp_path / "a.png"])
    np.testing.assert_array_equal(cpp, read_picture(tmp_path / "a.png")[0])
