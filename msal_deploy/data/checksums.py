"""``SHA256SUMS``: writing it, and checking a folder against it; lines are ``<hash>  ./<path>`` as sha256sum writes."""

import re
from pathlib import Path

import msgspec

from msal_deploy.data.archive import is_junk
from msal_deploy.files import sha256

SHA256SUMS = "SHA256SUMS"
LINE = re.compile(r"(?P<hash>[0-9a-fA-F]{64}) [ *](?:\./)?(?P<path>.+)")


class Checksums(msgspec.Struct, frozen=True):
    """What the hashes say, as paths relative to the folder.

    Attributes:
        listed: whether there is a ``SHA256SUMS``.
        agreeing: how many files are what it says.
        changed, missing: files that are not, and files that are not there.
        unlisted: files that it does not name.
        files: without ``SHA256SUMS``, the SHA-256 of each file.
    """

    listed: bool
    agreeing: int = 0
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    files: dict[str, str] = {}


def write_sums(folder: Path) -> None:
    """Write the hashes of all files in `folder`."""
    lines = [f"{digest}  ./{name}\n" for name, digest in _hashes(folder).items()]
    (folder / SHA256SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path) -> Checksums:
    """Hash all files in `folder` and compare them with its ``SHA256SUMS``, where it has one."""
    found = _hashes(folder)
    sums = folder / SHA256SUMS
    if not sums.is_file():
        return Checksums(listed=False, files=found)
    matches = map(LINE.fullmatch, sums.read_text(encoding="utf-8", errors="replace").splitlines())
    wanted = {match["path"]: match["hash"].lower() for match in matches if match}
    return Checksums(
        listed=True,
        agreeing=sum(found.get(name) == digest for name, digest in wanted.items()),
        changed=tuple(name for name, digest in wanted.items() if name in found and found[name] != digest),
        missing=tuple(name for name in wanted if name not in found),
        unlisted=tuple(name for name in found if name not in wanted),
    )


def _hashes(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder): path for path in paths if path.name != SHA256SUMS}
    return {name.as_posix(): sha256(path) for name, path in names.items() if not is_junk(name)}
