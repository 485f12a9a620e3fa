"""Trials of graphs: a log of finished ones, a bundle to open one, and the search for the fewest nodes that pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import onnx
from msgspec.structs import replace

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.files import regular_file

T = TypeVar("T")


class TrialLog(Generic[T]):
    """Finished trials by key, in a file with one line for each, so that an interrupted search resumes.

    >>> log = TrialLog(Path("trials.jsonl"), float)
    >>> log.add("first", 0.5)
    >>> TrialLog(Path("trials.jsonl"), float).get("first")
    0.5

    Args:
        path: The file; None to keep the trials in memory.
        kind: Type of a trial, which msgspec can encode.
    """

    def __init__(self, path: Path | None, kind: type[T]) -> None:
        self._path, self._kind = path, kind
        self._known = self._read() if path is not None and path.exists() else {}

    def _read(self) -> dict[str, T]:
        known = {}
        assert self._path is not None
        for line in regular_file(self._path, "log of trials").read_bytes().splitlines():
            try:
                key, trial = msgspec.json.decode(line, type=tuple[str, self._kind])  # type: ignore[name-defined]
            except (ValueError, RecursionError):  # a killed process leaves an incomplete last line
                continue
            known[key] = trial
        return known

    def get(self, key: str) -> T | None:
        """Return the trial of this key, or None."""
        return self._known.get(key)

    def add(self, key: str, trial: T) -> None:
        """Keep a trial, and append it to the file."""
        self._known[key] = trial
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+") as stream:
                stream.write(self._line_end() + msgspec.json.encode((key, trial)) + b"\n")

    def _line_end(self) -> bytes:
        """Return what ends an incomplete last line, which would otherwise take the next trial with it."""
        assert self._path is not None
        content = self._path.read_bytes()
        return b"\n" if content and not content.endswith(b"\n") else b""


def candidate_bundle(bundle: Bundle, model: onnx.ModelProto, name: str, folder: Path) -> Bundle:
    """Write a bundle into `folder` that holds only `model`, under the file name `name`, for `open_engine`.

    >>> model = onnx.load("bundle/model.int8.onnx")
    >>> Path("candidate").mkdir()
    >>> candidate_bundle(Bundle("bundle"), model, "model.int8.onnx", Path("candidate")).has_graph("fp32")
    False
    """
    onnx.save(model, folder / name)
    write_manifest(folder, replace(bundle.manifest, artifacts={name: artifact(folder, name)}))
    return Bundle(folder)


def fewest(count: int, passes: Callable[[int], bool]) -> int | None:
    """Return the smallest number from 1 to `count` that passes, or None; if n passes, n + 1 is assumed to pass.

    It tries 1, 2, 4, 8, …, then bisects between the last two.

    >>> tried = []
    >>> fewest(100, lambda number: tried.append(number) or number >= 5), tried
    (5, [1, 2, 4, 8, 6, 5])
    """
    failed, tried = 0, min(1, count)
    while tried > failed and not passes(tried):
        failed, tried = tried, min(2 * tried, count)
    if tried == failed:
        return None
    while tried - failed > 1:
        middle = (failed + tried) // 2
        failed, tried = (failed, middle) if passes(middle) else (middle, tried)
    return tried
