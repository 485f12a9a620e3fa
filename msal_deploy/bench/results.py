"""The results of bench: what was timed, what failed, and what cannot run here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from msal_deploy.bench.ratios import Ratio, speed_up
from msal_deploy.bench.timing import Timing
from msal_deploy.errors import DeployError

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "msal-deploy bench 2"


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """An engine and its options.

    >>> Setting(engine="openvino:int8", batch=4, threads=2).code
    'open_engine(bundle, "openvino:int8", threads=2)'

    Attributes:
        engine: Engine id, such as ``openvino:int8``.
        batch: Images per call.
        threads: Number of CPU threads; None lets the runtime choose.
        streams: Images of a batch that are computed in parallel.
    """

    engine: str
    batch: int
    threads: int | None = None
    streams: int = 1

    @property
    def code(self) -> str:
        """Python code that opens the engine with these options."""
        options = f", threads={self.threads}" if self.threads else ""
        options += f", streams={self.streams}" if self.streams > 1 else ""
        return f'open_engine(bundle, "{self.engine}"{options})'


def square_millimetres(pixels: float, microns_per_pixel: float) -> float:
    """Return the area of a number of pixels in mm².

    >>> square_millimetres(16_000_000, 0.25)
    1.0
    """
    return pixels * (microns_per_pixel / 1000) ** 2


class BenchResult(Setting, frozen=True, kw_only=True):
    """A setting and its timing.

    >>> timing = Timing(((9.0, 10.0, 11.0), (10.0, 10.0, 10.0)))
    >>> result = BenchResult(
    ...     engine="openvino:int8", batch=4, size=(512, 512), microns_per_pixel=0.25, timing=timing
    ... )
    >>> result.images_per_s
    400.0

    Attributes:
        size: Height and width of the images in pixels.
        microns_per_pixel: Side of a pixel in µm, for the tissue area per second.
        timing: Latencies of a call.
        load_s: Seconds to load the engine and to call it once, including the import of its runtime.
        peak_memory_mb: Largest memory of the engine's own process in MB (10⁶ bytes), without that of a GPU; None if
            it had no process of its own, or the system does not tell.
    """

    size: tuple[int, int]
    microns_per_pixel: float
    timing: Timing
    load_s: float | None = None
    peak_memory_mb: float | None = None

    @property
    def images_per_s(self) -> float:
        """Images per second, with one call after the other."""
        return self.batch * 1000 / self.timing.latency_ms["mean"]

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        pixels_per_s = self.images_per_s * self.size[0] * self.size[1]
        return {
            "engine": self.engine,
            "batch": self.batch,
            "size": list(self.size),
            "threads": self.threads,
            "streams": self.streams,
            "images_per_s": self.images_per_s,
            "megapixels_per_s": pixels_per_s / 1e6,
            "square_millimetres_per_s": square_millimetres(pixels_per_s, self.microns_per_pixel),
            **self.timing.to_json(),
            "peak_memory_mb": self.peak_memory_mb,
            "load_s": self.load_s,
        }


class Failure(msgspec.Struct, frozen=True):
    """A setting that could not be timed, and why.

    Attributes:
        setting: The setting.
        error: What the engine raised, or how its process ended.
        opened: Whether it had been opened by then.
    """

    setting: Setting
    error: DeployError
    opened: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the failure as JSON types."""
        return {**msgspec.structs.asdict(self.setting), "message": str(self.error)}


class BenchReport(msgspec.Struct, frozen=True):
    """Results by batch and engine, and the machine that they hold for.

    Attributes:
        results: One for each setting that could be timed, ordered by batch, then engine.
        environment: Description of the machine from `describe_machine`.
        baseline: Engine that speed-ups are relative to; empty for the first one.
        failed: Settings that failed.
        unavailable: Engine -> what it needs to run here.
        interrupted: Whether the measurement was interrupted: results may have fewer windows, or be missing.
    """

    results: tuple[BenchResult, ...]
    environment: dict[str, Any]
    baseline: str = ""
    failed: tuple[Failure, ...] = ()
    unavailable: Mapping[str, str] = {}
    interrupted: bool = False

    def baseline_of(self, result: BenchResult) -> BenchResult | None:
        """Return the result that a result is compared with: the first of the baseline's with the same batch."""
        peers = (one for one in self.results if one.batch == result.batch)
        return next((one for one in peers if self.baseline in ("", one.engine)), None)

    def speed_up(self, result: BenchResult) -> Ratio | None:
        """Return how many times faster a result is than its baseline; None if that is unknown.

        >>> slow, fast = (Timing(((one,), (one,))) for one in (8.0, 2.0))
        >>> common = {"batch": 1, "size": (512, 512), "microns_per_pixel": 0.25}
        >>> slow = BenchResult(engine="torch:fp32", timing=slow, **common)
        >>> fast = BenchResult(engine="openvino:int8", timing=fast, **common)
        >>> BenchReport((slow, fast), {}).speed_up(fast)
        Ratio(ratio=4.0, low=4.0, high=4.0)
        """
        baseline = self.baseline_of(result)
        if baseline is None:
            return None
        ours, theirs = result.timing, baseline.timing
        return speed_up(ours.medians, theirs.medians, per_process=ours.windows_per_process)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "schema": SCHEMA,
            "baseline": self.baseline or next((one.engine for one in self.results), ""),
            "results": [{**one.to_json(), "speed_up": msgspec.to_builtins(self.speed_up(one))} for one in self.results],
            "failed": [failure.to_json() for failure in self.failed],
            "unavailable": [{"engine": engine, "needs": needs} for engine, needs in self.unavailable.items()],
            "interrupted": self.interrupted,
            "environment": self.environment,
        }

    def table(self) -> "Table":
        """Return the report as a table for an 80-column terminal."""
        from msal_deploy.bench.table import bench_table

        return bench_table(self)

    def messages(self) -> tuple[str, ...]:
        """Return what there is to say below the table: one line for each reason why engines cannot run here."""
        engines: dict[str, list[str]] = {}
        for engine, needs in self.unavailable.items():
            engines.setdefault(needs, []).append(engine)
        return tuple(f"Not available: {', '.join(names)}: {needs}" for needs, names in engines.items())
