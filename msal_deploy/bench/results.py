"""The results of bench, and their table."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec
from rich import box
from rich.table import Table

from msal_deploy.bench.timing import MAX_VARIATION, Timing

RUNS_FOR_P99 = 100  # with fewer runs, the 99th percentile is close to the slowest run


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
    """

    size: tuple[int, int]
    microns_per_pixel: float
    timing: Timing

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
            "square_millimetres_per_s": pixels_per_s * (self.microns_per_pixel / 1000) ** 2,
            **self.timing.to_json(),
        }


class BenchReport(msgspec.Struct, frozen=True):
    """Results by batch and engine, and the machine that they hold for.

    Attributes:
        results: One for each setting, ordered by batch, then engine.
        environment: Description of the machine from `describe_machine`.
    """

    results: tuple[BenchResult, ...]
    environment: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {"results": [result.to_json() for result in self.results], "environment": self.environment}

    def table(self) -> Table:
        """Return the report as a table for an 80-column terminal.

        Speed-ups are relative to the first engine of each batch. Threads and streams have a column if several values
        were measured.
        """
        height, width = self.results[0].size
        swept = [name for name in ("threads", "streams") if len({getattr(one, name) for one in self.results}) > 1]
        table = Table(
            title=f"Latency, end to end, {height} × {width} px, ms per batch",
            caption=_caption(self.results),
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
            padding=(0, 0 if swept else 1),
        )
        table.add_column("engine", no_wrap=True)
        for column in ("batch", *swept, "p50", "p90", "p99", "images/s", "speed-up", *_runs_column(swept), ""):
            table.add_column(column, justify="right", no_wrap=True)
        for _, results in groupby(self.results, key=lambda result: result.batch):
            first, *others = results
            table.add_section()
            for result in (first, *others):
                table.add_row(*_cells(result, first, swept))
        return table


def _runs_column(swept: Sequence[str]) -> tuple[str, ...]:
    return ("runs",) if len(swept) < 2 else ()  # the table has no room for it with both other columns


def _cells(result: BenchResult, first: BenchResult, swept: Sequence[str]) -> list[str]:
    latency = result.timing.latency_ms
    return [
        result.engine,
        str(result.batch),
        *(str(getattr(result, name) or "auto") for name in swept),
        *(f"{latency[key]:.{0 if latency[key] >= 1000 else 1}f}" for key in ("p50", "p90", "p99")),
        f"{result.images_per_s:.2f}",
        f"{first.timing.latency_ms['p50'] / latency['p50']:.2f}×",
        *(str(result.timing.runs) for _ in _runs_column(swept)),
        "" if result.timing.stable else "[yellow]![/]",
    ]


def _caption(results: Sequence[BenchResult]) -> str | None:
    notes = []
    if any(result.timing.runs < RUNS_FOR_P99 for result in results):
        notes.append(f"With fewer than {RUNS_FOR_P99} runs, p99 is close to the slowest run.")
    if not all(result.timing.stable for result in results):
        notes.append(
            f"! Unstable: the medians of the windows vary by more than {MAX_VARIATION:.1%}; repeat on an idle machine."
        )
    return " ".join(notes) or None
