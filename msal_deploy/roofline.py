"""Roofline: the least time that a graph can take on a GPU. An estimate from data sheets; nothing is run.

A layer takes at least as long as its arithmetic does at the GPU's peak rate, and as long as its bytes do at the
bandwidth of the memory; the larger of the two counts, and the layers come one after the other (Williams, Waterman and
Patterson 2009). Real engines are slower: no layer reaches a peak, and activations, sums and casts that are not fused
into a convolution come on top. A cache that keeps a layer's input can make one faster where memory is the limit.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from msal_deploy.targets import Target

LABEL = "Estimate (roofline from data sheets, nothing was run): a lower bound of the time"
BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}
COMPUTES_IN = {"bf16": "fp16"}  # the rates of both are the same in tensor cores


class Work(Protocol):
    """What is asked of a layer; `msal_deploy.graph.Layer` is one."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""

    @property
    def moved_bytes(self) -> int:
        """Bytes of input, weights and output at `precision`."""

    @property
    def precision(self) -> str:
        """``fp32``, ``fp16``, ``bf16`` or ``int8``."""


class Estimate(msgspec.Struct, frozen=True):
    """The least time of one image on one target at one precision.

    Attributes:
        precision: ``fp32``, ``tf32`` (FP32 tensors in tensor cores), ``fp16`` or ``int8``.
        as_exported: whether the layers had their own precisions, or all of them were taken to have `precision`.
        milliseconds: for one image.
        memory_bound: share of that time in layers that the memory limits.
    """

    target: str
    precision: str
    as_exported: bool
    milliseconds: float
    memory_bound: float

    @property
    def images_per_s(self) -> float:
        """The most images a second, one after the other."""
        return 1000 / self.milliseconds

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only, labelled."""
        return {**msgspec.to_builtins(self), "images_per_s": self.images_per_s, "label": LABEL}


def estimate(layers: Iterable[Work], target: Target, precision: str, *, as_exported: bool = False) -> Estimate:
    """Return the least time of `layers` on `target`.

    Args:
        layers: of one image at batch 1; see `msal_deploy.graph.layers`.
        precision: what all layers are taken to compute in.
        as_exported: take the layers' own precisions instead, and use `precision` as the name only.

    Raises:
        ValueError: the target has no rate for a precision (``tf32`` before compute capability 8.0).
    """
    times = [_time(layer, target, layer.precision if as_exported else precision) for layer in layers]
    total = sum(max(time) for time in times)
    bound = sum(memory for arithmetic, memory in times if memory > arithmetic)
    return Estimate(target.name, precision, as_exported, total * 1000, bound / total)


def _time(layer: Work, target: Target, precision: str) -> tuple[float, float]:
    """Return the seconds of a layer's arithmetic, and of its bytes."""
    rate: float | None = getattr(target.peak, COMPUTES_IN.get(precision, precision))
    if rate is None:
        raise ValueError(f"{target.name} has no rate for {precision}")
    moved = layer.moved_bytes * BYTES[precision] / BYTES[layer.precision]
    return 2 * layer.macs / (rate * 1e12), moved / (target.bandwidth_gb_s * 1e9)
