"""Atomic writes of files and folders, and their hashes."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from msal_deploy.errors import BadInput, MissingRequirement

StrPath: TypeAlias = str | os.PathLike[str]
MIN_FREE_BYTES = 1 << 20  # file systems reserve some space, and a failed write may not fill the last block


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: StrPath) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename it to `path` if the block succeeds.

    If the block raises (including on a full disk or Ctrl-C), the temporary file is removed and the previous file
    remains.

    >>> with atomic_file("notes.txt") as temporary:
    ...     _ = temporary.write_text("complete")
    >>> Path("notes.txt").read_text()
    'complete'

    Raises:
        MissingRequirement: The disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keep the suffix: PIL and matplotlib choose the file format by it.
    temporary = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
    except Exception as error:
        _raise_if_disk_full(path.parent, error)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial_files(folder: StrPath) -> None:
    """Remove what killed processes left of `atomic_file` below a folder. None may be writing there.

    >>> _ = Path(".a.partial-7.txt").write_text("half")
    >>> remove_partial_files(".")
    >>> Path(".a.partial-7.txt").exists()
    False
    """
    for path in Path(folder).rglob(".*.partial-*"):
        if path.is_file():
            path.unlink()


def _raise_if_disk_full(folder: Path, error: Exception) -> None:
    """Raise `MissingRequirement` if the disk is full: torch and safetensors raise other errors in that case."""
    if "No space left" in str(error) or shutil.disk_usage(folder).free < MIN_FREE_BYTES:
        remedy = "free some space and run the command again"
        raise MissingRequirement(f"The disk of {folder} is full", remedy) from error


@contextmanager
def atomic_directory(path: StrPath, *, replaces: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """Yield a temporary folder next to `path`, and rename it to `path` if the block succeeds.

    >>> with atomic_directory("results") as temporary:
    ...     _ = (temporary / "a.txt").write_text("1")
    >>> [file.name for file in Path("results").iterdir()]
    ['a.txt']

    Args:
        path: Folder to create. It may exist if it is empty.
        replaces: Returns whether an existing folder is of the same kind and may be replaced.

    Raises:
        BadInput: `path` contains something else, which stays unchanged, or is a mount point, which cannot be replaced.
        MissingRequirement: The disk is full.
    """
    path = Path(path).resolve()
    _check_replaceable(path, replaces)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        _check_replaceable(path, replaces)  # again: another process may have written it meanwhile
        _swap(temporary, path)
    except Exception as error:
        _raise_if_disk_full(path.parent, error)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, path: Path) -> None:
    # Two renames: the old folder is deleted only after the new one has taken its place.
    old = temporary.with_name(temporary.name + "-old")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(path: Path, replaces: Callable[[Path], bool]) -> None:
    if path.is_mount():
        raise BadInput(f"{path} is a mount point", "choose a folder inside it")
    if path.is_dir() and (not any(path.iterdir()) or replaces(path)):
        return
    if path.exists():
        raise BadInput(f"{path} already exists and is not empty", "choose another folder or remove it")


def sha256(path: StrPath) -> str:
    """Return the SHA-256 of a file as a hexadecimal string.

    >>> _ = Path("empty").write_bytes(b"")
    >>> sha256("empty")[:8]
    'e3b0c442'
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: StrPath, value: Any) -> None:
    """Write `value` (JSON types only, no NaN) as indented JSON, atomically.

    >>> write_json("report.json", {"dice": 0.81})
    >>> print(Path("report.json").read_text(), end="")
    {
      "dice": 0.81
    }
    """
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
