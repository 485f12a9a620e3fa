"""What our engines add to a bare loop over the same graph: pairs of single runs, and a claim for each engine."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any, Literal

import msgspec
from bare_loops import bare_loop
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from msal_deploy.bench import Timing, describe_machine, image_sets, median_interval, time_interleaved
from msal_deploy.bundle import Bundle
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import UInt8Images, check_extent

OVERHEAD = 0.03  # relative to the bare loop


class Pairs(msgspec.Struct, frozen=True):
    """Latencies of an engine and of the bare loop, alternating run by run.

    Attributes:
        ours: Latencies of the engine; a window is one run.
        bare: Latencies of the bare loop.
    """

    ours: Timing
    bare: Timing

    @property
    def overheads(self) -> tuple[float, ...]:
        """Latency of our engine relative to the bare loop, minus 1, for each pair."""
        return tuple(ours / bare - 1 for ours, bare in zip(self.ours.medians, self.bare.medians, strict=True))

    @property
    def verdict(self) -> Literal["met", "not met", "not settled"]:
        """Whether the claim is met: the interval of the median is within `OVERHEAD`, beyond it, or on both sides."""
        low, high = median_interval(self.overheads)
        return "met" if high <= OVERHEAD else "not met" if low > OVERHEAD else "not settled"

    def __str__(self) -> str:
        low, high = median_interval(self.overheads)
        return f"{self.verdict}: {median(self.overheads):+.1%} (about 95%: {low:+.1%} to {high:+.1%})"


class OverheadResults(msgspec.Struct, frozen=True):
    """The pairs of every engine.

    Attributes:
        size: Side of the image in pixels.
        threads: CPU threads.
        pairs: Pairs by engine.
        environment: Description of the machine.
    """

    size: int
    threads: int
    pairs: Mapping[str, Pairs]
    environment: Mapping[str, Any]

    def messages(self) -> tuple[str, ...]:
        """Return one message for each engine."""
        return tuple(
            f"{engine} is within {OVERHEAD:.0%} of a bare loop over the same graph: {pairs}"
            for engine, pairs in self.pairs.items()
        )

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON types."""
        return {
            "size": self.size,
            "threads": self.threads,
            "engines": {engine: _json(pairs) for engine, pairs in self.pairs.items()},
            "environment": dict(self.environment),
        }

    def table(self) -> Table:
        """Return the medians as a table for an 80-column terminal."""
        title = f"One image of {self.size} × {self.size} px, {self.threads} threads, p50 in ms"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        for column in ("engine", "bare loop", "overhead", "pairs"):
            table.add_column(column, justify="right")
        for engine, pairs in self.pairs.items():
            p50s = (f"{timing.latency_ms['p50']:.1f}" for timing in (pairs.ours, pairs.bare))
            table.add_row(engine, *p50s, f"{median(pairs.overheads):+.1%}", str(len(pairs.overheads)))
        return table


def _json(pairs: Pairs) -> dict[str, Any]:
    low, high = median_interval(pairs.overheads)
    return {
        "p50_ms": pairs.ours.latency_ms["p50"],
        "bare_p50_ms": pairs.bare.latency_ms["p50"],
        "pairs": len(pairs.overheads),
        "overhead": {"median": median(pairs.overheads), "low": low, "high": high},
        "verdict": pairs.verdict,
    }


def measure_overheads(
    bundle: Bundle, engines: Sequence[str], *, size: int, threads: int, pairs: int, progress: bool
) -> OverheadResults:
    """Time pairs of single runs of each engine and its bare loop; only the two are open at a time.

    Args:
        bundle: A bundle with the graphs.
        engines: Engines of `bare_loops.ENGINES`.
        size: Side of the image in pixels.
        threads: CPU threads.
        pairs: Number of pairs.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: A graph is missing, or the size is not a multiple of 32.
    """
    check_extent(bundle.spec.image.axes[1], size)
    environment = describe_machine()
    sets = image_sets((size, size), 1)
    found = {}
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        tick = partial(bar.advance, bar.add_task("pairs", total=2 * pairs * len(engines)))
        for engine in engines:
            found[engine] = _time_pairs(bundle, engine, sets, threads, pairs, tick)
    return OverheadResults(size, threads, found, environment)


def _time_pairs(
    bundle: Bundle, engine: str, sets: Sequence[UInt8Images], threads: int, pairs: int, tick: Callable[[], object]
) -> Pairs:
    bare = bare_loop(bundle, engine, sets[0].shape, threads)
    with open_engine(bundle, engine, threads=threads) as ours:
        calls = [partial(_call_next, call, cycle(sets)) for call in (ours, bare)]
        timings = time_interleaved(calls, seconds=1e-6, windows=pairs, min_runs=1, tick=tick)
    return Pairs(*timings)


def _call_next(call: Callable[[UInt8Images], object], sets: "cycle[UInt8Images]") -> object:
    return call(next(sets))
