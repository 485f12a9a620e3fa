"""Roofline: a lower bound on the time that a graph takes on a GPU, estimated from data sheets. Nothing is run.

A layer takes at least as long as its arithmetic at the GPU's peak rate, and at least as long as moving its bytes at the
memory bandwidth. The larger of the two counts, and the times of all layers add up (Williams, Waterman and Patterson,
2009). Real engines are slower: no layer reaches the peak, and activations, additions and casts that are not fused into
a convolution take extra time. A cache that keeps a layer's input can beat the bound of a memory-bound layer.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from msal_deploy.graph import Layer
from msal_deploy.targets import Target

LABEL = "Estimate (roofline from data sheets; nothing was run): a lower bound on the time"
BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}
RATE_OF = {"bf16": "fp16"}  # tensor cores have the same rate for both


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
    """Return a lower bound on the time of `layers` on `target`.

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
    times = [_time(layer, target, layer.precision if as_exported else precision) for layer in layers]
    total = sum(max(time) for time in times)
    bound = sum(memory for arithmetic, memory in times if memory > arithmetic)
    return Estimate(target.name, precision, as_exported, total * 1000, bound / total)


def _time(layer: Layer, target: Target, precision: str) -> tuple[float, float]:
    """Return the times of a layer's arithmetic and of its memory traffic, in seconds."""
    rate: float | None = getattr(target.peak, RATE_OF.get(precision, precision))
    if rate is None:
        raise ValueError(f"{target.name} has no rate for {precision}")
    moved = layer.moved_bytes * BYTES[precision] / BYTES[layer.precision]
    return 2 * layer.macs / (rate * 1e12), moved / (target.bandwidth_gb_s * 1e9)
