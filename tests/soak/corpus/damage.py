"""What makes a good input bad: damage, odd kinds of files, and functions that put them into a case's folder."""

import os
import random
from collections.abc import Callable
from pathlib import Path

from good import link, replace

DONE = frozenset({0})
PROBLEM = frozenset({1})
REFUSED_OR_PROBLEM = frozenset({1, 2})
Make = Callable[[Path], object]


def good(folder: Path) -> Path:
    """Return the good inputs, beside the case's folder."""
    return folder.parent / "good"


def damages(content: bytes, seed: str, flips: int = 4) -> dict[str, bytes]:
    """Return what bad luck makes of a file's content."""
    rng = random.Random(seed)
    found = {
        "empty": b"",
        "one byte": content[:1],
        "cut at 10%": content[: len(content) // 10],
        "cut at 50%": content[: len(content) // 2],
        "cut by 1 byte": content.rstrip(b"\n")[:-1],
        "text": b"this is not what you expect\n",
        "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "zeros": bytes(len(content)),
        "noise": rng.randbytes(min(len(content), 20000)),
        "git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    }
    for index in range(flips):
        flipped = bytearray(content)
        for _ in range(1 + len(content) // 2000):
            flipped[rng.randrange(min(len(flipped), 4096))] ^= 1 << rng.randrange(8)
        found[f"flipped {index}"] = bytes(flipped)
    return found


def later(path: Path, seed: str) -> dict[str, Callable[[], bytes]]:
    """Return the same for a large file, made when it is needed."""
    titles = damages(bytes(100), seed, 0)
    return {title: (lambda title=title: damages(path.read_bytes(), seed, 0)[title]) for title in titles}


def linked_folder(path: Path) -> None:
    """Make a link to an empty folder beside it."""
    path.with_name("empty").mkdir()
    path.symlink_to("empty")


def linked_device(path: Path) -> None:
    """Make a link to a device of the case's own, never to one of the system; where only root may, to a FIFO."""
    node = path.with_name("node")
    try:
        os.mknod(node, 0o20666, os.makedev(1, 5))  # of the same kind as /dev/zero
    except PermissionError:
        os.mkfifo(node)
    path.symlink_to("node")


def oddities(name: str) -> dict[str, Make]:
    """Return things that are not files."""

    def at(make: Callable[[Path], object]) -> Make:
        def write(folder: Path) -> None:
            path = folder / name
            if path.is_symlink() or path.is_file():
                path.unlink()
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)

        return write

    return {
        "a folder": at(lambda path: path.mkdir()),
        "a FIFO": at(os.mkfifo),
        "a dangling link": at(lambda path: path.symlink_to("nowhere")),
        "a circle of links": at(lambda path: path.symlink_to(path.name)),
        "a link to a device": at(linked_device),
        "a link to a folder": at(linked_folder),
        "missing": at(lambda path: None),
    }


def write(name: str, content: bytes | Callable[[], bytes]) -> Make:
    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, content if isinstance(content, bytes) else content())

    return make


def both(*makes: Make) -> Make:
    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def copy(*names: str) -> Make:
    def make(folder: Path) -> None:
        for name in names:
            link(good(folder) / name, folder / name)

    return make
