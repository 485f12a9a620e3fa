"""The loop that generates a load: it takes requests in the order of their arrival, and records when each was served.

A closed loop has a fixed number of clients. Each sends its next request when it has the answer to the last one. An
open loop has arrivals at fixed times, whatever the engine does. There the latency counts from the time at which a
request was meant to be sent, so an engine that stalls delays every request behind it, as it does for real clients. A
loop that waits for the engine would send fewer requests meanwhile and count only one of them as slow ("coordinated
omission").

Times are integers, nanoseconds since the load began.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from time import perf_counter_ns, sleep, thread_time_ns
from typing import Literal

import msgspec
import numpy as np

SECOND = 1_000_000_000  # in ns
LONGEST_SLEEP = 0.1  # seconds after which a sleeping worker looks whether the others have failed

Spacing = Literal["poisson", "constant"]
Call = Callable[[int], object]  # serves that many requests together


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request that was served; times in ns since the load began.

    Attributes:
        intended: When it was meant to be sent: its arrival, or the answer to the client's previous request.
        start: When it was passed to the engine.
        end: When its answer was there.
    """

    intended: int
    start: int
    end: int


class Served(msgspec.Struct, frozen=True):
    """What became of a load.

    Attributes:
        requests: The requests that were served, in the order of their answers.
        unserved: Arrivals that were not served by the time at which the load ended; open loops only.
        duration: How long requests arrived, in ns.
        ended: When the load ended, in ns: at `duration`, or later if requests had to be drained.
        generator: CPU time of the load generator itself in ns, outside the calls of the engine.
        interrupted: Whether Ctrl-C ended the load.
    """

    requests: tuple[Request, ...]
    unserved: tuple[int, ...]
    duration: int
    ended: int
    generator: int
    interrupted: bool


def arrival_times(rate: float, seconds: float, spacing: Spacing = "poisson", seed: int = 0) -> list[int]:
    """Return when requests arrive in an open loop, in ns.

    The number of arrivals is always `rate` times `seconds`, at least one, so the offered rate is the one asked for.
    Between them are exponential gaps (a Poisson process with a known number of arrivals), or constant ones.

    >>> arrival_times(4, 1, "constant")
    [0, 250000000, 500000000, 750000000]
    >>> len(arrival_times(4, 1)), arrival_times(4, 1) == arrival_times(4, 1)
    (4, True)

    Args:
        rate: Requests per second.
        seconds: How long requests arrive.
        spacing: ``poisson`` or ``constant``.
        seed: Of the random gaps: the same seed gives the same pattern at every rate.
    """
    count = max(1, round(rate * seconds))
    if spacing == "constant":
        return [round(index / rate * SECOND) for index in range(count)]
    gaps = np.random.default_rng(seed).exponential(size=count + 1)
    times = np.cumsum(gaps)
    return [round(time) for time in (times[:-1] / times[-1] * seconds * SECOND).tolist()]


class LoadLoop:
    """Serves one load. Use `closed_loop` or `open_loop`.

    Args:
        arrivals: When requests arrive, in order, in ns.
        duration: How long requests arrive, in ns.
        patience: How much longer the loop serves requests that have arrived, in ns.
        repeat: Whether each answer brings the next request (closed loop).
        together: Requests that one call may take, if as many wait.
        least: Requests to serve at least; closed loops last longer for them.
    """

    def __init__(
        self,
        arrivals: Iterable[int],
        *,
        duration: int,
        patience: int = 0,
        repeat: bool = False,
        together: int = 1,
        least: int = 0,
    ) -> None:
        self._waiting = deque(arrivals)
        self._duration, self._patience, self._repeat = duration, patience, repeat
        self._together, self._least = together, least
        self._requests: list[Request] = []
        self._lock = threading.Lock()
        self._stopped = False
        self._generator = 0
        self._began = 0

    def run(self, calls: Sequence[Call]) -> Served:
        """Serve the load with one worker for each of `calls`, and return what became of it, also after Ctrl-C."""
        self._began = perf_counter_ns()
        interrupted = False
        try:
            if len(calls) == 1:
                self._work(calls[0])  # in this thread: no other one that would take the processor from the engine
            else:
                self._work_in_threads(calls)
        except KeyboardInterrupt:
            interrupted = True
        ended = self._now()
        duration = ended if interrupted or self._repeat else self._duration
        unserved = () if self._repeat else tuple(time for time in self._waiting if time <= ended)
        return Served(tuple(self._requests), unserved, duration, ended, self._generator, interrupted)

    def _now(self) -> int:
        return perf_counter_ns() - self._began

    def _work_in_threads(self, calls: Sequence[Call]) -> None:
        with ThreadPoolExecutor(len(calls)) as pool:
            try:
                workers = [pool.submit(self._work, call) for call in calls]
                wait(workers, return_when=FIRST_EXCEPTION)
            finally:
                self._stopped = True
        for worker in workers:
            worker.result()

    def _work(self, call: Call) -> None:
        spent = thread_time_ns()
        try:
            while taken := self._take():
                spent += self._serve(call, taken)
        finally:
            with self._lock:
                self._generator += thread_time_ns() - spent

    def _serve(self, call: Call, taken: Sequence[int]) -> int:
        """Serve the requests that arrived at `taken` with one call; return the CPU time of the call."""
        start, before = self._now(), thread_time_ns()
        try:
            call(len(taken))
        except BaseException:
            self._waiting.extendleft(reversed(taken))
            raise
        spent, end = thread_time_ns() - before, self._now()
        with self._lock:
            self._requests += [Request(intended, start, end) for intended in taken]
            self._waiting.extend([end] * len(taken) if self._repeat else ())
        return spent

    def _take(self) -> list[int]:
        """Return when the next requests arrived, after waiting for the first of them; none at the end."""
        with self._lock:
            if self._is_over():
                return []
            taken = [self._waiting.popleft()]
        self._wait_until(taken[0])
        if self._stopped:
            return []
        with self._lock:
            while len(taken) < self._together and self._waiting and self._waiting[0] <= self._now():
                taken.append(self._waiting.popleft())
        return taken

    def _is_over(self) -> bool:
        if self._stopped or not self._waiting:
            return True
        if self._repeat:
            return self._now() >= self._duration and len(self._requests) >= self._least
        return self._now() >= self._duration + self._patience

    def _wait_until(self, time: int) -> None:
        while (left := time - self._now()) > 0 and not self._stopped:
            sleep(min(left / SECOND, LONGEST_SLEEP))


def closed_loop(calls: Sequence[Call], in_flight: int, seconds: float, *, together: int = 1, least: int = 5) -> Served:
    """Serve `in_flight` clients, each of which waits for its answer before it sends the next request.

    >>> served = closed_loop([lambda requests: None], in_flight=2, seconds=0.001)
    >>> len(served.requests) >= 5 + 2
    True

    Args:
        calls: Serves the given number of requests; one for each request that may be served at the same time.
        in_flight: Number of clients.
        seconds: How long they send requests.
        together: Requests that one call may take.
        least: Requests to serve at least, besides the first one of each client.
    """
    loop = LoadLoop(
        [0] * in_flight,
        duration=round(seconds * SECOND),
        repeat=True,
        together=together,
        least=least + in_flight,
    )
    return loop.run(calls)


def open_loop(calls: Sequence[Call], arrivals: Sequence[int], seconds: float, *, together: int = 1) -> Served:
    """Serve requests that arrive at given times, whatever the engine does.

    Requests that wait when the arrivals end are still served, for a quarter of the time that the arrivals took.

    >>> served = open_loop([lambda requests: None], arrival_times(1000, 0.01), 0.01)
    >>> len(served.requests), served.unserved
    (10, ())

    Args:
        calls: Serves the given number of requests; one for each request that may be served at the same time.
        arrivals: When requests arrive, in ns.
        seconds: How long requests arrive.
        together: Requests that one call may take, if as many wait.
    """
    duration = round(seconds * SECOND)
    return LoadLoop(arrivals, duration=duration, patience=duration // 4, together=together).run(calls)
