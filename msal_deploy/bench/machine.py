"""The machine that figures hold for."""

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from msal_deploy.hardware import ask_driver, describe_processor
from msal_deploy.runtimes import runtime_packages


def describe_machine() -> dict[str, Any]:
    """Return what latencies depend on: processor, GPUs, cores, memory, load and versions. No host name, no path."""
    processor, instructions = describe_processor()
    nvidia = ask_driver()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor,
        "instructions": list(instructions),
        "gpus": [gpu.name for gpu in nvidia.get("gpus", ())],
        "driver": nvidia.get("driver"),
        "logical_cores": logical_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": dict(_installed(("msal-deploy", "numpy", *runtime_packages()))),
    }


def logical_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0))


def _installed(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    for package in packages:
        with suppress(PackageNotFoundError):
            yield package, version(package)
