"""Read and write ``SHA256SUMS``, in the format of sha256sum: lines of ``<hash>  ./<path>``."""

import re
from pathlib import Path

import msgspec

from msal_deploy.data.archive import walk
from msal_deploy.files import sha256

SHA256SUMS = "SHA256SUMS"
LINE = re.compile(r"(?P<hash>[0-9a-fA-F]{64}) [ *](?:\./)?(?P<path>.+)")


class Checksums(msgspec.Struct, frozen=True):
    """The files of a folder compared with its ``SHA256SUMS``; paths are relative to the folder.

    Attributes:
        listed: Whether the folder has a ``SHA256SUMS``.
        agreeing: Number of files that match it.
        changed: Files with another hash.
        missing: Files that are listed but do not exist.
        unlisted: Files that exist but are not listed.
        files: SHA-256 of each file; only filled if the folder has no ``SHA256SUMS``.
    """

    listed: bool
    agreeing: int = 0
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    files: dict[str, str] = {}


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` with the hashes of all files in `folder`."""
    lines = [f"{digest}  ./{name}\n" for name, digest in _hashes(folder).items()]
    (folder / SHA256SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path) -> Checksums:
    """Hash all files in `folder` and compare them with its ``SHA256SUMS``, if it has one.

    >>> checksums = check_sums(Path("monuseg"))
    >>> checksums.listed, checksums.agreeing, checksums.changed
    (True, 11, ())
    """
    actual = _hashes(folder)
    sums = folder / SHA256SUMS
    if not sums.is_file():
        return Checksums(listed=False, files=actual)
    matches = map(LINE.fullmatch, sums.read_text(encoding="utf-8-sig", errors="replace").splitlines())
    expected = {match["path"]: match["hash"].lower() for match in matches if match}
    return Checksums(
        listed=True,
        agreeing=sum(actual.get(name) == digest for name, digest in expected.items()),
        changed=tuple(name for name, digest in expected.items() if name in actual and actual[name] != digest),
        missing=tuple(name for name in expected if name not in actual),
        unlisted=tuple(name for name in actual if name not in expected),
    )


def _hashes(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in walk(folder) if path.is_file() and path.name != SHA256SUMS)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
