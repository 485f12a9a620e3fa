"""Images."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from good import ENGINE
from stage import CANARY, EITHER, REFUSED, Case

from corpus.damage import REFUSED_OR_PROBLEM, Make, both, copy, damages, oddities, write


def images(source: Path) -> Iterator[Case]:
    predict = ("--bundle", "../good/bundle", "--engine", ENGINE, "--mpp", "0.25", "--out", "out")
    for name in ("image.png", "image.tif", "image.jpg"):
        for title, content in damages((source / name).read_bytes(), name, flips=6).items():
            exits = EITHER if title.startswith(("flipped", "cut")) else REFUSED
            yield Case("images", f"{name} {title}", ("predict", name, *predict), write(name, content), exits)
        for title, make in oddities(name).items():
            yield Case("images", f"{name} is {title}", ("predict", name, *predict), make)
    for title, content in made_images().items():
        yield Case("images", title, ("predict", "a.png", *predict), write("a.png", content), frozenset({0, 2}))
    for title, content in made_images().items():
        make = both(copy("data"), image_of_set(content))
        yield Case("images", f"{title} in a set", ("data", "verify", "data"), make, frozenset({0, 1, 2}))
    stem = next(iter(sorted((source / "data").rglob("*.tif"))))
    inside = stem.relative_to(source)
    for title, content in damages(stem.read_bytes(), "set", flips=4).items():
        exits = EITHER if title.startswith(("flipped", "cut")) else REFUSED_OR_PROBLEM
        make = both(copy("data"), write(str(inside), content))
        yield Case("images", f"image of a set: {title}", ("data", "verify", "data"), make, exits)
    for title, odd in oddities(str(inside)).items():
        exits = EITHER if title == "missing" else REFUSED_OR_PROBLEM
        yield Case("images", f"image of a set is {title}", ("data", "verify", "data"), both(copy("data"), odd), exits)


def image_of_set(content: bytes) -> Make:
    def make(folder: Path) -> None:
        first = min((folder / "data").rglob("*.tif"))
        first.unlink()
        first.with_suffix(".png").write_bytes(content)

    return make


def made_images() -> dict[str, bytes]:
    """Return pictures of unusual kinds."""
    import tifffile
    from PIL import Image

    rgb = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)

    def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
        stream = io.BytesIO()
        image.save(stream, form, **options)
        return stream.getvalue()

    def tiff(array: np.ndarray, **options: object) -> bytes:
        stream = io.BytesIO()
        tifffile.imwrite(stream, array, **options)
        return stream.getvalue()

    picture = Image.fromarray(rgb)
    png = saved(picture)
    found = {mode: saved(picture.convert(mode)) for mode in ("1", "L", "P", "LA", "RGBA", "I;16")}
    found |= {f"{mode} JPEG": saved(picture.convert(mode), "JPEG") for mode in ("L", "CMYK", "YCbCr")}
    found |= {
        form: saved(picture, form) for form in ("GIF", "BMP", "WEBP", "PPM", "ICO", "TGA", "PCX", "PDF", "JPEG2000")
    }
    clear = np.dstack([rgb, np.zeros((64, 64), np.uint8)])
    found["transparent"] = saved(Image.fromarray(clear, "RGBA"))
    found["animation"] = saved(picture, "PNG", save_all=True, append_images=[picture.rotate(90)])
    found["1 × 1 px"] = saved(Image.fromarray(rgb[:1, :1]))
    found["1 × 64 px"] = saved(Image.fromarray(rgb[:1]))
    for title, width, height in (("huge", 100_000, 100_000), ("no width", 0, 64), ("widest", 2**31 - 1, 1)):
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        import zlib

        chunk = b"IHDR" + header
        found[f"{title} by its header"] = (
            png[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
        )
    found["without an end"] = png[:-12]
    found["with a bad checksum"] = png[:29] + b"\0\0\0\0" + png[33:]
    found["with bytes after it"] = png + b"PK\x03\x04" * 100
    for kind in ("uint16", "int16", "float32", "float64", "complex64", "bool", "int8"):
        found[f"TIFF of {kind}"] = tiff(rgb.astype(kind), photometric="rgb" if kind == "uint16" else None)
    nan = rgb.astype(np.float32)
    nan[0] = np.nan
    found["TIFF with NaN"] = tiff(nan)
    found["TIFF of 2 channels"] = tiff(rgb[..., :2])
    found["TIFF of 5 channels"] = tiff(np.dstack([rgb, rgb[..., :2]]))
    found["TIFF of 3 pages"] = tiff(np.stack([rgb, rgb, rgb]), photometric="rgb")
    found["TIFF of planes"] = tiff(np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate")
    found["TIFF of zeros"] = tiff(np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    found["SVG"] = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'
    found["shell script"] = f"#!/bin/sh\ntouch {CANARY}\n".encode()
    found["PostScript"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(PWNED) (w) file closefile\nshowpage\n"
    return found
