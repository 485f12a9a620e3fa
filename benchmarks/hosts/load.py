"""Throughput of engines that several clients call at the same time."""

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


class Load(msgspec.Struct, frozen=True):
    """An engine under load.

    Attributes:
        name: Name in the table.
        clients: Number of clients.
        open: Opens the engine.
        shared: Whether all clients share one engine. Otherwise each client opens its own.
    """

    name: str
    clients: int
    open: Open
    shared: bool = False


class Throughput(msgspec.Struct, frozen=True):
    """Throughput of all clients together. Each client has one request in flight.

    Attributes:
        name: Name in the table.
        clients: Number of clients.
        windows: Images per second in each window.
    """

    name: str
    clients: int
    windows: tuple[float, ...]

    @property
    def images_per_s(self) -> float:
        """Mean over the windows."""
        return fmean(self.windows)

    @property
    def coefficient_of_variation(self) -> float:
        """Standard deviation of the windows, divided by their mean."""
        return stdev(self.windows) / self.images_per_s

    def to_json(self) -> dict[str, object]:
        """Return the throughput as JSON types."""
        return {
            "name": self.name,
            "clients": self.clients,
            "images_per_s": self.images_per_s,
            "windows": list(self.windows),
            "coefficient_of_variation": self.coefficient_of_variation,
        }


def throughputs(loads: Sequence[Load], image: UInt8Images, *, seconds: float, windows: int) -> list[Throughput]:
    """Measure the loads interleaved, window by window. All engines stay open throughout."""
    rates: list[list[float]] = [[] for _ in loads]
    with ExitStack() as stack:
        opened = [_open(load, stack) for load in loads]
        for calls in opened:
            _images_per_s(calls, image, seconds / 4)  # warm-up
        for _ in range(windows):
            for calls, measured in zip(opened, rates, strict=True):
                measured.append(_images_per_s(calls, image, seconds))
    return [Throughput(load.name, load.clients, tuple(measured)) for load, measured in zip(loads, rates, strict=True)]


def _open(load: Load, stack: ExitStack) -> list[Call]:
    if load.shared:
        return [stack.enter_context(load.open())] * load.clients
    return [stack.enter_context(load.open()) for _ in range(load.clients)]


def _images_per_s(calls: Sequence[Call], image: UInt8Images, seconds: float) -> float:
    """Let all clients call for `seconds`, wait for the last result, and return the images per second."""
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
