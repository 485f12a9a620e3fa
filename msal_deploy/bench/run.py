"""The stage: times engines over batches, threads and streams."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress

from msal_deploy.bench.machine import describe_machine, logical_cores
from msal_deploy.bench.results import BenchReport, BenchResult, Setting
from msal_deploy.bench.timing import Timing, time_interleaved
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import Axis, ModelSpec, UInt8Images, check_extent

MAX_OPEN = 8  # engines at once: each takes up to 1.4 GiB at a batch of 8 images of 512 × 512 px, and seconds to open


class Pace(msgspec.Struct, frozen=True):
    """How long is measured: see `time_interleaved`."""

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
    """Time engines on random images, in every setting that makes sense.

    All settings of one batch are open together and take turns, so that they can be compared; where there are more
    than `MAX_OPEN`, in groups of that many, one after the other, in the order of `engine_ids`.

    Args:
        engine_ids: engines to time. Speed-ups are against the first.
        batches: images in a call.
        threads: CPU threads of an engine, None for what its runtime takes by itself.
        streams: images of a batch side by side. Engines without streams are timed with one only, and no engine with
            more streams than threads.
        size: height and width in pixels.
        seconds: length of a time window; a window goes on until it has `MIN_RUNS` runs.
        windows: time windows for each setting, at least two.
        progress: show a progress bar on stderr.

    Raises:
        BadInput: an engine is unknown or named twice, a number is out of range, or the size is no multiple of 32.
    """
    check(bundle.spec, engine_ids, batches, size, Pace(seconds, windows))
    for name, values in (("threads", threads), ("streams", streams)):
        if not values or len(set(values)) < len(values):
            raise BadInput(f"Give at least one number of {name}, and each only once")
    settings = _settings(bundle, engine_ids, batches, threads, streams)
    environment = describe_machine()
    groups = groups_of(settings)
    return BenchReport(measure(bundle, groups, size, Pace(seconds, windows), progress=progress), environment)


def check(
    spec: ModelSpec, engine_ids: Sequence[str], batches: Sequence[int], size: tuple[int, int], pace: Pace
) -> None:
    """Raise `BadInput` unless all of that can be measured."""
    if not engine_ids or len(set(engine_ids)) < len(engine_ids):
        raise BadInput("Name at least one engine, and each only once")
    if not batches or len(set(batches)) < len(batches):
        raise BadInput("Give at least one batch, and each only once")
    if not 0 < pace.seconds < math.inf:
        raise BadInput(f"A time window of {pace.seconds:g} s cannot be measured; give more than 0")
    if pace.windows < 2:
        raise BadInput(
            f"The number of windows is {pace.windows}; from fewer than 2 nobody can tell whether the timing is stable"
        )
    for batch in batches:
        for axis, extent in zip(spec.image.axes, (batch, *size), strict=False):
            if isinstance(axis, Axis):
                check_extent(axis, extent)


def _settings(
    bundle: Bundle,
    engine_ids: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int | None],
    streams: Sequence[int],
) -> tuple[Setting, ...]:
    """Return the settings that make sense, in the order of the report."""
    ways = [way for engine in engine_ids for way in _ways(bundle, engine, threads, streams)]
    return tuple(
        Setting(engine=engine, batch=batch, threads=count, streams=side_by_side)
        for batch in batches
        for engine, count, side_by_side in ways
    )


def _ways(
    bundle: Bundle, engine_id: str, threads: Sequence[int | None], streams: Sequence[int]
) -> list[tuple[str, int | None, int]]:
    """Return engine, threads and streams. Opens nothing: a mistyped id is found at once, and so is a bad number."""
    if not has_streams(bundle, engine_id):
        streams = (1,)
    ways = [(engine_id, count, n) for count in threads for n in streams if n <= (count or logical_cores())]
    if not ways:
        raise BadInput(f"{min(streams)} streams need as many threads, and there are fewer; use fewer streams")
    for _, count, n in ways:
        open_engine(bundle, engine_id, threads=count, streams=n)
    return ways


def has_streams(bundle: Bundle, engine_id: str) -> bool:
    """Return whether the engine can compute images side by side."""
    return open_engine(bundle, engine_id).has_streams


def groups_of(settings: Sequence[Setting]) -> list[Sequence[Setting]]:
    """Cut settings into those that are open together: of one batch, and at most `MAX_OPEN`."""
    by_batch = [list(found) for _, found in groupby(settings, key=lambda setting: setting.batch)]
    return [found[start : start + MAX_OPEN] for found in by_batch for start in range(0, len(found), MAX_OPEN)]


def measure(
    bundle: Bundle,
    groups: Sequence[Sequence[Setting]],
    size: tuple[int, int],
    pace: Pace,
    *,
    label: str = "bench",
    progress: bool = False,
) -> tuple[BenchResult, ...]:
    """Time every setting; those of a group are open together and take turns."""
    results: list[BenchResult] = []
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(label, total=pace.windows * sum(map(len, groups)))
        for group in groups:
            timings = _time_together(bundle, group, size, pace, partial(bar.advance, task))
            results += [
                BenchResult(
                    **msgspec.structs.asdict(setting),
                    size=size,
                    microns_per_pixel=bundle.spec.microns_per_pixel,
                    timing=timing,
                )
                for setting, timing in zip(group, timings, strict=True)
            ]
    return tuple(results)


def _time_together(
    bundle: Bundle, group: Sequence[Setting], size: tuple[int, int], pace: Pace, tick: Callable[[], object]
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
        return time_interleaved(calls, **msgspec.structs.asdict(pace), tick=tick)


def _random_images(batch: int, size: tuple[int, int]) -> UInt8Images:
    """Return uint8[batch,H,W,3], the same ones every time."""
    return np.random.default_rng(0).integers(0, 256, (batch, *size, 3), dtype=np.uint8)
