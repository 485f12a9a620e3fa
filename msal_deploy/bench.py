"""Bench: how fast is an engine? Times engines on random images, and never scores them.

A latency is host to host: from uint8 images in memory to float32 probabilities in memory, copies to and from a device
included. The engines are open together and take turns, window by window, so that a machine that slows down
for a while slows all of them; windows whose medians differ too much are flagged, not averaged away.
"""

from __future__ import annotations

import math
import os
import platform
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from statistics import fmean, median, stdev
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.runtimes import Engine, open_engine
from msal_deploy.spec import Axis, ModelSpec, check_extent

if TYPE_CHECKING:
    from msal_deploy.spec import UInt8Images

LEAST_RUNS = 5  # in a window, however long they take
LARGEST_VARIATION = 0.025  # of the windows' medians, above which a result is flagged
RUNS_FOR_P99 = 100  # with fewer, the 99th percentile is little more than the slowest run
INSTRUCTIONS = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "asimddp"}


class BenchResult(msgspec.Struct, frozen=True):
    """Latencies of one engine at one batch.

    Attributes:
        size: height and width of the images in pixels.
        microns_per_pixel: side of a pixel, for the tissue area a second.
        threads: CPU threads that were asked for, None for what the runtime takes by itself.
        windows: latencies in ms, a tuple a time window.
    """

    engine: str
    batch: int
    size: tuple[int, int]
    microns_per_pixel: float
    threads: int | None
    windows: tuple[tuple[float, ...], ...]

    @property
    def latency_ms(self) -> dict[str, float]:
        """Percentiles and mean over the runs of all windows, in ms."""
        runs = np.concatenate(self.windows)
        percentiles = {f"p{q}": float(np.percentile(runs, q)) for q in (50, 90, 95, 99)}
        return percentiles | {"mean": float(runs.mean())}

    @property
    def runs(self) -> int:
        """Timed runs, all windows together."""
        return sum(len(window) for window in self.windows)

    @property
    def coefficient_of_variation(self) -> float:
        """Standard deviation of the windows' medians, divided by their mean."""
        medians = [median(window) for window in self.windows]
        return stdev(medians) / fmean(medians)

    @property
    def stable(self) -> bool:
        """Whether the windows agree well enough to be one measurement."""
        return self.coefficient_of_variation <= LARGEST_VARIATION

    def to_json(self) -> dict[str, Any]:
        """Return the result under the keys that reports and the benchmark results keep."""
        images_per_s = self.batch * 1000 / self.latency_ms["mean"]
        pixels_per_s = images_per_s * self.size[0] * self.size[1]
        return {
            "engine": self.engine,
            "batch": self.batch,
            "size": list(self.size),
            "threads": self.threads,
            "latency_ms": self.latency_ms,
            "images_per_s": images_per_s,
            "megapixels_per_s": pixels_per_s / 1e6,
            "square_millimetres_per_s": pixels_per_s * (self.microns_per_pixel / 1000) ** 2,
            "runs": self.runs,
            "window_medians_ms": [median(window) for window in self.windows],
            "coefficient_of_variation": self.coefficient_of_variation,
            "stable": self.stable,
        }


class BenchReport(msgspec.Struct, frozen=True):
    """Results by batch and engine, and the machine that they hold for."""

    results: tuple[BenchResult, ...]
    environment: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only."""
        return {"results": [result.to_json() for result in self.results], "environment": self.environment}

    def table(self) -> Table:
        """Return the report as a table for an 80-column terminal; the first engine at a batch has speed-up 1."""
        height, width = self.results[0].size
        table = Table(
            title=f"Latency, host to host, {height} × {width} px, ms a batch",
            caption=_caption(self.results),
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("engine", no_wrap=True)
        for column in ("batch", "p50", "p90", "p99", "images/s", "speed-up", "runs", ""):
            table.add_column(column, justify="right")
        for _, results in groupby(self.results, key=lambda result: result.batch):
            first, *others = results
            table.add_section()
            for result in (first, *others):
                table.add_row(*_cells(result, first))
        return table


def _cells(result: BenchResult, first: BenchResult) -> list[str]:
    latency = result.latency_ms
    return [
        result.engine,
        str(result.batch),
        *(f"{latency[key]:.1f}" for key in ("p50", "p90", "p99")),
        f"{result.batch * 1000 / latency['mean']:.2f}",
        f"{first.latency_ms['p50'] / latency['p50']:.2f}×",
        str(result.runs),
        "" if result.stable else "[yellow]![/]",
    ]


def _caption(results: Sequence[BenchResult]) -> str | None:
    notes = []
    if any(result.runs < RUNS_FOR_P99 for result in results):
        notes.append(f"With fewer than {RUNS_FOR_P99} runs p99 is little more than the slowest run.")
    if not all(result.stable for result in results):
        notes.append(
            f"! Unstable: the windows' medians vary by more than {LARGEST_VARIATION:.1%}; repeat on a quiet machine."
        )
    return " ".join(notes) or None


def bench(
    bundle: Bundle,
    engine_ids: Sequence[str],
    *,
    batches: Sequence[int] = (1, 4),
    size: tuple[int, int] = (512, 512),
    seconds: float = 3.0,
    windows: int = 3,
    threads: int | None = None,
    progress: bool = False,
) -> BenchReport:
    """Time engines on random images.

    Args:
        engine_ids: engines to time; all are open at once. Speed-ups are against the first.
        batches: images in a call, each a row of the report.
        size: height and width in pixels.
        seconds: length of a time window; a window goes on until it has `LEAST_RUNS` runs.
        windows: time windows for each engine and batch, at least two.
        threads: CPU threads of each engine, or None for what its runtime takes by itself.
        progress: show a progress bar on stderr.

    Raises:
        BadInput: an engine is unknown or named twice, a number is out of range, or the size is no multiple of 32.
    """
    _check(bundle.spec, engine_ids, batches, size, seconds, windows)
    # All of them before any is entered: a mistyped id is found at once.
    closed = [open_engine(bundle, engine, threads=threads) for engine in engine_ids]
    environment = describe_machine()
    images = {batch: _random_images(batch, size) for batch in batches}
    latencies: dict[tuple[int, str], list[tuple[float, ...]]] = {(b, e): [] for b in batches for e in engine_ids}
    with ExitStack() as stack:
        engines = [stack.enter_context(engine) for engine in closed]
        turns = [(batch, window, engine) for batch in images for window in range(windows) for engine in engines]
        for batch, window, engine in track(turns, "bench", console=Console(stderr=True), disable=not progress):
            if window == 0:
                _warm_up(engine, images[batch], seconds)
            latencies[batch, engine.id].append(_time_window(engine, images[batch], seconds))
    return BenchReport(
        tuple(
            BenchResult(engine, batch, size, bundle.spec.microns_per_pixel, threads, tuple(latencies[batch, engine]))
            for batch, engine in latencies
        ),
        environment,
    )


def _check(
    spec: ModelSpec,
    engine_ids: Sequence[str],
    batches: Sequence[int],
    size: tuple[int, int],
    seconds: float,
    windows: int,
) -> None:
    if not engine_ids or len(set(engine_ids)) < len(engine_ids):
        raise BadInput("Name at least one engine, and each only once")
    if not batches or len(set(batches)) < len(batches):
        raise BadInput("Give at least one batch, and each only once")
    if not 0 < seconds < math.inf:
        raise BadInput(f"A time window of {seconds:g} s cannot be measured; give more than 0")
    if windows < 2:
        raise BadInput(
            f"The number of windows is {windows}; from fewer than 2 nobody can tell whether the timing is stable"
        )
    for batch in batches:
        for axis, extent in zip(spec.image.axes, (batch, *size), strict=False):
            if isinstance(axis, Axis):
                check_extent(axis, extent)


def _random_images(batch: int, size: tuple[int, int]) -> UInt8Images:
    """Return uint8[batch,H,W,3], the same ones every time."""
    return np.random.default_rng(0).integers(0, 256, (batch, *size, 3), dtype=np.uint8)


def _warm_up(engine: Engine, images: UInt8Images, seconds: float) -> None:
    """Run until two runs take as long as the two before, within 5%; at least 4 runs, then at most for `seconds`."""
    recent: deque[float] = deque(maxlen=4)
    end = perf_counter_ns() + seconds * 1e9
    while len(recent) < 4 or perf_counter_ns() < end:
        recent.append(_time_run(engine, images))
        if len(recent) == 4 and abs(recent[0] + recent[1] - recent[2] - recent[3]) < 0.05 * (recent[2] + recent[3]):
            return


def _time_window(engine: Engine, images: UInt8Images, seconds: float) -> tuple[float, ...]:
    """Return the latencies in ms of at least `LEAST_RUNS` runs and at least `seconds`."""
    _time_run(engine, images)  # another engine had the caches and the cores: not counted
    latencies: list[float] = []
    end = perf_counter_ns() + seconds * 1e9
    while len(latencies) < LEAST_RUNS or perf_counter_ns() < end:
        latencies.append(_time_run(engine, images))
    return tuple(latencies)


def _time_run(engine: Engine, images: UInt8Images) -> float:
    """Return the latency of one call in ms."""
    start = perf_counter_ns()
    engine(images)
    return (perf_counter_ns() - start) / 1e6


def describe_machine() -> dict[str, Any]:
    """Return what latencies depend on: processor, cores, memory, load and versions. No host name, no path."""
    processor, instructions = _processor()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor,
        "instructions": instructions,
        "logical_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": dict(_installed(("msal-deploy", "numpy", "onnxruntime", "openvino", "torch"))),
    }


def _processor() -> tuple[str, list[str]]:
    """Return the processor's name and which of the instruction sets that inference uses it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name", platform.machine()), sorted(INSTRUCTIONS & set(fields.get("flags", "").split()))


def _installed(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    for package in packages:
        with suppress(PackageNotFoundError):
            yield package, version(package)
