"""How much a node's operands lose by rounding: the error that the node adds itself, whatever came in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


class Affine(msgspec.Struct, frozen=True):
    """The rounding of a QuantizeLinear and its DequantizeLinear.

    >>> Affine(scale=0.5, zero=0, low=-128, high=127).round(np.array([0.3, 1.1, 90.0]))
    array([ 0.5,  1. , 63.5])

    Attributes:
        scale: Step between two values.
        zero: Integer that stands for 0.
        low: Smallest integer.
        high: Largest integer.
    """

    scale: float
    zero: int
    low: int
    high: int

    def round(self, values: Array) -> Array:
        """Return the values after Q/DQ: rounded to the nearest step (ties to even) and clipped."""
        integers = (np.rint(values / self.scale) + self.zero).clip(self.low, self.high)
        return np.asarray((integers - self.zero) * self.scale)

    def scale_ratio(self, values: Array) -> float:
        """Return the scale relative to the smallest one that clips no value: 0.25 is four times too small.

        >>> Affine(scale=0.25, zero=0, low=-128, high=127).scale_ratio(np.array([-3.0, 127.0]))
        0.25
        """
        ends = (values.max(), self.high - self.zero), (-values.min(), self.zero - self.low)
        needed = [float(extent) / steps for extent, steps in ends if steps and extent > 0]
        return self.scale / max(needed) if needed else math.inf


def round_to_half(values: Array) -> Array:
    """Return the values after a cast to FP16 and back; beyond ±65,504 they become Inf.

    >>> round_to_half(np.array([1.0001, 70000.0]))
    array([ 1., inf])
    """
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(values.dtype)


def relative_rms(actual: Array, expected: Array) -> float:
    """Return the root mean square of the difference, relative to that of `expected`; Inf if it is not finite.

    >>> relative_rms(np.array([3.0, 4.5]), np.array([3.0, 4.0]))
    0.1
    """
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.sum(np.square(actual - expected, dtype=np.float64)))
    power = float(np.sum(np.square(expected, dtype=np.float64)))
    if not error:
        return 0.0
    return math.sqrt(error / power) if math.isfinite(error) and power else math.inf


def combined(errors: Iterable[float]) -> float:
    """Return the error of independent errors together: the root of the sum of their squares.

    >>> combined([0.3, 0.4])
    0.5
    """
    return math.hypot(*errors)


def added(output: float, inputs: Iterable[float]) -> float:
    """Return how much of the error at a node's output did not come from its inputs.

    >>> round(added(0.5, [0.3, 0.1]), 9)
    0.4
    >>> added(0.1, [0.3])
    0.0

    Args:
        output: Relative RMS error of the output, against the FP32 graph.
        inputs: Those of the inputs, before they are rounded. The largest one counts, since the others may cancel.
    """
    inherited = max(inputs, default=0.0)
    if math.isinf(output):
        return 0.0 if math.isinf(inherited) else math.inf
    return math.sqrt(output**2 - inherited**2) if output > inherited else 0.0
