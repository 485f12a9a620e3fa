"""Zips and other archives."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from stage import EITHER, Case

from corpus.damage import REFUSED_OR_PROBLEM, damages, oddities, write


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
