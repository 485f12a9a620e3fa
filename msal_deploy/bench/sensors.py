"""Clock, temperature and power, where the system tells them. Most virtual machines do not: then the value is None."""

import importlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

RAPL = Path("/sys/class/powercap")
PROCESSOR_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


def clock_mhz() -> float | None:
    """Return the mean current clock of the cores in MHz."""
    with suppress(OSError, NotImplementedError, AttributeError):
        if (frequency := psutil.cpu_freq()) is not None and frequency.current:
            return round(frequency.current, 1)
    return None


def temperature_c() -> float | None:
    """Return the temperature of the hottest sensor of the processor in °C."""
    with suppress(OSError, AttributeError):  # only Linux and FreeBSD have it
        sensors = psutil.sensors_temperatures()
        return max((one.current for name in PROCESSOR_SENSORS for one in sensors.get(name, ())), default=None)
    return None


def energy_joules(root: Path = RAPL) -> float | None:
    """Return the energy that the processors have used since some time in the past, in joules.

    It is the sum over the packages of RAPL, whose counters wrap around after minutes to hours. Since 2020, kernels let
    only root read them.

    Args:
        root: Folder with the zones, such as ``intel-rapl:0`` (Intel's and AMD's), whose subzones are not counted.
    """
    try:
        packages = [zone for zone in root.glob("*-rapl:*") if zone.name.count(":") == 1]
        counters = [int((zone / "energy_uj").read_text(encoding="utf-8")) for zone in packages]
    except (OSError, ValueError):
        return None
    return sum(counters) / 1e6 if counters else None


def gpu_sensors() -> dict[str, list[float] | None]:
    """Return the temperature in °C and the power in W of each NVIDIA GPU; None without a driver."""
    unknown: dict[str, list[float] | None] = {"gpu_temperature_c": None, "gpu_power_w": None}
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # not installed, or no driver: NVML's errors are made when it is imported
        return unknown
    try:
        return _read_gpus(nvml)
    except nvml.NVMLError:
        return unknown
    finally:
        nvml.nvmlShutdown()


def _read_gpus(nvml: Any) -> dict[str, list[float] | None]:
    gpus = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return {
        "gpu_temperature_c": [float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)) for gpu in gpus],
        "gpu_power_w": [nvml.nvmlDeviceGetPowerUsage(gpu) / 1000 for gpu in gpus],  # it is in milliwatts
    }
