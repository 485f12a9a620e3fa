"""The stage: put engines under load, in closed and open loops, or find the highest rate that meets a limit."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from msal_deploy.bench.checks import check_options, require_all, valid_settings
from msal_deploy.bench.inputs import image_sets
from msal_deploy.bench.load_loop import Spacing
from msal_deploy.bench.load_report import LoadReport
from msal_deploy.bench.load_results import Load, LoadResult
from msal_deploy.bench.load_search import RateSearch, search_rate
from msal_deploy.bench.load_server import CONNECTIONS, Server
from msal_deploy.bench.machine import MachineWatch
from msal_deploy.bench.measure import Plan
from msal_deploy.bench.results import Failure, Setting
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, DeployError

MAX_IN_FLIGHT = 1024
MAX_REQUESTS = 1_000_000  # of an open loop


def load_test(
    bundle: Bundle,
    engine_ids: Sequence[str],
    *,
    in_flight: Sequence[int] = (),
    rates: Sequence[float] = (),
    p99_under_ms: float | None = None,
    spacing: Spacing = "poisson",
    batches: Sequence[int] = (1,),
    threads: Sequence[int | None] = (None,),
    streams: Sequence[int] = (1,),
    size: tuple[int, int] = (512, 512),
    images: Path | None = None,
    seconds: float = 10.0,
    progress: bool = False,
) -> LoadReport:
    """Measure latency and throughput under load, one setting after the other.

    >>> from pathlib import Path
    >>> report = load_test(Bundle(Path("bundle")), ["openvino:fp32"], in_flight=[2], size=(32, 32), seconds=0.01)
    >>> report.results[0].load.in_flight, report.results[0].requests_per_s > 0
    (2, True)

    Args:
        bundle: The bundle with the graphs.
        engine_ids: Engines to test.
        in_flight: Closed loops: numbers of clients. Each waits for its answer before it sends the next request.
        rates: Open loops: requests per second, whatever the engine does.
        p99_under_ms: Find the highest rate whose p99 is at most that, in ms; see `search_rate`.
        spacing: Arrivals of open loops: ``poisson``, with a fixed seed, or ``constant``.
        batches: Images per request.
        threads: Numbers of CPU threads; None lets the runtime choose.
        streams: Images that are computed in parallel; waiting requests are computed together up to that number.
        size: Height and width in pixels.
        images: A folder of 8-bit RGB images to cut tiles from; None for synthetic tissue.
        seconds: Length of a load, after a warm-up of at most a second.
        progress: Show a progress bar on stderr.

    Returns:
        The report. After Ctrl-C, it has the results until then, and `LoadReport.interrupted` is true.

    Raises:
        BadInput: An engine is unknown or listed twice, or a number is out of range.
        MissingRequirement: An engine lacks what it needs.
        DeployError: Nothing could be measured; it is the error of the first engine.
        KeyboardInterrupt: Ctrl-C was pressed before anything was measured.
    """
    check_options(bundle.spec, engine_ids, batches, Plan(size=size, seconds=seconds, windows=2, rounds=1))
    loads = _loads(in_flight, rates, spacing)
    _check_load(loads, p99_under_ms, seconds)
    settings = valid_settings(bundle, engine_ids, batches, threads, streams)
    require_all(bundle, settings, size)
    watch = MachineWatch()
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        test = _Test(bundle, images, size, seconds, loads, p99_under_ms, spacing, bar)
        test.run(settings)
    return test.report(watch.stop())


def _loads(in_flight: Sequence[int], rates: Sequence[float], spacing: Spacing) -> tuple[Load, ...]:
    closed = [Load(in_flight=clients) for clients in in_flight]
    return (*closed, *(Load(rate=rate, spacing=spacing) for rate in rates))


def _check_load(loads: Sequence[Load], p99_under_ms: float | None, seconds: float) -> None:
    """Raise `BadInput` unless all numbers are in range."""
    if not loads and p99_under_ms is None:
        raise BadInput("Expected a load, got none", "give a number of clients, a rate or a limit for p99")
    if len(set(loads)) < len(loads):
        raise BadInput("A load was given twice", "give each only once")
    if p99_under_ms is not None and not 0 < p99_under_ms < math.inf:
        raise BadInput(f"A p99 under {p99_under_ms:g} ms is not possible", "give a positive number of milliseconds")
    for one in loads:
        if one.rate is None and not 1 <= (one.in_flight or 0) <= MAX_IN_FLIGHT:
            raise BadInput(f"Expected 1 to {MAX_IN_FLIGHT} requests in flight, got {one.in_flight}", "use fewer")
        if one.rate is not None and not 1 <= one.rate * seconds <= MAX_REQUESTS:
            cause = f"{one.rate:g} requests/s for {seconds:g} s are not 1 to {MAX_REQUESTS} requests"
            raise BadInput(cause, "use another rate or duration")


class _Test:
    """The results so far. They are kept whatever happens next."""

    def __init__(
        self,
        bundle: Bundle,
        images: Path | None,
        size: tuple[int, int],
        seconds: float,
        loads: Sequence[Load],
        p99_under_ms: float | None,
        spacing: Spacing,
        bar: Progress,
    ) -> None:
        self._bundle, self._images, self._size, self._seconds = bundle, images, size, seconds
        self._loads, self._limit_ms, self._spacing, self._bar = loads, p99_under_ms, spacing, bar
        at_most = max([one.in_flight or CONNECTIONS for one in loads], default=CONNECTIONS)
        self._connections = at_most if p99_under_ms is None else max(at_most, CONNECTIONS)
        self.results: list[LoadResult] = []
        self.searches: dict[Setting, RateSearch] = {}
        self.failed: list[Failure] = []
        self.interrupted = False

    def run(self, settings: Sequence[Setting]) -> None:
        """Test one setting after the other, until Ctrl-C."""
        try:
            for setting in settings:
                self._test(setting)
        except KeyboardInterrupt:
            self.interrupted = True

    def report(self, environment: dict[str, Any]) -> LoadReport:
        """Return the report, or raise what has prevented every measurement."""
        measured = self.results or self.searches
        if self.interrupted and not measured:
            raise KeyboardInterrupt
        if self.failed and not measured:
            raise self.failed[0].error
        results, searches = tuple(self.results), tuple(self.searches.values())
        return LoadReport(results, searches, tuple(self.failed), environment, self.interrupted)

    def _test(self, setting: Setting) -> None:
        try:
            sets = image_sets(self._size, setting.batch, folder=self._images)
            with Server(self._bundle, setting, sets, self._connections, self._seconds) as server:
                self._put_under_load(server, setting)
        except DeployError as error:
            self.failed.append(Failure(setting, error))

    def _put_under_load(self, server: Server, setting: Setting) -> None:
        serve = partial(self._serve, server)
        for one in self._loads:
            self.results.append(serve(one, self._seconds, 0))
        if self._limit_ms is not None:
            keep = partial(self.searches.__setitem__, setting)
            places, spacing = server.places, self._spacing
            search_rate(serve, self._limit_ms, self._seconds, places=places, spacing=spacing, keep=keep)

    def _serve(self, server: Server, one: Load, seconds: float, seed: int) -> LoadResult:
        task = self._bar.add_task(f"{server.name}, {one}", total=None)
        result = server.serve(one, seconds, seed)
        self._bar.remove_task(task)
        if result.served.interrupted:
            self.results += [result] if result.counted else []
            raise KeyboardInterrupt
        return result
