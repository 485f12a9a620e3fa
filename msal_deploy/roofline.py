"""Roofline: a lower bound on the time that a graph takes on a machine with known peak rates.

A layer takes at least as long as its arithmetic at the machine's peak rate, and at least as long as moving its bytes at
the memory bandwidth. The larger of the two counts, and the times of all layers add up (Williams, Waterman and
Patterson, 2009). Real engines are slower: no layer reaches the peak, and activations, additions and casts that are not
fused into a convolution take extra time.

The rates are measured (`msal_deploy.bench`) or come from a GPU's data sheet (`estimate`). Data sheets give no bandwidth
of a cache, so there a cache that keeps a layer's input can beat the bound of a memory-bound layer.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from rich import box
from rich.table import Table

from msal_deploy.graph import BYTES as GRAPH_BYTES
from msal_deploy.graph import Layer
from msal_deploy.targets import Target

LABEL = "Estimate (roofline from data sheets; nothing was run): a lower bound on the time"
FOOTNOTE = (
    f"{LABEL}; batch 1. tf32: FP32 tensors in tensor cores. *: not in the bundle; estimated from the layers of the "
    "FP32 graph, all in that precision."
)
BYTES = {**GRAPH_BYTES, "tf32": 4}
PRECISIONS = ("fp32", "tf32", "fp16", "int8")  # of the estimates of a GPU


class Roofs(msgspec.Struct, frozen=True):
    """Peak rates of one machine.

    >>> laptop = Roofs("laptop", {"fp32": 2e11}, memory=2e10, cache=9e10, cache_bytes=2**25)
    >>> laptop.bandwidth(1_000_000), laptop.bandwidth(1_000_000_000)
    (90000000000.0, 20000000000.0)

    Attributes:
        name: Name of the machine.
        operations: Precision -> operations per second; a multiply-accumulate is two.
        memory: Bandwidth of the memory in bytes per second.
        cache: Bandwidth of the last-level cache in bytes per second; `memory` if it is not known.
        cache_bytes: Size of that cache; 0 if it is not known.
    """

    name: str
    operations: Mapping[str, float]
    memory: float
    cache: float = 0.0
    cache_bytes: int = 0

    def bandwidth(self, moved_bytes: int) -> float:
        """Return the bandwidth for a layer that moves so many bytes: the cache's if they fit in it together."""
        return self.cache if moved_bytes <= self.cache_bytes else self.memory


class LayerBound(msgspec.Struct, frozen=True):
    """A layer under the roofs of a machine.

    Attributes:
        layer: The layer.
        precision: What it computes in.
        moved_bytes: Bytes of input, weights and output in that precision.
        arithmetic_ms: Time of its arithmetic at the peak rate, in ms.
        memory_ms: Time of moving its bytes, in ms.
    """

    layer: Layer
    precision: str
    moved_bytes: int
    arithmetic_ms: float
    memory_ms: float

    @property
    def floor_ms(self) -> float:
        """The larger of the two times."""
        return max(self.arithmetic_ms, self.memory_ms)

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """Which of the two times is larger."""
        return "memory" if self.memory_ms > self.arithmetic_ms else "compute"

    @property
    def intensity(self) -> float:
        """Operations per byte moved."""
        return 2 * self.layer.macs / self.moved_bytes


def bound_layers(layers: Iterable[Layer], roofs: Roofs, precision: str | None = None) -> tuple[LayerBound, ...]:
    """Return the bound of each layer on a machine.

    >>> conv = Layer("conv", "Conv", "encoder", macs=1_000_000_000, precision="fp32", moved_bytes=8_000_000)
    >>> (bound,) = bound_layers([conv], Roofs("laptop", {"fp32": 2e11, "bf16": 4e11}, memory=2e10), "bf16")
    >>> bound.arithmetic_ms, bound.memory_ms, bound.bound, bound.intensity  # 2 GFLOP and 4 MB
    (5.0, 0.2, 'compute', 500.0)

    Args:
        layers: Layers from `msal_deploy.graph.layers`.
        roofs: The machine.
        precision: Precision that all layers compute in; None for each layer's own.

    Raises:
        ValueError: The machine has no rate for a precision.
    """
    return tuple(_bound(layer, roofs, precision or layer.precision) for layer in layers)


def _bound(layer: Layer, roofs: Roofs, precision: str) -> LayerBound:
    if precision not in roofs.operations:
        raise ValueError(f"{roofs.name} has no rate for {precision}")
    moved = layer.moved_bytes * BYTES[precision] // BYTES[layer.precision]
    arithmetic, memory = 2 * layer.macs / roofs.operations[precision], moved / roofs.bandwidth(moved)
    return LayerBound(layer, precision, moved, arithmetic * 1000, memory * 1000)


class Estimate(msgspec.Struct, frozen=True):
    """A lower bound on the time of one image on one target in one precision.

    Attributes:
        target: Name of the target.
        precision: ``fp32``, ``tf32`` (FP32 tensors in tensor cores), ``fp16`` or ``int8``.
        as_exported: True if each layer computes in its own precision, False if all of them compute in `precision`.
        milliseconds: Time of one image in ms.
        memory_bound: Share of that time (0 to 1) in layers that the memory bandwidth limits.
    """

    target: str
    precision: str
    as_exported: bool
    milliseconds: float
    memory_bound: float

    @property
    def images_per_s(self) -> float:
        """Upper bound on images per second, one image after the other."""
        return 1000 / self.milliseconds

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as JSON types, with `LABEL`."""
        return {**msgspec.to_builtins(self), "images_per_s": self.images_per_s, "label": LABEL}


def estimate(layers: Iterable[Layer], target: Target, precision: str, *, as_exported: bool = False) -> Estimate:
    """Return a lower bound on the time of `layers` on `target`, from its data sheet.

    >>> from msal_deploy.targets import find_target
    >>> conv = Layer("conv", "Conv", "encoder", macs=500_000_000_000, precision="fp32", moved_bytes=1_000_000)
    >>> round(estimate([conv], find_target("t4"), "fp16").milliseconds, 1)  # 1 TFLOP at 65 TFLOP/s
    15.4

    Args:
        layers: Layers of one image, from `msal_deploy.graph.layers` with batch 1.
        target: The GPU.
        precision: Precision that all layers compute in.
        as_exported: Use each layer's own precision instead; `precision` then only names the result.

    Raises:
        ValueError: The target has no peak rate for a precision (``tf32`` before compute capability 8.0).
    """
    bounds = bound_layers(layers, _data_sheet(target), None if as_exported else precision)
    total = sum(bound.floor_ms for bound in bounds)
    memory = sum(bound.floor_ms for bound in bounds if bound.bound == "memory")
    return Estimate(target.name, precision, as_exported, total, memory / total)


def estimate_all(layers_of: Mapping[str, Iterable[Layer]], target: Target) -> tuple[Estimate, ...]:
    """Return an estimate for each of `PRECISIONS` that a GPU supports.

    Args:
        layers_of: Precision of a graph -> its layers; ``fp32`` at least, whose layers stand in for a missing graph's.
        target: The GPU.
    """
    supported = [precision for precision in PRECISIONS if getattr(target.peak, precision) is not None]
    return tuple(
        estimate(layers_of.get(p, layers_of["fp32"]), target, p, as_exported=p in layers_of) for p in supported
    )


def _data_sheet(target: Target) -> Roofs:
    peaks = {precision: getattr(target.peak, precision) for precision in PRECISIONS}
    peaks["bf16"] = target.peak.fp16  # tensor cores have the same rate for both
    rates = {precision: peak * 1e12 for precision, peak in peaks.items() if peak is not None}
    return Roofs(target.name, rates, target.bandwidth_gb_s * 1e9)


def estimate_table(estimates: Sequence[Estimate], size: str) -> Table:
    """Return the estimates as a table with a row for each target; `FOOTNOTE` belongs under it.

    Args:
        estimates: Estimates from `estimate_all`.
        size: Size of the image, such as ``512``.
    """
    table = Table(
        title=f"Estimate: lower bound in ms for one {size} px image (upper bound in images/s)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("")
    for precision in PRECISIONS:
        table.add_column(precision, justify="right")
    cells = {(estimate.target, estimate.precision): _cell(estimate) for estimate in estimates}
    for target in dict.fromkeys(estimate.target for estimate in estimates):
        table.add_row(target, *(cells.get((target, precision), "–") for precision in PRECISIONS))
    return table


def _cell(estimate: Estimate) -> str:
    star = "" if estimate.as_exported or estimate.precision == "tf32" else "*"
    return f"{estimate.milliseconds:.3g} ({estimate.images_per_s:.0f}){star}"
