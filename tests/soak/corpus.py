"""The bad inputs, by class. All are made from the good ones, and the same on every run."""

import io
import itertools
import json
import os
import pickle
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from good import ENGINE, PLAN, REFERENCE, link, replace
from stage import CANARY, EITHER, REFUSED, Case

DONE = frozenset({0})
PROBLEM = frozenset({1})
REFUSED_OR_PROBLEM = frozenset({1, 2})
Make = Callable[[Path], object]


def good(folder: Path) -> Path:
    """Return the good inputs, beside the case's folder."""
    return folder.parent / "good"


def damages(content: bytes, seed: str, flips: int = 4) -> dict[str, bytes]:
    """Return what bad luck makes of a file's content."""
    rng = random.Random(seed)
    found = {
        "empty": b"",
        "one byte": content[:1],
        "cut at 10%": content[: len(content) // 10],
        "cut at 50%": content[: len(content) // 2],
        "cut by 1 byte": content[:-1],
        "text": b"this is not what you expect\n",
        "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "zeros": bytes(len(content)),
        "noise": rng.randbytes(min(len(content), 20000)),
        "git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    }
    for index in range(flips):
        flipped = bytearray(content)
        for _ in range(1 + len(content) // 2000):
            flipped[rng.randrange(min(len(flipped), 4096))] ^= 1 << rng.randrange(8)
        found[f"flipped {index}"] = bytes(flipped)
    return found


def later(path: Path, seed: str) -> dict[str, Callable[[], bytes]]:
    """Return the same for a large file, made when it is needed."""
    titles = damages(bytes(100), seed, 0)
    return {title: (lambda title=title: damages(path.read_bytes(), seed, 0)[title]) for title in titles}


def linked_folder(path: Path) -> None:
    """Make a link to an empty folder beside it."""
    path.with_name("empty").mkdir()
    path.symlink_to("empty")


def oddities(name: str) -> dict[str, Make]:
    """Return things that are not files."""

    def at(make: Callable[[Path], object]) -> Make:
        def write(folder: Path) -> None:
            path = folder / name
            if path.is_symlink() or path.is_file():
                path.unlink()
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)

        return write

    return {
        "a folder": at(lambda path: path.mkdir()),
        "a FIFO": at(os.mkfifo),
        "a dangling link": at(lambda path: path.symlink_to("nowhere")),
        "a circle of links": at(lambda path: path.symlink_to(path.name)),
        "a link to a device": at(lambda path: path.symlink_to("/dev/zero")),
        "a link to a folder": at(linked_folder),
        "missing": at(lambda path: None),
    }


def write(name: str, content: bytes | Callable[[], bytes]) -> Make:
    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, content if isinstance(content, bytes) else content())

    return make


def both(*makes: Make) -> Make:
    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def copy(*names: str) -> Make:
    def make(folder: Path) -> None:
        for name in names:
            link(good(folder) / name, folder / name)

    return make


# Images


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


# Labels


def labels(source: Path) -> Iterator[Case]:
    """Label maps and NumPy or MATLAB arrays beside an image that has no other label."""
    from PIL import Image

    def saved(array: np.ndarray, form: str = "PNG") -> bytes:
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, form)
        return stream.getvalue()

    def npy(array: np.ndarray, **options: bool) -> bytes:
        stream = io.BytesIO()
        np.save(stream, array, **options)
        return stream.getvalue()

    def npz(**arrays: np.ndarray) -> bytes:
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        return stream.getvalue()

    side = 256
    label = np.zeros((side, side), np.int32)
    label[20:40, 20:40], label[60:90, 60:90] = 1, 2
    maps = {
        "all background": saved(np.zeros((side, side), np.uint8)),
        "all nucleus": saved(np.full((side, side), 255, np.uint8)),
        "another size": saved(label[:100, :90].astype(np.uint8)),
        "RGB": saved(np.dstack([label * 100] * 3).astype(np.uint8)),
        "RGBA": saved(np.dstack([label * 100] * 4).astype(np.uint8)),
        "noise": saved(np.random.default_rng(0).integers(0, 255, (side, side), np.uint8)),
        "JPEG": saved((label > 0).astype(np.uint8) * 255, "JPEG"),
        "transposed": saved(label.T[:, :100].astype(np.uint8)),
    }
    for title, content in {**maps, **damages(maps["RGB"], "map", 6)}.items():
        exits = EITHER if title in maps or title.startswith(("flipped", "cut")) else REFUSED_OR_PROBLEM
        yield Case("labels", f"map: {title}", ("data", "verify", "set"), labelled("png", content), exits)
    for title, odd in oddities("set/test/masks/a.png").items():
        make = both(labelled("png", maps["RGB"]), odd)
        yield Case(
            "labels",
            f"map is {title}",
            ("data", "verify", "set"),
            make,
            EITHER if title == "missing" else REFUSED_OR_PROBLEM,
        )
    payload = npy(np.array([Payload()], dtype=object), allow_pickle=True)
    arrays = {
        "pickled objects": payload,
        "NaN": npy(np.full((side, side), np.nan)),
        "negative": npy(label - 5),
        "complex": npy(label.astype(complex)),
        "text": npy(np.full((side, side), "nucleus")),
        "3 dimensions": npy(np.stack([label] * 7)),
        "1 dimension": npy(label.ravel()),
        "0 dimensions": npy(np.array(1)),
        "no pixels": npy(np.zeros((0, 0), np.int32)),
        "2**40 × 2**40 by its header": npy(label).replace(b"(256, 256)", b"(2**40,2**40)"[:10].ljust(10)),
        "a huge header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{}",
        "an unknown version": b"\x93NUMPY\x09\x09" + npy(label)[8:],
        "code as its header": b"\x93NUMPY\x01\x00"
        + struct.pack("<H", 64)
        + b"__import__('os').system('touch PWNED')".ljust(64),
        "another size": npy(label[:10]),
    }
    for title, content in {**arrays, **damages(npy(label), "npy", 4)}.items():
        exits = EITHER if title.startswith(("flipped", "negative", "another", "NaN")) else REFUSED_OR_PROBLEM
        yield Case("labels", f"npy: {title}", ("data", "verify", "set"), labelled("npy", content), exits)
    zipped = {
        "pickled objects": zip_of({"inst_map.npy": payload}),
        "no arrays": npz(),
        "two arrays": npz(a=label, b=label),
        "a member that is no array": zip_of({"inst_map.npy": b"text"}),
        "a bomb": zip_of({"inst_map.npy": npy(np.zeros((9000, 9000), np.uint8))}, zipfile.ZIP_DEFLATED),
    }
    for title, content in {**zipped, **damages(npz(inst_map=label), "npz", 2)}.items():
        exits = EITHER if title.startswith(("flipped", "two", "a bomb")) else REFUSED_OR_PROBLEM
        yield Case("labels", f"npz: {title}", ("data", "verify", "set"), labelled("npz", content), exits)
    from scipy.io import savemat

    def mat(**values: object) -> bytes:
        stream = io.BytesIO()
        savemat(stream, values)
        return stream.getvalue()

    matlab = {
        "no inst_map": mat(other=label),
        "inst_map of text": mat(inst_map="nuclei"),
        "inst_map of cells": mat(inst_map=np.array([label, label, "x"], dtype=object)),
        "inst_map of another size": mat(inst_map=label[:9]),
        "inst_map of NaN": mat(inst_map=np.full((side, side), np.nan)),
        "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(500),
    }
    for title, content in {**matlab, **damages(mat(inst_map=label), "mat", 4)}.items():
        exits = EITHER if title.startswith("flipped") else REFUSED_OR_PROBLEM
        yield Case("labels", f"mat: {title}", ("data", "verify", "set"), labelled("mat", content), exits)


class Payload:
    """What makes the canary if it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {CANARY}",)


def labelled(suffix: str, content: bytes) -> Make:
    """A set of one test image with a label of its own."""

    def make(folder: Path) -> None:
        first = min((good(folder) / "data").rglob("*.tif"))
        (folder / "set/test/images").mkdir(parents=True)
        (folder / "set/test/masks").mkdir()
        link(first, folder / "set/test/images/a.tif")
        (folder / "set/test/masks" / f"a.{suffix}").write_bytes(content)

    return make


def annotations(source: Path) -> Iterator[Case]:
    """XML."""
    path = min((source / "data").rglob("*.xml"))
    text = path.read_text()
    inside = str(path.relative_to(source))
    region = '<Region Id="1"><Vertices>{}</Vertices></Region>'
    frame = '<Annotations MicronsPerPixel="0.25"><Annotation><Regions>{}</Regions></Annotation></Annotations>'

    def drawn(points: list[tuple[object, object]]) -> bytes:
        return frame.format(region.format("".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in points))).encode()

    square = [(10, 10), (40, 10), (40, 40), (10, 40)]
    bomb = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    bad = {
        "entity bomb": f'<!DOCTYPE a [<!ENTITY a0 "ha">{bomb}]><a>&a11;</a>'.encode(),
        "external entity": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "parameter entity": b'<!DOCTYPE a [<!ENTITY % b SYSTEM "file:///etc/passwd"> %b;]><a/>',
        "no vertices": frame.format(region.format("")).encode(),
        "two vertices": drawn(square[:2]),
        "NaN": drawn([("nan", 1), *square]),
        "infinity": drawn([("inf", 1), *square]),
        "1e999": drawn([("1e999", 1), *square]),
        "words": drawn([("left", "top"), *square]),
        "no X": frame.format(region.format('<Vertex Y="1"/>' * 4)).encode(),
        "5,000 digits": drawn([("9" * 5000, 1), *square]),
        "deeply nested": b"<a>" * 200_000,
        "deeply nested and closed": b"<a>" * 100_000 + b"</a>" * 100_000,
        "unclosed": text[:-30].encode(),
        "two roots": (text + text).encode(),
        "unknown encoding": b"<?xml version='1.0' encoding='klingon'?><a/>",
        "wrong encoding": b"<?xml version='1.0' encoding='utf-16'?><a/>",
        "NUL": text.replace("Region", "Reg\0ion").encode(),
        "GeoJSON": b'{"type": "FeatureCollection", "features": []}',
        "far outside": drawn([(x + 1e7, y + 1e7) for x, y in square]),
        "beyond float": drawn([(x * 1e300, y * 1e300) for x, y in square]),
    }
    rng = random.Random(0)
    unusual = {
        "CRLF": text.replace("\n", "\r\n").encode(),
        "BOM": b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": text.encode("utf-16"),
        "negative scale": text.replace("MicronsPerPixel", "x").encode(),
        "one nucleus twice": drawn(square * 2),
        "self-crossing": drawn([(10, 10), (40, 40), (40, 10), (10, 40)]),
        "20,000 vertices": drawn([(rng.uniform(0, 256), rng.uniform(0, 256)) for _ in range(20_000)]),
        "100,000 vertices": drawn([(rng.uniform(0, 256), rng.uniform(0, 256)) for _ in range(100_000)]),
        "no region": frame.format("").encode(),
    }
    for title, content in {**bad, **damages(text.encode(), "xml", 8)}.items():
        exits = EITHER if title.startswith("flipped") else REFUSED_OR_PROBLEM
        make = both(copy("data"), write(inside, content))
        yield Case("annotations", title, ("data", "verify", "data"), make, exits)
    for title, content in unusual.items():
        make = both(copy("data"), write(inside, content))
        yield Case("annotations", title, ("data", "verify", "data"), make, EITHER, seconds=60)
    for title, odd in oddities(inside).items():
        exits = EITHER if title == "missing" else REFUSED_OR_PROBLEM
        yield Case("annotations", f"is {title}", ("data", "verify", "data"), both(copy("data"), odd), exits)
    for title in ("NaN", "entity bomb", "deeply nested", "far outside", "words"):
        make = both(copy("data"), write(inside, bad[title]))
        command = ("validate", "../good/bundle", "--data", "data", "--patch", "256", *REFERENCE, "-e", ENGINE)
        yield Case("annotations", f"{title} in validation", command, make, REFUSED if "Test" in inside else EITHER)


# Archives


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar_of(members: dict[str, bytes], mode: str, links: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return stream.getvalue()


def archives(source: Path) -> Iterator[Case]:
    data = source / "data"
    members = {str(path.relative_to(source)): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}
    whole = zip_of(members)
    hostile = {
        "a way out": zip_of({"../../escaped.txt": b"x", **members}),
        "an absolute name": zip_of({"/tmp/escaped.txt": b"x", **members}),
        "a Windows name": zip_of({"C:\\escaped.txt": b"x", **members}),
        "a link": zip_link(members, "/etc/passwd"),
        "nothing": zip_of({}),
        "only a text": zip_of({"readme.txt": b"hello"}),
        "a zip": zip_of({"data.zip": whole}),
        "a bomb": zip_of({f"data/test/{index}.tif": bytes(20_000_000) for index in range(4)}, zipfile.ZIP_DEFLATED),
        "an encrypted member": encrypted(whole),
        "a wrong checksum": wrong_checksum(whole),
        "NUL in a name": whole.replace(b"test", b"te\0t"),
        "a name of 300 letters": zip_of({"a" * 300: b"x"}),
        "a name with a line break": zip_of({"data/te\nst/a.tif": b"x"}),
        "a folder and a file of one name": zip_of({"data": b"x", "data/test/a.tif": b"x"}),
        "20,000 members": zip_of({f"data/{index}.txt": b"" for index in range(20_000)}),
    }
    may_pass = {"a zip", "a Windows name", "a link", "an absolute name", "a way out"}
    for title, content in {**hostile, **damages(whole, "zip", 6)}.items():
        exits = EITHER if title in may_pass or title.startswith("flipped") else REFUSED_OR_PROBLEM
        yield Case("archives", f"zip: {title}", ("data", "verify", "a.zip"), write("a.zip", content), exits)
    for title, odd in oddities("a.zip").items():
        yield Case("archives", f"zip is {title}", ("data", "verify", "a.zip"), odd, REFUSED_OR_PROBLEM)
    tars = {
        "a.tar": tar_of(members, "w:"),
        "a.tar.gz": tar_of(members, "w:gz"),
        "a.tgz": tar_of(members, "w:gz", {"data/link": "/etc/passwd"}),
        "a.tar.xz": tar_of({"../escaped.txt": b"x"}, "w:xz"),
        "a.7z": b"7z\xbc\xaf\x27\x1c" + bytes(100),
        "a.rar": b"Rar!\x1a\x07\x00" + bytes(100),
        "tar.zip": tar_of(members, "w:gz"),
    }
    for name, content in tars.items():
        yield Case("archives", f"{name} as a set", ("data", "verify", name), write(name, content))


def zip_link(members: dict[str, bytes], target: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        info = zipfile.ZipInfo("data/link.tif")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, target)
    return stream.getvalue()


def encrypted(content: bytes) -> bytes:
    changed = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.find(signature)
        while at >= 0:
            changed[at + offset] |= 1
            at = changed.find(signature, at + 4)
    return bytes(changed)


def wrong_checksum(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[200:260] = bytes(60)
    return bytes(changed)


# Checkpoints


def safetensors(source: Path) -> Iterator[Case]:
    path = source / "weights.safetensors"
    with path.open("rb") as stream:
        size = struct.unpack("<Q", stream.read(8))[0]
        header = json.loads(stream.read(size))
    name = next(key for key in header if key != "__metadata__")

    def changed(**changes: object) -> Callable[[], bytes]:
        new = {**header, **changes}
        text = json.dumps({key: value for key, value in new.items() if value is not None}).encode()
        return lambda: struct.pack("<Q", len(text)) + text + path.read_bytes()[8 + size :]

    def entry(**changes: object) -> Callable[[], bytes]:
        return changed(**{name: {**header[name], **changes}})

    meta = header["__metadata__"]
    bad = {
        "a header of 2**63 bytes": lambda: struct.pack("<Q", 2**63) + path.read_bytes()[8:],
        "a header longer than the file": lambda: struct.pack("<Q", 2**40) + path.read_bytes()[8:],
        "a header of 0 bytes": lambda: struct.pack("<Q", 0) + path.read_bytes()[8:],
        "a header that is no JSON": struct.pack("<Q", 4) + b"oops",
        "a nested header": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "negative offsets": entry(data_offsets=[-1, 4]),
        "offsets beyond the file": entry(data_offsets=[0, 2**40]),
        "overlapping offsets": entry(data_offsets=[4, 8]),
        "an unknown type": entry(dtype="F7"),
        "a huge shape": entry(shape=[2**62, 2]),
        "a negative shape": entry(shape=[-1]),
        "a shape of words": entry(shape=["many"]),
        "no metadata": changed(__metadata__=None),
        "metadata that is no text": changed(__metadata__={"recipe": 7}),
        "a recipe that is no JSON": changed(__metadata__={**meta, "recipe": "{"}),
        "an empty recipe": changed(__metadata__={**meta, "recipe": ""}),
        "a recipe of another network": changed(__metadata__={**meta, "recipe": '{"network": {"model": "u-net"}}'}),
        "an unknown network": changed(__metadata__={**meta, "recipe": '{"network": {"model": "$(touch PWNED)"}}'}),
        "a nested recipe": changed(__metadata__={**meta, "recipe": "[" * 50_000}),
        "notes that are no JSON": changed(__metadata__={**meta, "notes": "{"}),
        "one tensor less": changed(**{name: None}),
        "one tensor renamed": changed(**{name: None, "other": header[name]}),
    }
    for title, content in {**bad, **later(path, "safetensors")}.items():
        yield Case("safetensors", title, ("export", "w.safetensors", "--out", "b"), write("w.safetensors", content))
    for title in ("negative offsets", "a nested header", "one tensor less", "an unknown type"):
        command = ("train", "--data", "../good/data", "--recipe", "demo", "--from", "w.safetensors", "--out", "r")
        yield Case("safetensors", f"{title}, to fine-tune", command, write("w.safetensors", bad[title]))
    for title, odd in oddities("w.safetensors").items():
        yield Case("safetensors", f"is {title}", ("export", "w.safetensors", "--out", "b"), odd)


def pickles(source: Path) -> Iterator[Case]:
    import torch

    def saved(value: object, **options: object) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream, **options)
        return stream.getvalue()

    weights = torch.load(source / "weights.pt", weights_only=True)
    few = {key: value[:2].clone() for key, value in itertools.islice(weights.items(), 3)}
    evil = {
        "a payload": saved(Payload()),
        "a payload, old format": saved(Payload(), _use_new_zipfile_serialization=False),
        "a payload among weights": saved({"state_dict": few, "more": Payload()}),
        "a payload as a key": saved({Key(): torch.zeros(1)}),
        "a payload, plain": pickle.dumps(Payload()),
        "a payload, protocol 0": pickle.dumps(Payload(), 0),
        "a payload of opcodes": b"cos\nsystem\n(S'touch PWNED'\ntR.",
        "a payload by eval": b'c__builtin__\neval\n(S\'open("PWNED", "w")\'\ntR.',
        "a payload in a zip": zip_of({"archive/data.pkl": pickle.dumps(Payload()), "archive/version": b"3\n"}),
    }
    empty = {
        "None": saved(None),
        "a number": saved(7),
        "a list": saved([torch.zeros(3)]),
        "a tensor": saved(torch.zeros(3)),
        "nothing": saved({}),
        "an empty state_dict": saved({"state_dict": {}}),
        "a state_dict of text": saved({"state_dict": "weights"}),
        "numbers": saved({"a": 1, "b": 2.5}),
        "few weights": saved(few),
        "another network's": saved({f"other.{key}": value for key, value in few.items()}),
        "other shapes": saved({key: torch.zeros(1) for key in weights}),
        "other types": saved({key: torch.zeros(value.shape, dtype=torch.complex64) for key, value in few.items()}),
        "sparse": saved({"a": torch.eye(3).to_sparse()}),
        "recursive": recursive(saved),
        "deep": saved(deep()),
        "a scripted module": scripted(),
        "NumPy arrays": saved({"a": np.zeros(3)}),
        "a JSON": b'{"state_dict": {}}',
    }
    suffixes = ("pt", "pth", "ckpt", "bin", "pkl", "pth.tar", "")
    cases = {**evil, **empty}
    for index, (title, content) in enumerate(cases.items()):
        for suffix in suffixes if title in evil else (suffixes[index % 7], "pth"):
            name = f"w.{suffix}".rstrip(".")
            command = ("export", name, "--recipe", "demo", "--out", "b")
            yield Case("pickles", f"{title} as {name}", command, write(name, content))
    for title, content in later(source / "weights.pt", "pickle").items():
        yield Case("pickles", title, ("export", "w.pth", "--recipe", "demo", "--out", "b"), write("w.pth", content))
    for title, content in evil.items():
        command = ("train", "--data", "../good/data", "--recipe", "demo", "--encoder", "w.pth", "--out", "r")
        yield Case("pickles", f"{title} as an encoder", command, write("w.pth", content))
        command = ("train", "--data", "../good/data", "--recipe", "demo", "--out", "run", "--resume")
        yield Case("pickles", f"{title} to resume", command, both(copy("run"), write("run/last.pt", content)))
    for title, content in {**later(source / "run" / "last.pt", "last"), **empty}.items():
        command = ("train", "--data", "../good/data", "--out", "run", "--resume", "--epochs", "3")
        yield Case("pickles", f"last.pt: {title}", command, both(copy("run"), write("run/last.pt", content)))


class Key(str):
    """A key that runs code if it is unpickled."""

    __slots__ = ()

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {CANARY}",)


def recursive(saved: Callable[..., bytes]) -> bytes:
    content: dict[str, object] = {}
    content["state_dict"] = content
    return saved(content)


def deep() -> object:
    content: object = 1
    for _ in range(400):
        content = {"state_dict": content}
    return content


def scripted() -> bytes:
    import torch

    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), stream)
    return stream.getvalue()


# Bundles


def sign(folder: Path, *names: str) -> None:
    """Write the hashes of changed files into the manifest, as an attacker would."""
    import hashlib

    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for name in names:
        file = folder / name
        if file.is_file() and not (file.is_symlink() and str(file.resolve()).startswith("/dev")):
            manifest["artifacts"][name]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    replace(path, json.dumps(manifest).encode())


USES = {
    "model.fp32.onnx": (
        ("bench", "bundle", "-e", "onnxruntime:fp32", "--size", "64", "--seconds", "0.01", "--windows", "2"),
        ("bench", "bundle", "-e", "openvino:fp32", "--size", "64", "--seconds", "0.01", "--windows", "2"),
        ("package", "bundle", "cpp", "--out", "out"),
        ("package", "bundle", "triton", "--backend", "onnxruntime", "--out", "out"),
        ("package", "bundle", "build-kit", "--gpu", "rtx-3090", "--precision", "fp32", "--out", "out"),
        ("doctor", "--bundle", "bundle", "--gpu", "rtx-3090"),
    ),
    "model.int8.onnx": (
        ("bench", "bundle", "-e", "onnxruntime:int8", "--size", "64", "--seconds", "0.01", "--windows", "2"),
        ("package", "bundle", "cpp", "--precision", "int8", "--out", "out"),
    ),
    "golden/image.npy": (("package", "bundle", "cpp", "--out", "out"),),
    "golden/probability.npy": (("package", "bundle", "cpp", "--out", "out"),),
    "calibration.json": (
        ("validate", "bundle", "--data", "../good/data", "--patch", "256", *REFERENCE, "-e", "openvino:int8"),
    ),
    PLAN: (("package", "bundle", "cpp", "--gpu", "rtx-3090", "--out", "out"),),
    f"{PLAN}.json": (("package", "bundle", "cpp", "--gpu", "rtx-3090", "--out", "out"),),
}


def bundles(source: Path) -> Iterator[Case]:
    for name, commands in USES.items():
        content = (source / "bundle" / name).read_bytes()
        for signed in (False, True):
            for title, damaged in damages(content, name, 2).items():
                for command in commands if title in ("text", "cut at 50%", "empty") else commands[:1]:
                    make = both(copy("bundle"), write(f"bundle/{name}", damaged), signer(name, signed))
                    flipped = title.startswith(("flipped", "cut", "noise", "zeros")) and signed
                    exits = frozenset({0, 1, 2}) if flipped else frozenset({1, 2}) if name == PLAN else REFUSED
                    if command[0] == "doctor" or (name == PLAN and signed):
                        exits = frozenset({0, 1, 2, 3})  # an opaque plan with the right hash is the signer's
                    if command[0] == "package" and "triton" in command and name != "model.fp32.onnx":
                        continue
                    kind = "bundles, signed" if signed else "bundles"
                    yield Case(kind, f"{name} {title}", command, make, exits)
            for title, odd in oddities(f"bundle/{name}").items():
                make = both(copy("bundle"), odd, signer(name, signed))
                exits = EITHER if name in (PLAN, f"{PLAN}.json") and title == "missing" else REFUSED
                if not signed:
                    yield Case("bundles", f"{name} is {title}", commands[-1 if len(commands) < 3 else 2], make, exits)
    yield from secrets()
    yield from golden_shapes()
    yield from manifests(source)


def signer(name: str, signed: bool) -> Make:
    return (lambda folder: sign(folder / "bundle", name)) if signed else (lambda folder: None)


def secrets() -> Iterator[Case]:
    """Links that would carry a user's file into a package."""

    def secret(name: str, signed: bool) -> Make:
        def make(folder: Path) -> None:
            (folder / "secret").write_text("the user's own")
            (folder / "bundle" / name).unlink()
            (folder / "bundle" / name).symlink_to("../secret")
            if signed:
                sign(folder / "bundle", name)

        return make

    for name, signed in itertools.product((PLAN, "model.fp32.onnx", "golden/image.npy"), (False, True)):
        command = USES[name][0] if name == PLAN else ("package", "bundle", "cpp", "--out", "out")
        exits = EITHER if name == PLAN and signed else REFUSED
        make = both(copy("bundle"), secret(name, signed))
        yield Case("bundles, signed" if signed else "bundles", f"{name} links to a secret", command, make, exits)


def golden_shapes() -> Iterator[Case]:
    """Golden tensors that NumPy reads, of the wrong kind."""

    def npy(array: np.ndarray) -> bytes:
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=True)
        return stream.getvalue()

    arrays = {
        "no images": np.zeros((0, 256, 256, 3), np.uint8),
        "33 px": np.zeros((1, 33, 33, 3), np.uint8),
        "4 channels": np.zeros((1, 64, 64, 4), np.uint8),
        "float": np.zeros((1, 64, 64, 3), np.float32),
        "3 dimensions": np.zeros((64, 64, 3), np.uint8),
        "pickled objects": np.array([Payload()], dtype=object),
        "text": np.array(["image"]),
        "Fortran order": np.asfortranarray(np.zeros((2, 64, 64, 3), np.uint8)),
    }
    for (title, array), name in itertools.product(arrays.items(), ("golden/image.npy", "golden/probability.npy")):
        for integration in ("cpp", "triton"):
            make = both(copy("bundle"), write(f"bundle/{name}", npy(array)), signer(name, True))
            command = ("package", "bundle", integration, "--out", "out")
            yield Case("bundles, signed", f"{name}: {title} ({integration})", command, make)


HOSTILE_TEXT = (
    "image$(touch PWNED)",
    "`touch PWNED`",
    "image; touch PWNED",
    'image" && touch PWNED && "',
    "image' ; touch PWNED ; '",
    "image\ntouch PWNED",
    "{{ 7 * 7 }}",
    "../../image",
    "",
    "a" * 5000,
    "im\u202eage",
)


def manifests(source: Path) -> Iterator[Case]:
    """Damaged manifests, and valid JSON with values that no exporter writes."""
    content = (source / "bundle" / "manifest.json").read_bytes()
    bench = USES["model.fp32.onnx"][0]
    kit = USES["model.fp32.onnx"][4]
    raw = {
        "not UTF-8": b'{"a": "\xff"}',
        "UTF-16": content.decode().encode("utf-16"),
        "nested": b"[" * 50_000,
        "nested in a field": content.replace(b'"checks": {}', b'"checks": ' + b"[" * 50_000 + b"]" * 50_000),
        "twice": content + content,
        "a list": b"[]",
        "null": b"null",
        "a lone surrogate": content.replace(b'"tiny"', b'"\\ud800"'),
        "a number of 5,000 digits": content.replace(b'"format_version": 1', b'"format_version": ' + b"9" * 5000),
        "1e999": content.replace(b"0.485", b"1e999"),
        "NaN": content.replace(b"0.485", b"NaN"),
    }
    may = frozenset({0, 2})
    for title, damaged in {**raw, **damages(content, "manifest", 4)}.items():
        exits = may if title.startswith(("flipped", "a lone", "nested in")) else REFUSED
        make = both(copy("bundle"), write("bundle/manifest.json", damaged))
        yield Case("manifests", title, bench, make, exits)
        if title in raw:
            yield Case("manifests", title, ("package", "bundle", "cpp", "--out", "out"), make, exits)
    for title, odd in oddities("bundle/manifest.json").items():
        yield Case("manifests", f"is {title}", bench, both(copy("bundle"), odd))
    values: list[tuple[tuple[str, ...], object]] = [
        *((("spec", "image", "name"), text) for text in HOSTILE_TEXT),
        *((("spec", "probability", "name"), text) for text in HOSTILE_TEXT[:5]),
        *((("spec", "image", "dtype"), value) for value in ("float32", "uint7", 7)),
        *((("spec", "image", "axes"), value) for value in ([], [1, 2], "nhwc", None)),
        *((("spec", "mean"), value) for value in ([], [0.1], [0.1] * 4, "grey", [None] * 3)),
        *((("spec", "std"), value) for value in ([0, 0, 0], [-1, 1, 1], [])),
        *((("spec", "threshold"), value) for value in (-1, 2, "half", None)),
        *((("spec", "microns_per_pixel"), value) for value in (0, -1, "x")),
        *((("format_version",), value) for value in (0, 2, -1, "1", None, 1.5)),
        *((("recipe",), value) for value in (None, [], {"network": {"model": "?"}}, "demo")),
        *((("licence",), value) for value in (None, 7, [])),
        *((("versions",), value) for value in (None, [], {"torch": 2})),
        *((("artifacts",), value) for value in (None, [], {}, {"../x": {"sha256": "0" * 64, "made_from": []}})),
        *((("artifacts", "model.fp32.onnx"), value) for value in (None, {}, {"sha256": 7, "made_from": []})),
        *((("artifacts", "model.fp32.onnx", "sha256"), value) for value in ("", "0" * 64, "G" * 64)),
    ]
    for keys, value in values:
        make = both(copy("bundle"), field(keys, value))
        kind, title = "manifests", f"{'.'.join(keys)} = {str(value)[:24]!r}"
        names = keys[-1] == "name"
        yield Case(
            kind, title, kit if names else bench, make, frozenset({2}) if names or keys[0] == "artifacts" else may
        )
    for outside in ("../secret", "/etc/passwd", "golden/../../secret", "model.fp32.onnx\0", "a\nb"):
        make = both(copy("bundle"), write("secret", b"own"), moved("model.fp32.onnx", outside))
        yield Case("manifests", f"the artifact {outside!r}", bench, make)


def field(keys: tuple[str, ...], value: object) -> Make:
    def make(folder: Path) -> None:
        path = folder / "bundle" / "manifest.json"
        manifest = json.loads(path.read_bytes())
        inner = manifest
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        replace(path, json.dumps(manifest).encode())

    return make


def moved(name: str, target: str) -> Make:
    def make(folder: Path) -> None:
        path = folder / "bundle" / "manifest.json"
        manifest = json.loads(path.read_bytes())
        manifest["artifacts"][target] = manifest["artifacts"].pop(name)
        replace(path, json.dumps(manifest).encode())

    return make


# Recipes and targets


def tables(source: Path) -> Iterator[Case]:
    recipe, target = (source / "recipe.toml").read_bytes(), (source / "target.toml").read_bytes()
    train = ("train", "--data", "../good/data", "--recipe", "a.toml", "--out", "r")
    export = ("export", "../good/weights.pt", "--recipe", "a.toml", "--out", "b")
    doctor = ("doctor", "--gpu", "a.toml")
    lines = {
        "a number of 5,000 digits": b"seed = " + b"9" * 5000,
        "a nested list": b"x = " + b"[" * 5000,
        "a nested list, closed": b"x = " + b"[" * 5000 + b"]" * 5000,
        "a nested table": b"[" + b".".join([b"a"] * 5000) + b"]",
        "a key twice": b"name = 1\nname = 2",
        "no TOML": b"name: tiny",
        "not UTF-8": b'name = "\xff"',
        "UTF-16": 'name = "a"'.encode("utf-16"),
        "NUL": b'name = "\0"',
        "a date": b"name = 1979-05-27",
        "a number as its name": b"name = 7",
    }
    for title, content in {**lines, **damages(recipe, "recipe", 2)}.items():
        if title in ("empty", "cut at 10%", "cut at 50%", "cut by 1 byte") or title.startswith("flipped"):
            continue
        yield Case("recipes", title, train, write("a.toml", content))
        yield Case("recipes", title, export, write("a.toml", content))
        yield Case("targets", title, doctor, write("a.toml", content))
        kit = ("package", "../good/bundle", "build-kit", "--gpu", "a.toml", "--out", "out")
        yield Case("targets", title, kit, write("a.toml", content))
    for title, odd in oddities("a.toml").items():
        yield Case("recipes", f"is {title}", train, odd)
        yield Case("targets", f"is {title}", doctor, odd)
    values = ("nan", "inf", "-1", "0", "1e999", "''", "[]", "{}", "true", "99999999999999999999", "'$(touch PWNED)'")
    for key, value in itertools.product(
        ("patch", "epochs", "batch", "rate", "validation", "optimizer", "loss"), values
    ):
        if (key, value) in (("rate", "0"), ("validation", "0"), ("validation", "true")):
            continue
        content = f"[train]\n{key} = {value}\n".encode()
        yield Case("recipes", f"train.{key} = {value}", train, write("a.toml", content))
    for key, value in itertools.product(("name", "gpu", "sm", "preferred", "like"), values):
        content = b"\n".join(line for line in target.splitlines() if not line.startswith(key.encode() + b" "))
        make = write("a.toml", f"{key} = {value}\n".encode() + content)
        exits = frozenset({0, 2, 3}) if key in ("name", "gpu") and value.startswith("'") else REFUSED
        yield Case("targets", f"{key} = {value}", doctor, make, exits)


# Results


def results(source: Path) -> Iterator[Case]:
    path = source / "report" / "report.json"
    content = path.read_bytes()
    raw = {
        "an object": b"{}",
        "a list": b"[]",
        "null": b"null",
        "nested": b"[" * 50_000,
        "not UTF-8": b'{"a": "\xff"}',
        "NaN": b'{"a": NaN}',
        "5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    }
    for title, damaged in {**raw, **damages(content, "report", 4)}.items():
        exits = frozenset({0, 2}) if title.startswith("flipped") else REFUSED
        make = both(copy("report"), write("report/report.json", damaged))
        yield Case("results", title, ("report", "report"), make, exits)
    for title, odd in oddities("report/report.json").items():
        yield Case("results", f"is {title}", ("report", "report"), both(copy("report"), odd))
    document = json.loads(content)
    for key in document:
        for value in (None, [], {}, "x", -1):
            text = json.dumps({**document, key: value}).encode()
            make = both(copy("report"), write("report/report.json", text))
            yield Case("results", f"{key} = {value!r}", ("report", "report"), make, frozenset({0, 2}))
    yield Case(
        "results",
        "no pictures",
        ("report", "report"),
        both(copy("report"), without("report/pictures")),
        frozenset({0, 2}),
    )
    for command in ("report", "view"):
        for title, odd in oddities("folder").items():
            yield Case("results", f"the folder is {title}", (command, "folder"), odd)


def without(name: str) -> Make:
    return lambda folder: shutil.rmtree(folder / name, ignore_errors=True)


# Options


def options(source: Path) -> Iterator[Case]:
    bundle, data = "../good/bundle", "../good/data"
    bench = ("bench", bundle, "-e", ENGINE)
    validate = ("validate", bundle, "--data", data, *REFERENCE, "-e", ENGINE)
    train = ("train", "--data", data, "--recipe", "../good/recipe.toml", "--out", "r")
    predict = ("predict", "../good/image.png", "--bundle", bundle, "--out", "o")
    export = ("export", "../good/weights.safetensors", "--out", "b")
    numbers = {
        bench: ("--batch", "--threads", "--streams", "--size", "--seconds", "--windows"),
        validate: ("--budget", "--worst-image", "--patch", "--threads", "--budget-aji"),
        train: ("--epochs", "--rate", "--seed", "--devices", "--workers"),
        predict: ("--mpp", "--threads", "--tile", "--batch", "--workers"),
        export: ("--budget", "--tiles"),
        ("data", "synthesize", "d"): ("--train", "--test", "--size", "--seed"),
    }
    hostile = ("-1", "nan", "-inf", "", "many", "9" * 400, "1e999", "०", "1;touch PWNED")
    for (command, names), value in itertools.product(numbers.items(), hostile):
        for name in names:
            yield Case("options", f"{name} {value[:12]!r}", (*command, name, value))
    texts = ("", " ", "\x00".replace("\x00", "\x01"), "$(touch PWNED)", "../..", "é" * 300, "-", "\udcff")
    choices = {
        ("bench", bundle): ("-e",),
        validate: ("--protocol", "--reference"),
        train: ("--model", "--backbone", "--accelerator"),
        predict: ("-e", "--format"),
        export: ("--recipe", "--method"),
        ("package", bundle, "cpp", "--out", "o"): ("--precision", "--gpu", "--backend"),
        ("doctor",): ("--gpu",),
    }
    for (command, names), value in itertools.product(choices.items(), texts):
        for name in names:
            yield Case("options", f"{name} {value[:12]!r}", (*command, name, value))
    paths = ("", "nowhere", "/dev/null", "/proc/self/mem", "/proc/self/fd", "a\nb", "x" * 300, "\udcff")
    for value in paths:
        yield Case("options", f"a bundle at {value[:12]!r}", ("bench", value))
        yield Case("options", f"data at {value[:12]!r}", ("data", "verify", value))
        yield Case("options", f"an image at {value[:12]!r}", ("predict", value, "--out", "o"))
        yield Case("options", f"calibration at {value[:12]!r}", (*export, "--int8", "--calibration", value))
        yield Case("options", f"weights at {value[:12]!r}", ("export", value, "--out", "b"))
    yield Case("options", "no command", ("nonsense",))
    yield Case("options", "an unknown option", (*bench, "--nonsense"))


# Outputs


def device(folder: Path) -> None:
    """Make a node of /dev/null in the case's own folder."""
    os.mknod(folder / "x", 0o20666, os.makedev(1, 3))


def outputs(source: Path) -> Iterator[Case]:
    commands: dict[str, tuple[str, ...]] = {
        "doctor --json": ("doctor", "--gpu", "rtx-3090", "--json"),
        "doctor --requirements": ("doctor", "--gpu", "rtx-3090", "--requirements"),
        "doctor --dockerfile": ("doctor", "--gpu", "rtx-3090", "--dockerfile"),
        "doctor --compose": ("doctor", "--gpu", "rtx-3090", "--dockerfile", "Dockerfile", "--compose"),
        "verify --json": ("data", "verify", "../good/data", "--json"),
        "package --json": ("package", "../good/bundle", "cpp", "--out", "o", "--json"),
    }
    for title, command in commands.items():
        for what, odd in oddities("x").items():
            if what in ("missing", "a dangling link"):
                continue
            yield Case("outputs", f"{title} to {what}", (*command, "x"), odd)
        yield Case("outputs", f"{title} below a file", (*command, "x/y.json"), write("x", b"own"))
        yield Case("outputs", f"{title} in /proc", (*command, "/proc/x.json"))
        if os.geteuid() == 0:
            yield Case(
                "outputs",
                f"{title} to a device",
                (*command, "x"),
                lambda folder: os.mknod(folder / "x", 0o20666, os.makedev(1, 3)),
            )
    folders: dict[str, tuple[str, ...]] = {
        "package": ("package", "../good/bundle", "cpp", "--out"),
        "synthesize": ("data", "synthesize", "--train", "1", "--test", "1", "--size", "256"),
        "train": ("train", "--data", "../good/data", "--recipe", "../good/recipe.toml", "--out"),
        "predict": (
            "predict",
            "../good/image.png",
            "--mpp",
            "0.25",
            "--bundle",
            "../good/bundle",
            "-e",
            ENGINE,
            "--out",
        ),
        "export": ("export", "../good/weights.safetensors", "--out"),
        "validate": (
            "validate",
            "../good/bundle",
            "--data",
            "../good/data",
            "--patch",
            "256",
            *REFERENCE,
            "-e",
            ENGINE,
            "--out",
        ),
    }
    for title, command in folders.items():
        for what, odd in oddities("x").items():
            if what in ("missing", "a dangling link", "a folder", "a link to a folder"):
                continue
            yield Case("outputs", f"{title} into {what}", (*command, "x"), odd)
        yield Case("outputs", f"{title} over a file", (*command, "x"), write("x", b"own"))
        yield Case("outputs", f"{title} below a file", (*command, "x/y"), write("x", b"own"))
        yield Case("outputs", f"{title} in /proc", (*command, "/proc/x"))
        if title not in ("predict", "train", "validate"):  # these add to a folder
            yield Case("outputs", f"{title} over the user's files", (*command, "x"), write("x/notes.txt", b"own"))
        yield Case("outputs", f"{title} over /", (*command, "/"))


def controls(source: Path) -> Iterator[Case]:
    """The same commands on good inputs: they must succeed, or a refusal would say nothing about the input."""
    for command in {command: None for commands in USES.values() for command in commands}:
        exits = frozenset({0, 1, 3}) if command[0] in ("validate", "doctor") else DONE
        if command[:3] != ("package", "bundle", "triton"):  # its image is big
            yield Case("controls", " ".join(command), command, copy("bundle"), exits)
    verify, report = ("data", "verify", "data"), ("report", "report")
    yield Case("controls", "verify", verify, copy("data"), DONE)
    yield Case("controls", "report", report, copy("report"), DONE)
    predict = ("predict", "image.png", "--bundle", "../good/bundle", "-e", ENGINE, "--mpp", "0.25", "--out", "out")
    yield Case("controls", "predict", predict, copy("image.png"), DONE)
    yield Case("controls", "doctor", ("doctor", "--gpu", "../good/target.toml"), exits=frozenset({0, 3}))
    train = ("train", "--data", "../good/data", "--recipe", "../good/recipe.toml", "--epochs", "1", "--out", "r")
    yield Case("controls", "train", train, exits=DONE, seconds=300)


CLASSES: dict[str, Callable[[Path], Iterator[Case]]] = {
    "controls": controls,
    "images": images,
    "labels": labels,
    "annotations": annotations,
    "archives": archives,
    "safetensors": safetensors,
    "pickles": pickles,
    "bundles": bundles,
    "tables": tables,
    "results": results,
    "options": options,
    "outputs": outputs,
}


def cases(source: Path) -> list[Case]:
    """Return all cases, from the good inputs in `source`."""
    return [case for make in CLASSES.values() for case in make(source)]


__all__ = ["CLASSES", "DONE", "cases"]
