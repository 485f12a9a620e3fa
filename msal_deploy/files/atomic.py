"""Atomic writes: at every instant, a file or folder is the old one or the new one, whole."""

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msal_deploy.errors import DeployError, MissingRequirement
from msal_deploy.files.checks import StrPath, check_folder, output_file
from msal_deploy.files.locks import output_lock
from msal_deploy.files.temporary import OLD, temporary_folder

# Libraries hide why a write failed, and remove what they wrote: little free space is all that is left to see.
LITTLE_FREE_BYTES = 32 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextmanager
def atomic_file(path: StrPath) -> Iterator[Path]:
    """Yield a temporary path of the same name, and move it to `path` if the block succeeds.

    If the block raises (including on a full disk or Ctrl-C), the previous file remains. A link to a regular file is
    followed.

    >>> with atomic_file("notes.txt") as temporary:
    ...     _ = temporary.write_text("complete")
    >>> Path("notes.txt").read_text()
    'complete'

    Raises:
        BadInput: `path` is a folder, a device or a FIFO.
        MissingRequirement: The disk is full.
    """
    path = output_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _full_disk_reported(path.parent), temporary_folder(path.parent, path.name) as folder:
        temporary = folder / path.name
        yield temporary
        _fsync(temporary)
        temporary.replace(path)


@contextmanager
def atomic_directory(path: StrPath, *, replaces: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """Yield a temporary folder, and move it to `path` if the block succeeds.

    >>> with atomic_directory("results") as temporary:
    ...     _ = (temporary / "a.txt").write_text("1")
    >>> [file.name for file in Path("results").iterdir()]
    ['a.txt']

    Args:
        path: Folder to create. It may exist if it is empty. An empty mount point is filled file by file, those first
            that were written first: it cannot be replaced.
        replaces: Returns whether an existing folder is of the same kind and may be replaced.

    Raises:
        BadInput: `path` contains something else, which stays unchanged, or another command is writing to it.
        MissingRequirement: The disk is full.
    """
    path = Path(path).resolve()
    check_folder(path, replaces)
    parent = path if path.is_mount() else path.parent
    with output_lock(path), _full_disk_reported(parent), temporary_folder(parent, path.name) as folder:
        new = folder / path.name
        new.mkdir()
        yield new
        if path.is_mount():
            _fill(path, new)
        else:
            check_folder(path, replaces)  # again: another program may have written it meanwhile
            _swap(new, path)


def _fill(path: Path, new: Path) -> None:
    for file in sorted(new.iterdir(), key=lambda file: file.stat().st_mtime_ns):  # the manifest is written last
        file.rename(path / file.name)


def _swap(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
    elif not _exchange(new, path):
        path.rename(new.with_name(OLD))  # `temporary._restore` undoes this if the process is killed here
        new.rename(path)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; return False where the kernel or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # neither Linux nor glibc 2.28
        return False
    result: int = rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE)
    return result == 0


@contextmanager
def _full_disk_reported(folder: Path) -> Iterator[None]:
    """Raise `MissingRequirement` if the disk is full: torch, safetensors and Pillow raise other errors in that case."""
    try:
        yield
    except DeployError:
        raise
    except Exception as error:
        known = getattr(error, "errno", None)
        hidden = known is None and shutil.disk_usage(folder).free < LITTLE_FREE_BYTES
        if known in FULL or hidden or "No space left" in str(error):
            remedy = "free some space and run the command again"
            raise MissingRequirement(f"The disk of {folder} is full", remedy) from error
        raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
