"""The machine that the results hold for."""

import platform
from datetime import UTC, datetime
from typing import Any

from msal_deploy.hardware import (
    available_cores,
    describe_processor,
    installed_versions,
    load_average,
    memory_gib,
    query_driver,
)
from msal_deploy.runtimes import runtime_packages


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
        "memory_gib": memory_gib(),
        "load_average": [round(load, 2) for load in load_average()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": installed_versions(("msal-deploy", "numpy", *runtime_packages())),
    }
