"""One lock for each output: two commands that write to one place would mix their results, or lose one of them."""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msal_deploy.errors import BadInput
from msal_deploy.files.checks import StrPath
from msal_deploy.files.temporary import LOCK, is_same_file, remove_leftovers

VARIABLE = "MSAL_DEPLOY_LOCKED"  # tells the processes that a command starts which outputs it has locked
_inherited = frozenset(filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))
_held: dict[str, int] = {}  # output -> the thread that holds its lock


@contextmanager
def output_lock(path: StrPath, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of an output, a folder or file that need not exist, and remove what killed commands left there.

    The lock is a file beside the output, ``.NAME.msal-deploy-lock``, which the kernel unlocks when its process ends.
    Blocks inside this one, and the processes that it starts, may take the same lock again.

    >>> with output_lock("bundle"):
    ...     Path(".bundle.msal-deploy-lock").exists()
    True

    Args:
        path: The output.
        waiting: Called once before waiting for another command that has the lock; None to raise in that case.

    Raises:
        BadInput: Another command is writing to `path`.
    """
    path = Path(path).resolve()
    if not path.name:
        raise BadInput(f"{path} cannot be written to", "choose a folder in it")
    if str(path) in _inherited or _held.get(str(path)) == threading.get_ident():
        yield
        return
    created = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(path, waiting), _noted(str(path)):
            remove_leftovers(path.parent)
            remove_leftovers(path, below=True)
            yield
    finally:
        with suppress(OSError):  # not empty: the command wrote something
            for folder in created:
                folder.rmdir()


@contextmanager
def _noted(path: str) -> Iterator[None]:
    _held[path] = threading.get_ident()
    os.environ[VARIABLE] = os.pathsep.join([*_inherited, *_held])
    try:
        yield
    finally:
        del _held[path]
        os.environ[VARIABLE] = os.pathsep.join([*_inherited, *_held])


@contextmanager
def _locked(path: Path, waiting: Callable[[], None] | None) -> Iterator[None]:
    file, descriptor = _acquire(path, waiting)
    try:
        yield
    finally:
        if is_same_file(descriptor, file):
            file.unlink()
        os.close(descriptor)


def _acquire(path: Path, waiting: Callable[[], None] | None) -> tuple[Path, int]:
    while True:
        file, descriptor = _open(path)
        try:
            _lock(descriptor, path, waiting)
            if is_same_file(descriptor, file):  # the command that had the lock removes the file
                return file, descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(path: Path) -> tuple[Path, int]:
    """Open the lock file beside an output; in it if the folder that it is in cannot be written, as in a container."""
    flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW
    file = path.with_name(f".{path.name}{LOCK}")
    try:
        return file, os.open(file, flags, 0o666)
    except OSError:
        if not path.is_dir():
            raise
        return path / LOCK, os.open(path / LOCK, flags, 0o666)


def _lock(descriptor: int, path: Path, waiting: Callable[[], None] | None) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if waiting is None:
            remedy = "wait until it has finished, or choose another output"
            raise BadInput(f"Another msal-deploy command is writing to {path}", remedy) from error
        waiting()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # this file system has no locks
        return
