"""Where the time goes: what each layer costs, the floor that the machine's peak rates allow, and what engines take."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec

from msal_deploy.bench.peaks import roofs
from msal_deploy.bench.ratios import Ratio, speed_up
from msal_deploy.bench.timing import Timing
from msal_deploy.graph import Layer
from msal_deploy.roofline import Estimate, LayerBound, Roofs, bound_layers
from msal_deploy.runtimes.kernels import Kernel

SCHEMA = "msal-deploy roofline 1"


class MeasuredPeak(msgspec.Struct, frozen=True):
    """The timing of one peak rate.

    Attributes:
        amount: Operations, or bytes read and written, of one call.
        timing: Latencies of a call.
    """

    amount: int
    timing: Timing


class LayerCost(msgspec.Struct, frozen=True):
    """What a layer takes in an engine, beside its bound.

    Attributes:
        bound: The layer under the roofs of the machine.
        milliseconds: Time of its kernel in the engine, in ms.
    """

    bound: LayerBound
    milliseconds: float

    @property
    def beyond_ms(self) -> float:
        """Time beyond the floor, in ms; negative if the layer is faster than the floor."""
        return self.milliseconds - self.bound.floor_ms

    @property
    def operations_per_s(self) -> float:
        """Rate that the layer reaches."""
        return 2000 * self.bound.layer.macs / self.milliseconds


class RooflineReport(msgspec.Struct, frozen=True, kw_only=True):
    """The peak rates of a machine, and the layers and engines of a bundle under them, measured in one run.

    Attributes:
        size: Height and width of the images in pixels.
        batch: Images per call.
        threads: CPU threads of every measurement.
        cache_bytes: Size of the last-level cache; 0 if it is not known.
        peaks: Peak rates by the name of their measurement.
        layers: Layers by the precision of their graph.
        engines: Latencies by engine.
        kernels: Profiles by engine; only of runtimes that have a profiler.
        left_out: Why an engine was not measured, by engine.
        estimates: Estimates for GPUs, from data sheets.
        environment: Description of the machine.
    """

    size: tuple[int, int]
    batch: int
    threads: int
    cache_bytes: int
    peaks: Mapping[str, MeasuredPeak]
    layers: Mapping[str, tuple[Layer, ...]]
    engines: Mapping[str, Timing]
    kernels: Mapping[str, tuple[Kernel, ...]]
    left_out: Mapping[str, str]
    estimates: tuple[Estimate, ...]
    environment: Mapping[str, Any]

    @property
    def roofs(self) -> Roofs:
        """The machine, at the median of each measurement."""
        return self._roofs({name: peak.timing.latency_ms["p50"] for name, peak in self.peaks.items()})

    def _roofs(self, milliseconds: Mapping[str, float]) -> Roofs:
        return roofs({name: (peak.amount, milliseconds[name]) for name, peak in self.peaks.items()}, self.cache_bytes)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that have a floor: the machine has a rate for them, and the bundle has the graph."""
        return tuple(p for p in self.roofs.operations if p != "int8" or p in self.layers)

    def bounds(self, precision: str) -> tuple[LayerBound, ...]:
        """Return the layers in a precision: of the INT8 graph as exported, or of the FP32 graph all in `precision`."""
        return self._bounds(self.roofs, precision)

    def _bounds(self, machine: Roofs, precision: str) -> tuple[LayerBound, ...]:
        as_exported = precision == "int8"
        return bound_layers(self.layers["int8" if as_exported else "fp32"], machine, None if as_exported else precision)

    def floor_ms(self, precision: str) -> float:
        """Return the lower bound on the time of one call, in ms."""
        return sum(bound.floor_ms for bound in self.bounds(precision))

    def memory_share(self, precision: str) -> float:
        """Return the share of the floor (0 to 1) in layers that a bandwidth limits."""
        memory = sum(bound.floor_ms for bound in self.bounds(precision) if bound.bound == "memory")
        return memory / self.floor_ms(precision)

    def times_the_floor(self, engine: str) -> Ratio | None:
        """Return the latency of an engine divided by its floor, window by window; None if its precision has no floor.

        A slowdown of the machine raises the latency and lowers the measured peaks alike.
        """
        precision = engine.partition(":")[2]
        if precision not in self.precisions:
            return None
        medians = [dict(zip(self.peaks, row, strict=True)) for row in self._rows()]
        floors = [sum(b.floor_ms for b in self._bounds(self._roofs(row), precision)) for row in medians]
        return speed_up(floors, self.engines[engine].medians)

    def _rows(self) -> list[tuple[float, ...]]:
        """Return the medians of all peaks, a row for each window."""
        return list(zip(*(peak.timing.medians for peak in self.peaks.values()), strict=True))

    def costs(self, engine: str) -> tuple[LayerCost, ...]:
        """Return what each layer takes in an engine with a profile; the layer that costs most beyond its floor first.

        A kernel that computes several layers is divided among them by their operations.
        """
        bounds = {bound.layer.name: bound for bound in self.bounds(engine.partition(":")[2])}
        times: dict[str, float] = defaultdict(float)
        for kernel in self.kernels[engine]:
            layers = [bounds[node].layer for node in kernel.nodes if node in bounds]
            for layer in layers:
                times[layer.name] += kernel.milliseconds * layer.macs / sum(one.macs for one in layers)
        costs = (LayerCost(bounds[name], milliseconds) for name, milliseconds in times.items())
        return tuple(sorted(costs, key=lambda cost: cost.beyond_ms, reverse=True))

    def other_ms(self, engine: str) -> dict[str, float]:
        """Return the times of the kernels that compute no layer, by kind, in ms; the longest first."""
        names = {layer.name for layer in self.layers["fp32"]} | {layer.name for layer in self.layers.get("int8", ())}
        times: dict[str, float] = defaultdict(float)
        for kernel in self.kernels[engine]:
            if names.isdisjoint(kernel.nodes):
                times[kernel.kind] += kernel.milliseconds
        return dict(sorted(times.items(), key=lambda item: item[1], reverse=True))

    @property
    def profiled(self) -> str | None:
        """The fastest engine that has both a profile and a floor."""
        known = [name for name in self.kernels if name.partition(":")[2] in self.precisions]
        return min(known, key=lambda name: self.engines[name].latency_ms["p50"], default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        machine = self.roofs
        return {
            "schema": SCHEMA,
            "size": list(self.size),
            "batch": self.batch,
            "threads": self.threads,
            "peaks": {name: {"amount": peak.amount, **peak.timing.to_json()} for name, peak in self.peaks.items()},
            "roofs": {
                "operations_per_s": dict(machine.operations),
                "memory_bytes_per_s": machine.memory,
                "cache_bytes_per_s": machine.cache or None,
                "cache_bytes": machine.cache_bytes or None,
            },
            "floors": {
                precision: {
                    "floor_ms": self.floor_ms(precision),
                    "memory_share": self.memory_share(precision),
                    "layers": [_bound_json(bound, self.floor_ms(precision)) for bound in self.bounds(precision)],
                }
                for precision in self.precisions
            },
            "engines": {name: self._engine_json(name) for name in self.engines},
            "left_out": dict(self.left_out),
            "estimates": [estimate.to_json() for estimate in self.estimates],
            "environment": dict(self.environment),
        }

    def _engine_json(self, engine: str) -> dict[str, Any]:
        ratio = self.times_the_floor(engine)
        result = {**self.engines[engine].to_json(), "times_the_floor": msgspec.to_builtins(ratio)}
        if engine in self.kernels and ratio:
            result["layers_ms"] = {cost.bound.layer.name: cost.milliseconds for cost in self.costs(engine)}
            result["other_ms"] = self.other_ms(engine)
        return result


def _bound_json(bound: LayerBound, floor_ms: float) -> dict[str, Any]:
    return {
        "name": bound.layer.name,
        "op": bound.layer.op,
        "module": bound.layer.module,
        "precision": bound.precision,
        "operations": 2 * bound.layer.macs,
        "moved_bytes": bound.moved_bytes,
        "operations_per_byte": bound.intensity,
        "bound": bound.bound,
        "arithmetic_ms": bound.arithmetic_ms,
        "memory_ms": bound.memory_ms,
        "floor_ms": bound.floor_ms,
        "share_of_floor": bound.floor_ms / floor_ms,
    }
