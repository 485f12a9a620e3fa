"""What was measured, what follows from it, and which claims it meets.

A ratio is taken window by window, and its median is given: what takes turns is slowed down together.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Literal

import limit
import msgspec
from rich import box
from rich.console import Group
from rich.table import Table

from msal_deploy.bench import BenchReport, Timing, median_interval

TORCH, INT8, BARE = "torch:fp32", "openvino:int8", "openvino:int8, a bare loop"
# Order of the table, and of the turns: the bare loop comes right after openvino:int8.
ENGINES = (TORCH, "onnxruntime:fp32", "onnxruntime:int8", "openvino:fp32", "openvino:bf16", INT8)
OPTIONAL = ("openvino:bf16",)  # left out where the chip has no bf16
LIMITS = {"int8": "convolutions, int8", "fp32": "convolutions, fp32"}

SPEED_UP = 6.0  # over torch in eager mode
OVERHEAD = 0.03  # over the bare loop


class Claim(msgspec.Struct, frozen=True):
    """A claim, what became of it, and what was found. Not settled: the times vary too much to say."""

    claim: str
    verdict: Literal["met", "not met", "not settled"]
    found: str

    def __str__(self) -> str:
        return f"{self.claim}: {self.verdict}: {self.found}"


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements of one run.

    Attributes:
        size: side of the image in pixels.
        threads: CPU threads of everything.
        operations: graph (``int8``, ``fp32``) -> precision -> operations of one image.
        timings: name -> latencies of one image; and those of the limit's convolutions.
        pairs: the INT8 engine and the bare loop once more, in windows of one run: each next to one of the other.
        throughput: the INT8 engine by batch and streams.
        left_out: engine -> why it was not measured.
        environment: the machine that this holds for.
    """

    size: int
    threads: int
    operations: Mapping[str, Mapping[str, int]]
    timings: Mapping[str, Timing]
    pairs: Mapping[str, Timing]
    throughput: BenchReport
    left_out: Mapping[str, str]
    environment: Mapping[str, Any]

    @property
    def engines(self) -> tuple[str, ...]:
        """What ran the network, in the order of the table."""
        return tuple(name for name in self.timings if name not in LIMITS.values())

    @property
    def fastest(self) -> str:
        """The engine with the smallest median latency."""
        return min((name for name in self.engines if name != BARE), key=lambda name: self.p50(name))

    def p50(self, name: str) -> float:
        """Return the median latency in ms."""
        return self.timings[name].latency_ms["p50"]

    def times(self, slow: str, fast: str) -> float:
        """Return how many times as long `slow` takes as `fast`."""
        return median(_divide(self.timings[slow].medians, self.timings[fast].medians))

    def limit_ms(self, graph: str) -> float:
        """Return how long the operations of a graph (``int8``, ``fp32``) take at the measured rates, in ms."""
        return median(self._limits(graph))

    def over_limit(self, engine: str, graph: str) -> float:
        """Return how many times the limit of a graph an engine takes."""
        return median(_divide(self.timings[engine].medians, self._limits(graph)))

    def rate(self, precision: str) -> float:
        """Return the rate of the large convolutions in operations a second."""
        return limit.operations() * 1000 / median(self.timings[LIMITS[precision]].medians)

    def _limits(self, graph: str) -> tuple[float, ...]:
        """Return the limit of each window in ms."""
        windows = zip(*(self.timings[name].medians for name in LIMITS.values()), strict=True)
        return tuple(
            limit.milliseconds(self.operations[graph], dict(zip(LIMITS, medians, strict=True))) for medians in windows
        )

    @property
    def overheads(self) -> tuple[float, ...]:
        """Return what our engine takes longer than the bare loop, as a share, pair by pair."""
        return tuple(ratio - 1 for ratio in _divide(self.pairs[INT8].medians, self.pairs[BARE].medians))

    def claims(self) -> tuple[Claim, Claim]:
        """Return the claims of the project about a CPU."""
        return self._speed_claim(), self._overhead_claim()

    def _speed_claim(self) -> Claim:
        torch = self.timings[TORCH].medians
        speed_ups = _divide(torch, self.timings[self.fastest].medians)
        low, high = median_interval(speed_ups)
        verdict = "met" if low >= SPEED_UP else "not met" if high < SPEED_UP else "not settled"
        found = f"{median(speed_ups):.1f}× of {SPEED_UP:g}× (about 95%: {low:.1f} to {high:.1f})"
        possible = median(_divide(torch, self._limits("int8")))
        return Claim(
            f"{self.fastest} is at least {SPEED_UP:g}× as fast as {TORCH}",
            verdict,
            found if verdict == "met" else f"{found}; the INT8 limit itself allows {possible:.1f}×",
        )

    def _overhead_claim(self) -> Claim:
        low, high = median_interval(self.overheads)
        return Claim(
            f"{INT8} is within {OVERHEAD:.0%} of a bare loop over the same graph",
            "met" if high <= OVERHEAD else "not met" if low > OVERHEAD else "not settled",
            f"{median(self.overheads):+.1%} (about 95%: {low:+.1%} to {high:+.1%})",
        )

    def sentences(self) -> tuple[str, ...]:
        """Return the claims, and how far the network is from what the machine allows."""
        return (
            *map(str, self.claims()),
            *(self._about_limit(graph) for graph in LIMITS),
            *(f"{engine} was left out: {why}" for engine, why in self.left_out.items()),
        )

    def _about_limit(self, graph: str) -> str:
        engine = f"openvino:{graph}"
        return (
            f"{engine} takes {self.over_limit(engine, graph):.2f} times its limit of {self.limit_ms(graph):.1f} ms: "
            f"{sum(self.operations[graph].values()) / 1e9:.1f} G operations at the {self.rate(graph) / 1e9:.0f} G a "
            f"second of large {graph.upper()} convolutions"
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only."""
        return {
            "size": self.size,
            "threads": self.threads,
            "operations": msgspec.to_builtins(self.operations),
            "timings": {name: timing.to_json() for name, timing in self.timings.items()},
            "speed_up": {name: self.times(TORCH, name) for name in self.engines},
            "convolution_operations": limit.operations(),
            "operations_per_s": {precision: self.rate(precision) for precision in LIMITS},
            "limit_ms": {graph: self.limit_ms(graph) for graph in LIMITS},
            "times_the_limit": {graph: self.over_limit(f"openvino:{graph}", graph) for graph in LIMITS},
            "overhead": {"median": median(self.overheads), "interval": list(median_interval(self.overheads))},
            "claims": msgspec.to_builtins(self.claims()),
            "throughput": self.throughput.to_json()["results"],
            "left_out": dict(self.left_out),
            "environment": dict(self.environment),
        }

    def table(self) -> Group:
        """Return the tables for an 80-column terminal: latency, then throughput."""
        table = Table(
            title=f"One image of {self.size} × {self.size} px, {self.threads} threads, ms", box=box.SIMPLE_HEAD
        )
        table.add_column("", no_wrap=True)
        for column in ("p50", "p90", "speed-up", "runs", ""):
            table.add_column(column, justify="right")
        for name in self.engines:
            table.add_row(name, *self._cells(name))
        table.add_section()
        for graph in LIMITS:
            ms = self.limit_ms(graph)
            speed_up = median(_divide(self.timings[TORCH].medians, self._limits(graph)))
            table.add_row(f"limit of the {graph.upper()} graph", f"{ms:.1f}", "", f"{speed_up:.2f}×")
        if not all(timing.stable for timing in self.timings.values()):
            table.caption = "! Unstable: the windows' medians vary; repeat on a quiet machine."
        return Group(table, self.throughput.table())

    def _cells(self, name: str) -> tuple[str, ...]:
        timing = self.timings[name]
        latency = timing.latency_ms
        return (
            f"{latency['p50']:.1f}",
            f"{latency['p90']:.1f}",
            f"{self.times(TORCH, name):.2f}×",
            str(timing.runs),
            "" if timing.stable else "[yellow]![/]",
        )


def _divide(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, ...]:
    """Return for each window how many times as long `slow` takes."""
    return tuple(a / b for a, b in zip(slow, fast, strict=True))
