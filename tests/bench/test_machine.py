"""What bench records of the machine: control groups, clock, temperature and power."""

import io
import sys
from types import SimpleNamespace

import psutil
import pytest
from rich.console import Console

from msal_deploy.bench import BenchReport, BenchResult, Timing, machine
from msal_deploy.bench.machine import MachineWatch
from msal_deploy.bench.sensors import clock_mhz, energy_joules, gpu_sensors, temperature_c
from msal_deploy.bench.session import own_peak_memory_mb
from msal_deploy.hardware import cpu_quota, memory_limit_gib


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.mark.parametrize(("text", "quota"), [("150000 100000", 1.5), ("max 100000", None)])
def test_the_quota_is_recorded_in_cores(tmp_path, text, quota):
    write(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": text})
    assert cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/pod/box", {"pod/memory.max": 3 * 2**30, "pod/box/memory.max": "max", "memory.max": 8 * 2**30}, 3.0),
        ("0::/", {"memory.max": "max"}, None),
        ("4:memory:/a1\n3:cpu:/a1", {"memory/memory.limit_in_bytes": 2**31, "cpu/memory.max": 1}, 2.0),
        ("4:memory:/a1", {"memory/memory.limit_in_bytes": 9223372036854771712}, None),  # version 1 without a limit
        ("0::/", {}, None),
    ],
)
def test_the_memory_limit_is_the_tightest_of_the_control_groups(tmp_path, groups, files, limit):
    write(tmp_path, {"proc/self/cgroup": groups} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert memory_limit_gib(tmp_path) == limit


def test_energy_is_the_sum_over_packages_and_not_their_parts(tmp_path):
    zones = {"intel-rapl:0": 2_500_000, "intel-rapl:1": 1_000_000, "intel-rapl:0:0": 900_000, "intel-rapl": 1}
    write(tmp_path, {f"{zone}/energy_uj": value for zone, value in zones.items()})
    assert energy_joules(tmp_path) == 3.5
    assert energy_joules(tmp_path / "nowhere") is None
    write(tmp_path, {"intel-rapl:1/energy_uj": "not a number"})
    assert energy_joules(tmp_path) is None


@pytest.mark.parametrize(("after", "power"), [(70.0, 6.0), (9.0, None), (None, None)])
def test_power_is_energy_over_time(monkeypatch, after, power):
    energies, times = iter([10.0, after]), iter([100.0, 110.0])
    monkeypatch.setattr(machine, "energy_joules", lambda: next(energies))  # the second case is a counter that wrapped
    monkeypatch.setattr(machine, "monotonic", lambda: next(times))
    assert MachineWatch().stop()["power_w"] == power


def test_sensors_of_the_processor(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_freq", lambda: SimpleNamespace(current=2596.123))
    readings = {"k10temp": (51.0, 55.5), "nvme": (80.0,)}
    sensors = {name: [SimpleNamespace(current=one) for one in values] for name, values in readings.items()}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)
    assert (clock_mhz(), temperature_c()) == (2596.1, 55.5)
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    sensors.pop("k10temp")
    assert (clock_mhz(), temperature_c()) == (None, None)


def test_sensors_of_gpus(monkeypatch):
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTemperature=lambda gpu, sensor: 40 + gpu,
        nvmlDeviceGetPowerUsage=lambda gpu: 70_500 + 1000 * gpu,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpu_sensors() == {"gpu_temperature_c": [40.0, 41.0], "gpu_power_w": [70.5, 71.5]}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_sensors() == {"gpu_temperature_c": None, "gpu_power_w": None}


def test_the_peak_is_the_kernels_in_units_of_1000_bytes(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  500000 kB\nVmRSS:\t  400000 kB\n")
    assert own_peak_memory_mb(status) == 512.0
    status.write_text("Name:\tpython\n")
    assert own_peak_memory_mb(status) is None


@pytest.mark.parametrize(("busy", "warned"), [(0.26, True), (0.25, False), (0.0, False)])
def test_a_busy_machine_is_warned_of(busy, warned):
    one = BenchResult(engine="a:fp32", batch=1, size=(32, 32), microns_per_pixel=0.25, timing=Timing(((1,), (1,))))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(BenchReport((one,), {"busy_before": busy}).table())
    assert ("26% busy" in " ".join(console.export_text().split())) is warned
