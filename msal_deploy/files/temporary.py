"""Temporary folders that no other user can enter, and that the next command removes if their own is killed.

A temporary folder is created exclusively, under a name that cannot be predicted, with access for its owner only: nobody
can plant a link in it. The process that writes into it holds the kernel's lock (``flock``) on it, which ends with the
process, however it ends. So a folder of this kind that can be locked was left by a killed process. File systems without
such locks, such as some NFS mounts, keep these leftovers.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = ".msal-deploy-"
LEFTOVER = re.compile(rf"\..*{re.escape(MARK)}[a-z0-9_]{{8}}")  # mkdtemp's random part
LOCK = f"{MARK}lock"  # the end of the name of an output's lock, see `msal_deploy.files.locks`
OLD = "old"  # in a temporary folder: what `path` was, between the two renames of a swap
LONGEST = 200  # bytes; a file name may have 255

_own: set[Path] = set()


@contextmanager
def temporary_folder(parent: str | os.PathLike[str] | None = None, name: str = "work") -> Iterator[Path]:
    """Yield a new folder that is removed when the block ends.

    >>> with temporary_folder(".", "demo") as folder:
    ...     _ = (folder / "half").write_text("half")
    >>> folder.exists()
    False

    Args:
        parent: Folder to create it in; None for the system's folder of temporary files.
        name: Part of its name.
    """
    short = os.fsdecode(os.fsencode(name)[:LONGEST])
    folder, descriptor = _create(Path(parent or tempfile.gettempdir()), short)
    _own.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
        _own.discard(folder)


def remove_own() -> None:
    """Remove the temporary folders of this process, before it ends without unwinding its stack."""
    for folder in tuple(_own):
        shutil.rmtree(folder, ignore_errors=True)


def _create(parent: Path, name: str) -> tuple[Path, int]:
    """Return a new folder and its locked descriptor. Another command may take it for a leftover before it is locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{name}{MARK}", dir=parent))
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            with suppress(OSError):  # no locks on this file system
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_same_file(descriptor, folder):
                return folder, descriptor
            os.close(descriptor)


def is_same_file(descriptor: int, path: Path) -> bool:
    """Return whether `path` still is the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def remove_leftovers(folder: str | os.PathLike[str], *, below: bool = False) -> None:
    """Remove the temporary folders and locks that killed processes left in a folder; those of running ones stay.

    >>> Path(".report.json.msal-deploy-abcd_123").mkdir()
    >>> remove_leftovers(".")
    >>> Path(".report.json.msal-deploy-abcd_123").exists()
    False

    Args:
        folder: It may be missing or unreadable.
        below: Look in its subfolders, too.
    """
    for parent, folders, files in os.walk(folder):
        left = [name for name in folders if LEFTOVER.fullmatch(name)]
        for name in (*left, *(name for name in files if name.endswith(LOCK))):
            _remove_if_left(Path(parent, name))
        folders[:] = folders if below else []


def _remove_if_left(path: Path) -> None:
    with suppress(OSError):  # another command removes it, or it belongs to another user
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.name.endswith(LOCK):
                path.unlink()
            else:
                _restore(path)
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def _restore(folder: Path) -> None:
    """Put back what a swap had moved away when it was killed, before the new folder took its place."""
    with suppress(StopIteration):
        new = next(path for path in folder.iterdir() if path.name != OLD)
        if (folder / OLD).exists() and not folder.with_name(new.name).exists():
            (folder / OLD).rename(folder.with_name(new.name))
