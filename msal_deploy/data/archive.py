"""Unpack untrusted zips: nothing is written outside the folder, and the total size is limited."""

import errno
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from msal_deploy.errors import BadInput, MissingRequirement

SIZE_LIMIT = 20 * 10**9  # bytes, including nested zips
MEMBER_LIMIT = 100_000  # files in one zip
DEPTH_LIMIT = 50  # folders in folders
NESTING_LIMIT = 3  # zips within zips
BLOCK = 1 << 20
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:")

DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, ValueError)


def is_junk(path: PurePosixPath | Path) -> bool:
    """Return whether a relative path was left by macOS or a file manager (``__MACOSX``, ``.DS_Store``, ``._x``)."""
    return any(part == "__MACOSX" or part.startswith(".") for part in path.parts)


def walk(folder: Path) -> Iterator[Path]:
    """Yield all files in sorted order. Links to folders are followed, but each folder is visited once.

    Raises:
        BadInput: Folders are nested more than 50 deep.
    """
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if len(Path(parent).relative_to(folder).parts) > DEPTH_LIMIT:
            raise BadInput(f"{folder.name} has folders more than {DEPTH_LIMIT} deep", "pass the folder with the images")
        folders.sort()
        paths = (Path(parent, name) for name in sorted(names))
        yield from (path for path in paths if not is_junk(path.relative_to(folder)))


def unpack(archive: Path, folder: Path, *, limit: int = SIZE_LIMIT) -> int:
    """Unpack a zip into `folder`. Zips inside it are unpacked into folders of their own name and then removed.

    >>> import zipfile
    >>> with zipfile.ZipFile("images.zip", "w") as archive:
    ...     archive.writestr("train/a.txt", "hello")
    >>> unpack(Path("images.zip"), Path("images"))
    5

    Returns:
        Number of bytes written.

    Raises:
        BadInput: The file is not a zip, is damaged or encrypted, has a member that is a link or points outside the
            folder, or unpacks to more than `limit` bytes.
        MissingRequirement: The disk is full.
    """
    return _unpack(archive, folder, limit, nesting=0)


def _unpack(archive: Path, folder: Path, limit: int, nesting: int) -> int:
    if nesting > NESTING_LIMIT:
        raise BadInput(
            f"{archive.name} is nested more than {NESTING_LIMIT} zips deep", "unpack it yourself and pass the folder"
        )
    written = _extract(archive, folder, limit)
    for inner in sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".zip" and path.is_file()):
        written += _unpack(inner, inner.with_suffix(""), limit - written, nesting + 1)
        inner.unlink()
    return written


def _extract(archive: Path, folder: Path, limit: int) -> int:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _checked_members(opened, archive.name, limit)
            return _write_members(opened, members, folder, limit, archive.name)
    except DAMAGED as error:
        raise BadInput(f"{archive.name} is not a zip or is damaged ({error})", "download it again") from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or a compression that Python does not support
        raise BadInput(
            f"{archive.name} cannot be unpacked by Python ({error})", "unpack it yourself and pass the folder"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise MissingRequirement(
                f"The disk is full while unpacking {archive.name}", "set TMPDIR to a larger disk"
            ) from error
        raise BadInput(
            f"{archive.name} cannot be unpacked ({error.strerror})", "unpack it yourself and pass the folder"
        ) from error


def _checked_members(opened: zipfile.ZipFile, name: str, limit: int) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Return the members to write, with their paths; reject the whole zip before anything is written."""
    members = [(info, PurePosixPath(info.filename.replace("\\", "/"))) for info in opened.infolist()]
    for info, path in members:
        if path.is_absolute() or ".." in path.parts or WINDOWS_DRIVE.match(info.filename):
            raise BadInput(f"Member {info.filename!r} of {name} points outside the zip", "use a zip that you trust")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BadInput(f"Member {info.filename!r} of {name} is a link or a device", "use a zip that you trust")
        if len(path.parts) > DEPTH_LIMIT:
            raise BadInput(
                f"{name} has folders more than {DEPTH_LIMIT} deep", "pass a zip of the folder with the images"
            )
    paths = Counter(path for info, path in members if not info.is_dir())
    if repeated := next((path for path, count in paths.items() if count > 1), None):
        raise BadInput(f"{name} holds {str(repeated)!r} twice", "make the zip again")
    if len(members) > MEMBER_LIMIT or sum(info.file_size for info, _ in members) > limit:
        raise _too_large(name)
    return [(info, path) for info, path in members if not info.is_dir() and not is_junk(path)]


def _write_members(
    opened: zipfile.ZipFile,
    members: list[tuple[zipfile.ZipInfo, PurePosixPath]],
    folder: Path,
    limit: int,
    name: str,
) -> int:
    written = 0
    for info, path in members:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(info) as source, target.open("xb") as sink:
            # The headers were checked, but a zip can declare wrong sizes, so the unpacked bytes are counted too.
            while block := source.read(BLOCK):
                written += len(block)
                if written > limit:
                    raise _too_large(name)
                sink.write(block)
    return written


def _too_large(name: str) -> BadInput:
    return BadInput(
        f"{name} unpacks to more than {SIZE_LIMIT // 10**9} GB or {MEMBER_LIMIT:,} files",
        "if you trust it, unpack it yourself and pass the folder",
    )
