"""Find the best threads, streams and batch size on this machine by measurement."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from msal_deploy.bench.checks import check_options, require_all, supports_streams
from msal_deploy.bench.machine import MachineWatch
from msal_deploy.bench.measure import Measurement, Plan, group_settings
from msal_deploy.bench.results import BenchReport, BenchResult, Setting
from msal_deploy.bench.run import ROUNDS, SECONDS, WINDOWS, measure
from msal_deploy.bundle import Bundle
from msal_deploy.hardware import available_cores

BATCHES = (1, 2, 4, 8)
SCREENING_SECONDS = 0.3  # of a window; slow settings get one run in each of two windows
FINALISTS = 3  # for latency, and as many for throughput


class TuneReport(BenchReport, frozen=True):
    """The finalists, timed again together, and all settings of the screening.

    Attributes:
        screened: Every setting, timed in short windows: accurate enough to drop the slow ones.
    """

    screened: tuple[BenchResult, ...] = ()

    @property
    def lowest_latency(self) -> BenchResult:
        """The finalist with the lowest median latency for one image."""
        return min((one for one in self.results if one.batch == 1), key=_median_latency)

    @property
    def highest_throughput(self) -> BenchResult:
        """The finalist with the most images per second."""
        return max(self.results, key=_images_per_s)

    def messages(self) -> tuple[str, str]:
        """Return the two recommendations, each with the line of Python that opens the engine."""
        low, high = self.lowest_latency, self.highest_throughput
        batch = "one image" if high.batch == 1 else f"{high.batch} images"
        return (
            f"Lowest latency for one image: {low.timing.latency_ms['p50']:.1f} ms with {low.code}",
            f"Highest throughput: {high.images_per_s:.2f} images/s with {high.code} and {batch} per call",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        best = {"shortest_wait": self.lowest_latency, "most_images": self.highest_throughput}
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
    seconds: float = SECONDS,
    windows: int = WINDOWS,
    rounds: int = ROUNDS,
    in_process: bool = False,
    on_interrupt: Callable[[BenchReport], object] = lambda _: None,
    progress: bool = False,
) -> TuneReport:
    """Find the setting with the lowest latency for one image and the one with the highest throughput.

    Every engine is screened in short windows with 1 thread, half the cores and all cores, the batch sizes `BATCHES`,
    and 1, 2, 4, … streams. The `FINALISTS` best settings for each of the two goals are then timed together,
    interleaved, in full windows. Accuracy plays no part: `validate` measures the Dice of each precision.

    ::

        best = tune(Bundle(Path("bundle")), ["openvino:int8", "onnxruntime:int8"])
        print(*best.messages(), sep="\\n")

    Args:
        bundle: The bundle with the graphs.
        engine_ids: Engines to choose from.
        size: Height and width in pixels.
        seconds: Length of a finalist's time window in seconds. A window lasts longer if it has fewer than `MIN_RUNS`
            runs by then.
        windows: Number of time windows of each finalist in a round.
        rounds: How often every finalist is opened anew; in the screening, every setting is opened once.
        in_process: Open all engines in this process: for debugging, because they disturb each other.
        on_interrupt: Called with a report of what was measured until then, of the screening or of the finalists, if
            Ctrl-C or SIGTERM ends the measurement.
        progress: Show progress bars on stderr.

    Raises:
        BadInput: An engine is unknown or listed twice, a number is out of range, or the size is not a multiple of 32.
    """
    plan = Plan(size=size, seconds=seconds, windows=windows, rounds=rounds, in_process=in_process)
    check_options(bundle.spec, engine_ids, BATCHES, plan)
    with_streams = {engine: supports_streams(bundle, engine) for engine in engine_ids}
    settings = [
        setting
        for batch in BATCHES
        for engine, streams in with_streams.items()
        for setting in _candidates(engine, batch, available_cores(), streams)
    ]
    require_all(bundle, settings, size)
    watch = MachineWatch()

    def interrupted(part: Measurement) -> None:
        on_interrupt(BenchReport(part.results, watch.stop(), failed=part.failures, interrupted=True))

    short = replace(plan, seconds=min(seconds, SCREENING_SECONDS), windows=2, rounds=1, min_runs=1)
    screening = measure(bundle, group_settings(settings), short, interrupted, progress, "screening")
    finals = measure(bundle, [_finalists(screening.results)], plan, interrupted, progress, "finals")
    failures = screening.failures + finals.failures
    return TuneReport(finals.results, watch.stop(), failed=failures, screened=screening.results)


def _candidates(engine: str, batch: int, cores: int, with_streams: bool) -> Iterator[Setting]:
    """Yield settings that have at least one thread and one image for each stream."""
    for threads in sorted({1, max(1, cores // 2), cores}):
        streams = 1
        while streams <= (min(threads, batch) if with_streams else 1):
            yield Setting(engine=engine, batch=batch, threads=threads, streams=streams)
            streams *= 2


def _finalists(screened: Sequence[BenchResult]) -> list[Setting]:
    """Return the best settings for each goal, ordered by batch size."""
    by_latency = sorted((one for one in screened if one.batch == 1), key=_median_latency)[:FINALISTS]
    by_throughput = sorted(screened, key=_images_per_s, reverse=True)[:FINALISTS]
    chosen = [*by_latency, *(one for one in by_throughput if one not in by_latency)]
    return [
        Setting(**{name: getattr(one, name) for name in Setting.__struct_fields__})
        for one in sorted(chosen, key=lambda one: one.batch)
    ]


def _median_latency(result: BenchResult) -> float:
    return result.timing.latency_ms["p50"]


def _images_per_s(result: BenchResult) -> float:
    return result.images_per_s
