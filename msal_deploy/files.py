"""Files and folders that are whole or not there, and their hashes."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msal_deploy.errors import BadInput, MissingRequirement

NO_ROOM = 1 << 20  # bytes; file systems keep a little back, and a failed write may not fill the last block


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block succeeds, it becomes `path` in one step.

    When the block raises (a full disk and Ctrl-C included), the temporary file is removed and whatever was at
    `path` before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept: savers such as PIL and matplotlib choose their format by it.
    temporary = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
    except Exception as error:
        _tell_full_disk(path.parent, error)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _tell_full_disk(folder: Path, error: Exception) -> None:
    """Raise `MissingRequirement` where the disk is full: torch and safetensors fail on it with errors of their own."""
    if "No space left" in str(error) or shutil.disk_usage(folder).free < NO_ROOM:
        raise MissingRequirement(f"The disk of {folder} is full; free some space and run the command again") from error


@contextmanager
def atomic_directory(path: Path, *, replaces: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; when the block succeeds, it becomes `path`.

    Args:
        path: the folder to make. A missing or empty one is taken.
        replaces: says of a folder whether it is of the same kind and may be replaced.

    Raises:
        BadInput: `path` holds something else, which is left alone, or is a mount point, which cannot be replaced.
    """
    path = path.resolve()
    _check_target(path, replaces)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        _check_target(path, replaces)  # again: somebody may have come first
        _swap(temporary, path)
    except Exception as error:
        _tell_full_disk(path.parent, error)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, path: Path) -> None:
    # Two renames: the old folder is deleted only once the new one stands in its place.
    old = temporary.with_name(temporary.name + "-old")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _check_target(path: Path, replaces: Callable[[Path], bool]) -> None:
    if path.is_mount():
        raise BadInput(f"{path} is a mount point; name a folder inside it")
    if path.is_dir() and (not any(path.iterdir()) or replaces(path)):
        return
    if path.exists():
        raise BadInput(f"{path} already exists and is not empty; choose another folder or remove it")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` (JSON types only) as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
