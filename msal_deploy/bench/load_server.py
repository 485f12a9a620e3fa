"""A setting that is open and warm, and serves loads."""

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import cycle
from time import perf_counter
from types import TracebackType
from typing import Self

import numpy as np

from msal_deploy.bench.load_loop import Call, arrival_times, closed_loop, open_loop
from msal_deploy.bench.load_results import Load, LoadResult
from msal_deploy.bench.results import Setting
from msal_deploy.bundle import Bundle
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes.base import Engine
from msal_deploy.runtimes.catalogue import CATALOGUE
from msal_deploy.spec import Axis, UInt8Images

CONNECTIONS = 32  # to a server in an open loop: more requests than that wait here, and their latency counts
WARM_UP_CALLS, WARM_UP_SECONDS = 2, 1.0  # at least so many calls, and more until so much time has passed


class Server:
    """Serves requests of `setting.batch` images each, one after the other in the order of their arrival.

    An engine on this machine computes one call at a time. With more streams than images in a request, a call takes as
    many waiting requests as there are streams. An engine on a server, such as Triton, gets every request at once, over
    a connection for each that is in flight; what happens to them is the server's affair.

    Args:
        bundle: The bundle with the graphs.
        setting: The engine and its options.
        sets: Sets of `setting.batch` images each; every request takes the next one.
        connections: Requests in flight at the same time, if the engine is on a server.
        warm_up: Seconds of calls before the first load, at most `WARM_UP_SECONDS`.

    Attributes:
        together: Requests that one call may take.
        places: Requests that can be served at the same time.
    """

    def __init__(
        self, bundle: Bundle, setting: Setting, sets: Sequence[UInt8Images], connections: int, warm_up: float = 1.0
    ) -> None:
        self._bundle, self._setting, self._sets = bundle, setting, sets
        self._connections = connections if is_on_a_server(setting.engine) else 1
        self._warm_up_seconds = min(warm_up, WARM_UP_SECONDS)
        self.together = max(1, min(setting.streams, _max_batch(bundle)) // setting.batch)
        self.places = self.together * self._connections
        self.name = f"{setting.engine}, batch {setting.batch}"
        self._stack = ExitStack()
        self._calls: list[Call] = []

    def __enter__(self) -> Self:
        one = self._setting
        with ExitStack() as stack:
            for _ in range(self._connections):
                engine = open_engine(self._bundle, one.engine, threads=one.threads, streams=one.streams)
                self._calls.append(_call(stack.enter_context(engine), self._sets))
            self._warm_up()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls.clear()
        self._stack.close()

    def _warm_up(self) -> None:
        """Call each engine with every number of requests that a call may take."""
        for call in self._calls:
            end = perf_counter() + self._warm_up_seconds / len(self._calls)
            calls = 0
            while calls < WARM_UP_CALLS or perf_counter() < end:
                for requests in range(1, self.together + 1):
                    call(requests)
                calls += 1

    def serve(self, load: Load, seconds: float, seed: int = 0) -> LoadResult:
        """Serve a load for some time, and return its result; after Ctrl-C, that of the time until then."""
        if load.in_flight:
            served = closed_loop(self._calls[: load.in_flight], load.in_flight, seconds, together=self.together)
        else:
            arrivals = arrival_times(load.rate or 0.0, seconds, load.spacing, seed)
            served = open_loop(self._calls, arrivals, seconds, together=self.together)
        one = self._setting
        return LoadResult(
            engine=one.engine,
            batch=one.batch,
            threads=one.threads,
            streams=one.streams,
            size=self._sets[0].shape[1:3],
            microns_per_pixel=self._bundle.spec.microns_per_pixel,
            load=load,
            served=served,
        )


def is_on_a_server(engine_id: str) -> bool:
    """Return whether an engine sends its images to a server, which can compute several requests at the same time.

    >>> is_on_a_server("triton:grpc://localhost"), is_on_a_server("openvino:int8")
    (True, False)
    """
    runtime = CATALOGUE.get(engine_id.partition(":")[0])
    return runtime is not None and runtime.device == "server"


def _max_batch(bundle: Bundle) -> int:
    axis = bundle.spec.image.axes[0]
    return axis.maximum if isinstance(axis, Axis) else axis


def _call(engine: Engine, sets: Sequence[UInt8Images]) -> Call:
    """Return what computes some requests together, each with the next set of images."""
    following = cycle(sets)

    def call(requests: int) -> None:
        images = [next(following) for _ in range(requests)]
        engine(images[0] if requests == 1 else np.concatenate(images))

    return call
