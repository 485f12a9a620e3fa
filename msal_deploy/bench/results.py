"""What bench measured, with which setting, and the table of it."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec
from rich import box
from rich.table import Table

from msal_deploy.bench.timing import MAX_VARIATION, Timing

RUNS_FOR_P99 = 100  # with fewer, the 99th percentile is little more than the slowest run


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """An engine and how it is used.

    Attributes:
        engine: its id, such as ``openvino:int8``.
        batch: images in a call.
        threads: CPU threads that are asked for, None for what the runtime takes by itself.
        streams: how many images of a batch are computed side by side.
    """

    engine: str
    batch: int
    threads: int | None = None
    streams: int = 1

    @property
    def code(self) -> str:
        """The Python that opens the engine so."""
        options = f", threads={self.threads}" if self.threads else ""
        options += f", streams={self.streams}" if self.streams > 1 else ""
        return f'open_engine(bundle, "{self.engine}"{options})'


class BenchResult(Setting, frozen=True, kw_only=True):
    """A setting, and how fast it was.

    Attributes:
        size: height and width of the images in pixels.
        microns_per_pixel: side of a pixel, for the tissue area a second.
        timing: latencies of a call.
    """

    size: tuple[int, int]
    microns_per_pixel: float
    timing: Timing

    @property
    def images_per_s(self) -> float:
        """Images a second, calls one after the other."""
        return self.batch * 1000 / self.timing.latency_ms["mean"]

    def to_json(self) -> dict[str, Any]:
        """Return the result under the keys that reports and the benchmark results keep."""
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
    """Results by batch and engine, and the machine that they hold for."""

    results: tuple[BenchResult, ...]
    environment: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only."""
        return {"results": [result.to_json() for result in self.results], "environment": self.environment}

    def table(self) -> Table:
        """Return the report as a table for an 80-column terminal; the first engine at a batch has speed-up 1.

        Threads and streams have a column where more than one setting of them was measured.
        """
        height, width = self.results[0].size
        swept = [name for name in ("threads", "streams") if len({getattr(one, name) for one in self.results}) > 1]
        table = Table(
            title=f"Latency, host to host, {height} × {width} px, ms a batch",
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
    return ("runs",) if len(swept) < 2 else ()  # there is no room for it beside both


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
        notes.append(f"With fewer than {RUNS_FOR_P99} runs p99 is little more than the slowest run.")
    if not all(result.timing.stable for result in results):
        notes.append(
            f"! Unstable: the windows' medians vary by more than {MAX_VARIATION:.1%}; repeat on a quiet machine."
        )
    return " ".join(notes) or None
