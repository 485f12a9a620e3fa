"""Which setting is best on this machine: threads, streams and batch, by measurement."""

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from msal_deploy.bench.machine import describe_machine, logical_cores
from msal_deploy.bench.results import BenchReport, BenchResult, Setting
from msal_deploy.bench.run import Pace, check, groups_of, has_streams, measure
from msal_deploy.bundle import Bundle

BATCHES = (1, 2, 4, 8)
SCREENING = Pace(seconds=0.3, windows=2, min_runs=1)  # the slow ones take one run a window
FINALISTS = 3  # by each of the two criteria


class TuneReport(BenchReport, frozen=True):
    """The finalists, measured again together, and everything that was screened before.

    Attributes:
        screened: every setting, in short windows: good enough to drop the slow ones.
    """

    screened: tuple[BenchResult, ...]

    @property
    def shortest_wait(self) -> BenchResult:
        """The finalist with the smallest median latency of one image."""
        return min((one for one in self.results if one.batch == 1), key=_wait)

    @property
    def most_images(self) -> BenchResult:
        """The finalist with the most images a second."""
        return max(self.results, key=_rate)

    def sentences(self) -> tuple[str, str]:
        """Return what to use, with the line of Python that opens it."""
        quick, busy = self.shortest_wait, self.most_images
        batch = "one image" if busy.batch == 1 else f"{busy.batch} images"
        return (
            f"Shortest wait for one image: {quick.timing.latency_ms['p50']:.1f} ms with {quick.code}",
            f"Most images a second: {busy.images_per_s:.2f} with {busy.code} and {batch} a call",
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only."""
        best = {"shortest_wait": self.shortest_wait, "most_images": self.most_images}
        return {
            **super().to_json(),
            "best": {name: {**result.to_json(), "python": result.code} for name, result in best.items()},
            "screened": [result.to_json() for result in self.screened],
        }


def tune(
    bundle: Bundle,
    engine_ids: Sequence[str],
    *,
    size: tuple[int, int] = (512, 512),
    seconds: float = 3.0,
    windows: int = 3,
    progress: bool = False,
) -> TuneReport:
    """Find the setting of the shortest wait for one image, and that of the most images a second.

    Every engine is screened in short windows with 1 thread, half the cores and all of them, batches of `BATCHES`, and
    streams in powers of two. The `FINALISTS` best by each criterion are then open together and measured in full
    windows, in turns. Neither looks at accuracy: what a precision costs in Dice, `validate` says.

    Args:
        engine_ids: engines to choose from.
        size: height and width in pixels.
        seconds: length of a time window of the finalists; a window goes on until it has `MIN_RUNS` runs.
        windows: time windows for each finalist, at least two.
        progress: show progress bars on stderr.

    Raises:
        BadInput: an engine is unknown or named twice, a number is out of range, or the size is no multiple of 32.
    """
    pace = Pace(seconds, windows)
    check(bundle.spec, engine_ids, BATCHES, size, pace)
    side_by_side = {engine: has_streams(bundle, engine) for engine in engine_ids}
    environment = describe_machine()
    settings = [
        setting
        for batch in BATCHES
        for engine, many in side_by_side.items()
        for setting in _candidates(engine, batch, logical_cores(), many)
    ]
    short = replace(SCREENING, seconds=min(seconds, SCREENING.seconds))
    screened = measure(bundle, groups_of(settings), size, short, label="screening", progress=progress)
    finals = measure(bundle, [_finalists(screened)], size, pace, label="finals", progress=progress)
    return TuneReport(finals, environment, screened)


def _candidates(engine: str, batch: int, cores: int, has_streams: bool) -> Iterator[Setting]:
    """Yield settings in which each stream has a thread and an image."""
    for threads in sorted({1, max(1, cores // 2), cores}):
        streams = 1
        while streams <= (min(threads, batch) if has_streams else 1):
            yield Setting(engine=engine, batch=batch, threads=threads, streams=streams)
            streams *= 2


def _finalists(screened: Sequence[BenchResult]) -> list[Setting]:
    """Return the best by either criterion, by batch."""
    quick = sorted((one for one in screened if one.batch == 1), key=_wait)[:FINALISTS]
    busy = sorted(screened, key=_rate, reverse=True)[:FINALISTS]
    chosen = [*quick, *(one for one in busy if one not in quick)]
    return [
        Setting(engine=one.engine, batch=one.batch, threads=one.threads, streams=one.streams)
        for one in sorted(chosen, key=lambda one: one.batch)
    ]


def _wait(result: BenchResult) -> float:
    return result.timing.latency_ms["p50"]


def _rate(result: BenchResult) -> float:
    return result.images_per_s
