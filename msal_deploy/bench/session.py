"""An engine that is being timed. `Session` has it in this process, `worker.WorkerSession` in another one."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self

from msal_deploy.bench.results import Setting
from msal_deploy.bench.timing import time_window, warm_up
from msal_deploy.bundle import Bundle
from msal_deploy.runtimes import Engine, open_engine
from msal_deploy.spec import UInt8Images


class TimedEngine(Protocol):
    """What is timed: an engine of this process, or of another one. Leaving the ``with`` statement closes it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def open(self) -> None:
        """Start to open the engine; `load_s` waits for it."""

    def load_s(self) -> float:
        """Return the seconds from the start of opening to the end of the first call."""

    def warm_up(self, seconds: float) -> None:
        """Call the engine until its latency has settled, or `seconds` have passed."""

    def time_window(self, seconds: float, min_runs: int) -> tuple[float, ...]:
        """Return latencies in ms of at least `min_runs` calls that take at least `seconds` together."""

    def peak_memory_mb(self) -> float | None:
        """Return the largest memory of the engine's own process in MB; None if it is unknown or shared."""


class Session:
    """An engine in this process, and the sets of images that it is called with, one after the other.

    ::

        with Session(bundle, Setting(engine="openvino:int8", batch=1), image_sets((512, 512), 1)) as session:
            session.open()
            latencies = session.time_window(seconds=1, min_runs=3)

    Args:
        bundle: The bundle with the graphs.
        setting: Engine, batch, threads and streams.
        sets: One uint8[batch,H,W,3] per set.
    """

    def __init__(self, bundle: Bundle, setting: Setting, sets: Sequence[UInt8Images]) -> None:
        self._bundle = bundle
        self._setting = setting
        self._sets = cycle(sets)
        self._stack = ExitStack()
        self._load_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def open(self) -> None:
        """Open the engine and call it once, which is when most runtimes compile or allocate."""
        start = perf_counter()
        one = self._setting
        engine = open_engine(self._bundle, one.engine, threads=one.threads, streams=one.streams)
        self._call = partial(_call_next, self._stack.enter_context(engine), self._sets)
        self._call()
        self._load_s = perf_counter() - start

    def load_s(self) -> float:
        """Return the seconds from the start of opening to the end of the first call."""
        return self._load_s

    def warm_up(self, seconds: float) -> None:
        """Call the engine until its latency has settled, or `seconds` have passed."""
        warm_up(self._call, seconds)

    def time_window(self, seconds: float, min_runs: int) -> tuple[float, ...]:
        """Return latencies in ms of at least `min_runs` calls that take at least `seconds` together."""
        return time_window(self._call, seconds, min_runs)

    def peak_memory_mb(self) -> float | None:
        """Return None: this process has other engines too."""
        return None


def _call_next(engine: Engine, sets: "cycle[UInt8Images]") -> None:
    engine(next(sets))


def own_peak_memory_mb(status: Path = Path("/proc/self/status")) -> float | None:
    """Return the largest memory that this process has had, in MB; None on systems that do not tell.

    It is the kernel's ``VmHWM``. ``ru_maxrss`` is no less than what the parent had when it started this process.

    >>> own_peak_memory_mb(Path("no such file")) is None
    True
    """
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(sizes[0]) * 1024 / 1e6 if sizes else None
