"""Is a path what it should be? Asked before any work starts: reading a FIFO waits forever, and a device is no file."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from msal_deploy.errors import BadInput

StrPath: TypeAlias = str | os.PathLike[str]
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def regular_file(path: StrPath, what: str = "file") -> Path:
    """Return `path` if it is a regular file, or a link to one.

    >>> regular_file("monuseg", "XML")
    Traceback (most recent call last):
    msal_deploy.errors.BadInput: The XML monuseg is a folder; name a file

    Raises:
        BadInput: It does not exist, or is something else.
    """
    kind = _kind(Path(path))
    if kind is None:
        raise BadInput(f"The {what} {_shown(path)} does not exist", "check the path")
    if kind != stat.S_IFREG:
        raise BadInput(f"The {what} {_shown(path)} is {KINDS.get(kind, 'not a file')}", "name a file")
    return Path(path)


def output_file(path: StrPath) -> Path:
    """Return the regular file that a result goes to: `path`, or what it is a link to.

    >>> output_file("monuseg")
    Traceback (most recent call last):
    msal_deploy.errors.BadInput: monuseg is a folder; name a file to write

    Raises:
        BadInput: It exists and is not a regular file, or its folder cannot be written.
    """
    real = _real(path)
    kind = _kind(real)
    if kind not in (None, stat.S_IFREG):
        raise BadInput(f"{_shown(path)} is {KINDS.get(kind or 0, 'not a file')}", "name a file to write")
    _check_writable(real.parent)
    return real


def output_folder(path: StrPath, replaces: Callable[[Path], bool] | None = None) -> Path:
    """Return the folder that results go to.

    Args:
        path: The folder; it need not exist.
        replaces: Returns whether an existing folder may be replaced; None if results are added to it.

    Raises:
        BadInput: It exists and is not a folder, or holds files that must not be replaced, or cannot be written.
    """
    real = _real(path)
    if replaces is not None:
        check_folder(real, replaces)
    elif _kind(real) not in (None, stat.S_IFDIR):
        raise BadInput(f"{_shown(path)} is not a folder", "choose another folder")
    _check_writable(real)
    return real


def check_folder(path: Path, replaces: Callable[[Path], bool]) -> None:
    """Raise `BadInput` unless `path` is missing or empty, or may be replaced."""
    kind = _kind(path)
    if kind is None:
        return
    empty = kind == stat.S_IFDIR and not any(path.iterdir())
    if path.is_mount() and not empty:
        raise BadInput(f"{path} is a mount point and is not empty", "empty it, or choose a folder inside it")
    if not empty and not (kind == stat.S_IFDIR and replaces(path)):
        raise BadInput(f"{path} already exists and is not empty", "choose another folder or remove it")


def _check_writable(folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if _kind(parent) is not None)
    if not existing.is_dir():
        raise BadInput(f"{existing} is not a folder", "choose a path in a folder")
    # Some file systems, such as /proc, let everybody write and yet take no files.
    if not os.access(existing, os.W_OK | os.X_OK) or existing.is_relative_to("/proc"):
        raise BadInput(f"{existing} cannot be written", "choose a folder that you can write")


def _real(path: StrPath) -> Path:
    _kind(Path(path))  # raises if the name itself is impossible
    return Path(os.path.realpath(path))


def _kind(path: Path) -> int | None:
    """Return the type of what a path leads to, or None if that does not exist."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a loop of links, too long a name, a NUL in it
        raise BadInput(f"{_shown(path)} cannot be opened ({_reason(error)})", "check the path") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _shown(path: StrPath) -> str:
    """Return a path for a message of one line, whatever characters are in its name."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)
