"""The stage: time engines over batches, threads and streams."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress

from msal_deploy.bench.machine import describe_machine
from msal_deploy.bench.results import BenchReport, BenchResult, Setting
from msal_deploy.bench.timing import Timing, time_interleaved
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.hardware import available_cores
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import Axis, ModelSpec, UInt8Images, check_extent

MAX_OPEN = 8  # engines at once: each needs up to 1.4 GiB for a batch of 8 images of 512 × 512 px, and seconds to open


class TimingOptions(msgspec.Struct, frozen=True):
    """Options of `time_interleaved`.

    Attributes:
        seconds: Length of a time window in seconds.
        windows: Number of time windows per setting.
        min_runs: Minimum number of runs in a window; None for the default.
    """

    seconds: float
    windows: int
    min_runs: int | None = None


def bench(
    bundle: Bundle,
    engine_ids: Sequence[str],
    *,
    batches: Sequence[int] = (1, 4),
    threads: Sequence[int | None] = (None,),
    streams: Sequence[int] = (1,),
    size: tuple[int, int] = (512, 512),
    seconds: float = 3.0,
    windows: int = 3,
    progress: bool = False,
) -> BenchReport:
    """Time engines on random images in every valid combination of the options.

    All settings of one batch size are open at the same time and timed interleaved, so they can be compared. More than
    `MAX_OPEN` settings are split into groups of that size, in the order of `engine_ids`.

    >>> from pathlib import Path
    >>> bundle = Bundle(Path("bundle"))
    >>> report = bench(bundle, ["openvino:fp32"], batches=(1,), size=(64, 64), seconds=0.01, windows=2)
    >>> report.results[0].engine, report.results[0].batch
    ('openvino:fp32', 1)

    Args:
        bundle: The bundle with the graphs.
        engine_ids: Engines to time. Speed-ups are relative to the first.
        batches: Images per call.
        threads: Numbers of CPU threads; None lets the runtime choose.
        streams: Images of a batch that are computed in parallel. Engines without streams are timed with one stream, and
            settings with more streams than threads are left out.
        size: Height and width in pixels.
        seconds: Length of a time window in seconds. A window lasts longer if it has fewer than `MIN_RUNS` runs by then.
        windows: Number of time windows per setting, at least two.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: An engine is unknown or listed twice, a number is out of range, or the size is not a multiple of 32.
    """
    timing = TimingOptions(seconds, windows)
    check_options(bundle.spec, engine_ids, batches, size, timing)
    _check_values("thread count", threads)
    _check_values("stream count", streams)
    settings = _settings(bundle, engine_ids, batches, threads, streams)
    environment = describe_machine()
    results = time_settings(bundle, group_settings(settings), size, timing, progress=progress)
    return BenchReport(results, environment)


def check_options(
    spec: ModelSpec,
    engine_ids: Sequence[str],
    batches: Sequence[int],
    size: tuple[int, int],
    timing: TimingOptions,
) -> None:
    """Raise `BadInput` unless all options are valid."""
    _check_values("engine", engine_ids)
    _check_values("batch size", batches)
    if not 0 < timing.seconds < math.inf:
        raise BadInput(f"A time window of {timing.seconds:g} s is not possible", "give a positive number of seconds")
    if timing.windows < 2:
        raise BadInput(
            f"Expected at least 2 time windows, got {timing.windows}", "give more, so that the stability can be judged"
        )
    for batch in batches:
        for axis, extent in zip(spec.image.axes, (batch, *size), strict=False):
            if isinstance(axis, Axis):
                check_extent(axis, extent)


def _check_values(name: str, values: Sequence[object]) -> None:
    if not values:
        raise BadInput(f"Expected at least one {name}, got none", "give one or more")
    if len(set(values)) < len(values):
        raise BadInput(f"Expected each {name} only once, got {', '.join(map(str, values))}", "remove the repetitions")


def _settings(
    bundle: Bundle,
    engine_ids: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int | None],
    streams: Sequence[int],
) -> tuple[Setting, ...]:
    """Return the valid settings in the order of the report."""
    combinations = [option for engine in engine_ids for option in _combinations(bundle, engine, threads, streams)]
    return tuple(
        Setting(engine=engine, batch=batch, threads=thread_count, streams=stream_count)
        for batch in batches
        for engine, thread_count, stream_count in combinations
    )


def _combinations(
    bundle: Bundle, engine_id: str, threads: Sequence[int | None], streams: Sequence[int]
) -> list[tuple[str, int | None, int]]:
    """Return the valid combinations of engine, threads and streams. An unknown id or a bad number is an error.

    The engines are only constructed, which checks their options; no graph is loaded.
    """
    if not supports_streams(bundle, engine_id):
        streams = (1,)
    combinations = [(engine_id, count, n) for count in threads for n in streams if n <= (count or available_cores())]
    if not combinations:
        raise BadInput(
            f"Expected at least one thread per stream, got {min(streams)} streams with fewer threads",
            "use fewer streams or more threads",
        )
    for _, count, n in combinations:
        open_engine(bundle, engine_id, threads=count, streams=n)
    return combinations


def supports_streams(bundle: Bundle, engine_id: str) -> bool:
    """Return whether the engine can compute images of a batch in parallel."""
    return open_engine(bundle, engine_id).has_streams


def group_settings(settings: Sequence[Setting]) -> list[Sequence[Setting]]:
    """Split settings into groups of one batch size with at most `MAX_OPEN` settings each, to be open together."""
    by_batch = [list(group) for _, group in groupby(settings, key=lambda setting: setting.batch)]
    return [group[start : start + MAX_OPEN] for group in by_batch for start in range(0, len(group), MAX_OPEN)]


def time_settings(
    bundle: Bundle,
    groups: Sequence[Sequence[Setting]],
    size: tuple[int, int],
    timing: TimingOptions,
    *,
    label: str = "bench",
    progress: bool = False,
) -> tuple[BenchResult, ...]:
    """Time every setting. The settings of a group are open together and timed interleaved."""
    results: list[BenchResult] = []
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(label, total=timing.windows * sum(map(len, groups)))
        for group in groups:
            timings = _time_group(bundle, group, size, timing, partial(bar.advance, task))
            results += [
                BenchResult(
                    **msgspec.structs.asdict(setting),
                    size=size,
                    microns_per_pixel=bundle.spec.microns_per_pixel,
                    timing=measured,
                )
                for setting, measured in zip(group, timings, strict=True)
            ]
    return tuple(results)


def _time_group(
    bundle: Bundle,
    group: Sequence[Setting],
    size: tuple[int, int],
    timing: TimingOptions,
    tick: Callable[[], object],
) -> tuple[Timing, ...]:
    images = {setting.batch: _random_images(setting.batch, size) for setting in group}
    with ExitStack() as stack:
        calls = [
            partial(
                stack.enter_context(open_engine(bundle, one.engine, threads=one.threads, streams=one.streams)),
                images[one.batch],
            )
            for one in group
        ]
        return time_interleaved(calls, **msgspec.structs.asdict(timing), tick=tick)


def _random_images(batch: int, size: tuple[int, int]) -> UInt8Images:
    """Return uint8[batch,H,W,3]; every call returns the same pixels."""
    return np.random.default_rng(0).integers(0, 256, (batch, *size, 3), dtype=np.uint8)
