"""Label maps and outlines."""

import io
import os
import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from good import ENGINE, REFERENCE, link
from stage import CANARY, EITHER, REFUSED, Case

from corpus.archives import zip_of
from corpus.damage import REFUSED_OR_PROBLEM, Make, both, copy, damages, good, oddities, write


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
