"""The measurements of one run, the ratios and limits derived from them, and the claim that they support.

A ratio is the median over the windows of the ratio within a window: timing is interleaved, so a temporary slowdown of
the machine affects both sides.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Literal

import msgspec
from rich import box
from rich.console import Group
from rich.table import Table

from msal_deploy.bench import BenchReport, Timing, median_interval
from msal_deploy.bench.peaks import convolution_name, operations

TORCH, INT8 = "torch:fp32", "openvino:int8"
ENGINES = (TORCH, "onnxruntime:fp32", "onnxruntime:int8", "openvino:fp32", "openvino:bf16", INT8)
OPTIONAL = ("openvino:bf16",)  # skipped if the CPU has no BF16 instructions
LIMITS = {precision: convolution_name(precision) for precision in ("int8", "fp32")}

SPEED_UP = 6.0  # relative to torch in eager mode


class Claim(msgspec.Struct, frozen=True):
    """A claim and the evidence for it.

    Attributes:
        claim: The claim.
        verdict: ``met``, ``not met``, or ``not settled`` if the confidence interval includes both.
        found: The measured value with its confidence interval.
    """

    claim: str
    verdict: Literal["met", "not met", "not settled"]
    found: str

    def __str__(self) -> str:
        return f"{self.claim}: {self.verdict}: {self.found}"


class CpuResults(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements of one run.

    Attributes:
        size: Side of the image in pixels.
        threads: CPU threads of every measurement.
        operations: Operations of one image, by graph (``int8``, ``fp32``) and precision.
        timings: Latencies of one image by engine, and latencies of the limit's convolutions.
        throughput: Results of the INT8 engine by batch and streams.
        left_out: Why an engine was not measured, by engine.
        environment: Description of the machine.
    """

    size: int
    threads: int
    operations: Mapping[str, Mapping[str, int]]
    timings: Mapping[str, Timing]
    throughput: BenchReport
    left_out: Mapping[str, str]
    environment: Mapping[str, Any]

    @property
    def engines(self) -> tuple[str, ...]:
        """Everything that ran the network, in the order of the table."""
        return tuple(name for name in self.timings if name not in LIMITS.values())

    @property
    def fastest(self) -> str:
        """The engine with the lowest median latency."""
        return min(self.engines, key=self.p50)

    def p50(self, name: str) -> float:
        """Return the median latency in ms."""
        return self.timings[name].latency_ms["p50"]

    def speed_up(self, slow: str, fast: str) -> float:
        """Return the latency of `slow` divided by that of `fast`."""
        return median(_divide(self.timings[slow].medians, self.timings[fast].medians))

    def limit_ms(self, graph: str) -> float:
        """Return the time of a graph's operations (``int8``, ``fp32``) at the measured rates, in ms."""
        return median(self._limits(graph))

    def over_limit(self, engine: str, graph: str) -> float:
        """Return the latency of an engine divided by the limit of a graph."""
        return median(_divide(self.timings[engine].medians, self._limits(graph)))

    def rate(self, precision: str) -> float:
        """Return the rate of the large convolutions in operations per second."""
        return operations() * 1000 / median(self.timings[LIMITS[precision]].medians)

    def _limits(self, graph: str) -> tuple[float, ...]:
        """Return the limit in each window in ms."""
        windows = zip(*(self.timings[name].medians for name in LIMITS.values()), strict=True)
        one_run = (dict(zip(LIMITS, medians, strict=True)) for medians in windows)
        counts = self.operations[graph].items()
        return tuple(sum(count * ms[p] / operations() for p, count in counts) for ms in one_run)

    def claim(self) -> Claim:
        """Return the project's claim about the speed of its engines on a CPU."""
        torch = self.timings[TORCH].medians
        speed_ups = _divide(torch, self.timings[self.fastest].medians)
        low, high = median_interval(speed_ups)
        verdict = "met" if low >= SPEED_UP else "not met" if high < SPEED_UP else "not settled"
        measured = f"{median(speed_ups):.1f}× of {SPEED_UP:g}× (about 95%: {low:.1f} to {high:.1f})"
        possible = median(_divide(torch, self._limits("int8")))
        return Claim(
            f"{self.fastest} is at least {SPEED_UP:g}× as fast as {TORCH}",
            verdict,
            measured if verdict == "met" else f"{measured}; the INT8 limit allows {possible:.1f}×",
        )

    def messages(self) -> tuple[str, ...]:
        """Return the claim, the limits, and the engines that were left out, one message each."""
        return (
            str(self.claim()),
            *(self._about_limit(graph) for graph in LIMITS),
            *(f"{engine} was not measured: {why}" for engine, why in self.left_out.items()),
        )

    def _about_limit(self, graph: str) -> str:
        engine = f"openvino:{graph}"
        return (
            f"{engine} takes {self.over_limit(engine, graph):.2f} times its limit of {self.limit_ms(graph):.1f} ms: "
            f"{sum(self.operations[graph].values()) / 1e9:.1f} G operations at {self.rate(graph) / 1e9:.0f} G "
            f"operations/s, the rate of large {graph.upper()} convolutions"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON types."""
        return {
            "size": self.size,
            "threads": self.threads,
            "operations": msgspec.to_builtins(self.operations),
            "timings": {name: timing.to_json() for name, timing in self.timings.items()},
            "speed_up": {name: self.speed_up(TORCH, name) for name in self.engines},
            "convolution_operations": operations(),
            "operations_per_s": {precision: self.rate(precision) for precision in LIMITS},
            "limit_ms": {graph: self.limit_ms(graph) for graph in LIMITS},
            "times_the_limit": {graph: self.over_limit(f"openvino:{graph}", graph) for graph in LIMITS},
            "claims": [msgspec.to_builtins(self.claim())],
            "throughput": self.throughput.to_json()["results"],
            "left_out": dict(self.left_out),
            "environment": dict(self.environment),
        }

    def table(self) -> Group:
        """Return the tables of latency and throughput for an 80-column terminal."""
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
            table.caption = "! Unstable: the medians of the windows vary too much; repeat on an idle machine."
        return Group(table, self.throughput.table())

    def _cells(self, name: str) -> tuple[str, ...]:
        timing = self.timings[name]
        latency = timing.latency_ms
        return (
            f"{latency['p50']:.1f}",
            f"{latency['p90']:.1f}",
            f"{self.speed_up(TORCH, name):.2f}×",
            str(timing.runs),
            "" if timing.stable else "[yellow]![/]",
        )


def _divide(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, ...]:
    """Return the ratio of the latencies in each window."""
    return tuple(a / b for a, b in zip(slow, fast, strict=True))
