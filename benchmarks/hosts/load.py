"""How many images a second go through engines that several clients call at once."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from statistics import fmean, stdev

import msgspec
import numpy as np

from msal_deploy.spec import UInt8Images

Call = Callable[[UInt8Images], object]
Open = Callable[[], AbstractContextManager[Call]]


class Contestant(msgspec.Struct, frozen=True):
    """Something that clients call.

    Attributes:
        open: enters it, once for each client where every client has its own, or once for all.
    """

    name: str
    clients: int
    open: Open
    shared: bool = False


class Throughput(msgspec.Struct, frozen=True):
    """Images a second in each window, all clients together; each client has one request under way."""

    name: str
    clients: int
    windows: tuple[float, ...]

    @property
    def images_per_s(self) -> float:
        """The mean over the windows."""
        return fmean(self.windows)

    @property
    def coefficient_of_variation(self) -> float:
        """Standard deviation of the windows, divided by their mean."""
        return stdev(self.windows) / self.images_per_s

    def to_json(self) -> dict[str, object]:
        """Return JSON types only."""
        return {
            "name": self.name,
            "clients": self.clients,
            "images_per_s": self.images_per_s,
            "windows": list(self.windows),
            "coefficient_of_variation": self.coefficient_of_variation,
        }


def throughputs(
    contestants: Sequence[Contestant], image: UInt8Images, *, seconds: float, windows: int
) -> list[Throughput]:
    """Let contestants take turns, window by window; all are open all the time."""
    found: list[list[float]] = [[] for _ in contestants]
    with ExitStack() as stack:
        opened = [_open(contestant, stack) for contestant in contestants]
        for calls in opened:
            _count(calls, image, seconds / 4)  # warm-up
        for _ in range(windows):
            for calls, counts in zip(opened, found, strict=True):
                counts.append(_count(calls, image, seconds))
    return [Throughput(one.name, one.clients, tuple(counts)) for one, counts in zip(contestants, found, strict=True)]


def _open(contestant: Contestant, stack: ExitStack) -> list[Call]:
    if contestant.shared:
        return [stack.enter_context(contestant.open())] * contestant.clients
    return [stack.enter_context(contestant.open()) for _ in range(contestant.clients)]


def _count(calls: Sequence[Call], image: UInt8Images, seconds: float) -> float:
    """Return the images a second of clients that call for `seconds`, until the last has its answer."""
    done = np.zeros(len(calls), np.int64)
    errors: list[Exception] = []
    start = time.perf_counter()

    def work(client: int) -> None:
        try:
            while time.perf_counter() < start + seconds and not errors:
                calls[client](image)
                done[client] += len(image)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(client,)) for client in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return float(done.sum() / (time.perf_counter() - start))
