"""The machine that the results hold for, and how warm, fast and busy it was."""

import platform
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import psutil

from msal_deploy.bench.sensors import clock_mhz, energy_joules, gpu_sensors, temperature_c
from msal_deploy.hardware import (
    available_cores,
    cpu_quota,
    describe_processor,
    installed_versions,
    load_average,
    memory_gib,
    memory_limit_gib,
    query_driver,
    runnable_cores,
)
from msal_deploy.runtimes import runtime_packages

GLANCE = 0.2  # seconds to see how busy the processor is


def describe_machine() -> dict[str, Any]:
    """Return what latencies depend on, as JSON types: processor, GPUs, cores, memory (GiB), load and versions.

    The result has no host name and no path, so it can be published.

    >>> machine = describe_machine()
    >>> machine["logical_cores"] >= 1
    True
    """
    processor, instructions = describe_processor()
    nvidia = query_driver()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor,
        "instructions": list(instructions),
        "gpus": [gpu.name for gpu in nvidia.gpus],
        "driver": nvidia.version,
        "logical_cores": available_cores(),
        "threads": {"default": available_cores(), "cpu_quota": cpu_quota(), "affinity": runnable_cores()},
        "memory_gib": memory_gib(),
        "memory_limit_gib": memory_limit_gib(),
        "load_average": _rounded(*load_average()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": installed_versions(("msal-deploy", "numpy", *runtime_packages())),
    }


class MachineWatch:
    """Describes the machine before a measurement, and adds how it was doing when it ends.

    >>> watch = MachineWatch()
    >>> environment = watch.stop()
    >>> {"busy_before", "load_average_after", "clock_mhz", "temperature_c", "power_w"} <= set(environment)
    True
    """

    def __init__(self) -> None:
        self._before = describe_machine() | {"busy_before": round(psutil.cpu_percent(GLANCE) / 100, 2)}
        self._start, self._energy = monotonic(), energy_joules()

    def stop(self) -> dict[str, Any]:
        """Return the description, with the state at the end. What cannot be read is None.

        ``busy_before`` is the share of the whole machine's cores that was busy, ``clock_mhz`` the mean over cores,
        ``temperature_c`` the hottest sensor of the processor, ``power_w`` the processor's mean power since the start,
        and ``gpu_temperature_c`` and ``gpu_power_w`` have a number for each GPU.
        """
        return self._before | {
            "load_average_after": _rounded(*load_average()),
            "clock_mhz": clock_mhz(),
            "temperature_c": temperature_c(),
            "power_w": self._power(),
            **gpu_sensors(),
        }

    def _power(self) -> float | None:
        energy, seconds = energy_joules(), monotonic() - self._start
        if energy is None or self._energy is None or energy < self._energy or seconds <= 0:  # the counter wraps around
            return None
        return round((energy - self._energy) / seconds, 1)


def _rounded(*values: float) -> list[float]:
    return [round(value, 2) for value in values]
