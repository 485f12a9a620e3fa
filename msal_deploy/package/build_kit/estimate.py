"""Estimates of what a build needs, from the graph and the peak rates of the GPU. Nothing here is measured."""

from collections.abc import Iterable
from math import ceil

from msal_deploy.graph import Layer
from msal_deploy.roofline import estimate
from msal_deploy.targets import Target

# A builder runs each layer with each of its tactics, several times, in each precision that it may choose. That is as
# much work as running the whole graph about this often at its peak rate. What is not timing (parsing, loading kernels,
# writing the plan) takes about a minute.
RUNS, REST_S = 2000, 60
SPREAD = 5  # from the shortest to the longest estimate
SHARED = 2  # inputs and outputs of the largest layer, and as much again for skip connections


def build_minutes(layers: Iterable[Layer], target: Target) -> tuple[int, int]:
    """Return the shortest and the longest time to expect of a build, in minutes, for layers at the profile's opt shape.

    >>> from msal_deploy.targets import find_target
    >>> conv = Layer("conv", "Conv", "encoder", macs=113_000_000_000, precision="fp32", moved_bytes=1_000_000)
    >>> build_minutes([conv], find_target("gtx-1080-ti"))  # 20 ms at 11.3 TFLOP/s, 2000 times, and a minute
    (2, 10)
    """
    run_s = estimate(layers, target, "fp32").milliseconds / 1000
    shortest = ceil((RUNS * run_s + REST_S) / 60)
    return shortest, SPREAD * shortest


def device_memory_gib(layers: Iterable[Layer]) -> float:
    """Return the device memory for activations in GiB, for layers at the profile's max shape.

    >>> conv = Layer("conv", "Conv", "encoder", macs=1, precision="fp32", moved_bytes=2**30)
    >>> device_memory_gib([conv])
    2.0
    """
    return SHARED * max(layer.moved_bytes for layer in layers) / 2**30
