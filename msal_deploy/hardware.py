"""This machine: processor, cores, memory, disk, GPUs, packages. Probes are read-only and import no runtime.

GPUs are listed by NVML, the management library of NVIDIA's driver.
"""

import importlib
import math
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import psutil

# The instructions that speed up inference on a CPU, under their names in /proc/cpuinfo.
INSTRUCTIONS = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8", "asimddp"}
GIB = 2**30
NO_LIMIT = 2**60  # bytes; version 1 of control groups has a number near 2⁶³ instead of none


def describe_processor() -> tuple[str, tuple[str, ...]]:
    """Return the processor's name and which of `INSTRUCTIONS` it has.

    The name is the architecture, and the tuple is empty, on systems without /proc/cpuinfo. psutil reports neither.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("Features", "")).split()  # "flags" on x86, "Features" on ARM
    return fields.get("model name", platform.machine()), tuple(sorted(INSTRUCTIONS.intersection(flags)))


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of logical cores that this process may keep busy, at least 1.

    It counts the cores that the process may run on (its CPU affinity, as `os.process_cpu_count` does) and the CPU quota
    of its container, rounded up.

    >>> available_cores() >= 1
    True

    Args:
        root: Folder with the ``proc`` and ``sys`` of the machine.
    """
    return max(1, math.ceil(min(runnable_cores(), *_cpu_quotas(root))))


def runnable_cores() -> int:
    """Return the number of logical cores that this process may run on: its CPU affinity.

    >>> runnable_cores() >= available_cores()
    True
    """
    return len(psutil.Process().cpu_affinity() or ())


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of this process's control groups in cores, such as 1.5; None without one.

    Args:
        root: Folder with the ``proc`` and ``sys`` of the machine.
    """
    quota = min(_cpu_quotas(root))
    return None if quota == math.inf else quota


def limited_cores(root: Path = Path("/")) -> int | None:
    """Return `available_cores` if it is fewer than the machine has, else None: a runtime may then choose by itself."""
    cores = available_cores(root)
    return cores if cores < (os.cpu_count() or cores) else None


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the cores that each control group of this process may use: infinity, and every quota that is set.

    A quota of a parent group counts as well. In a container without a cgroup namespace, the groups of the process have
    the names that the host knows, and only the root of what is mounted is theirs.
    """
    yield math.inf
    for group in _control_groups(root, "cpu"):
        yield from _quota(group)


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups of this process that have a controller, each before its parent."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        folder = root / "sys/fs/cgroup" / controllers  # version 2 names no controllers
        if controllers and controller not in controllers.split(","):
            continue
        for parent in (Path(group), *Path(group).parents):
            yield folder / str(parent).lstrip("/")


def _quota(group: Path) -> Iterator[float]:
    """Yield the quota of one group in cores, if it has one: version 2's file, or the two of version 1."""
    words = " ".join(_lines(group / "cpu.max")).split()
    words = words or [*_lines(group / "cpu.cfs_quota_us"), *_lines(group / "cpu.cfs_period_us")]
    if len(words) == 2 and all(word.isdecimal() for word in words):  # no quota is "max", or -1 in version 1
        quota, period = map(int, words)
        if quota and period:
            yield quota / period


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of the kernel; none without it."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def memory_gib() -> float:
    """Return the installed memory in GiB, rounded to 0.1."""
    return round(psutil.virtual_memory().total / GIB, 1)


def memory_limit_gib(root: Path = Path("/")) -> float | None:
    """Return the memory that the control groups of this process allow, in GiB rounded to 0.1; None without a limit.

    Args:
        root: Folder with the ``proc`` and ``sys`` of the machine.
    """
    names = ("memory.max", "memory.limit_in_bytes")  # of version 2 and 1
    groups = _control_groups(root, "memory")
    limits = [int(line) for group in groups for name in names for line in _lines(group / name) if line.isdecimal()]
    limit = min(limits, default=NO_LIMIT)
    return None if limit >= NO_LIMIT else round(limit / GIB, 1)


def free_disk_gib(folder: Path) -> float:
    """Return the free space on the disk of `folder` in GiB, rounded to 0.1."""
    return round(psutil.disk_usage(str(folder)).free / GIB, 1)


def load_average() -> tuple[float, float, float]:
    """Return the mean number of runnable processes over the last 1, 5 and 15 minutes."""
    one, five, fifteen = psutil.getloadavg()
    return one, five, fifteen


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those `packages` that are installed, by name.

    >>> sorted(installed_versions(["numpy", "not-a-package"]))
    ['numpy']
    """
    return dict(_installed(packages))


def _installed(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    for package in packages:
        with suppress(PackageNotFoundError):
            yield package, version(package)


class Gpu(msgspec.Struct, frozen=True):
    """A GPU, as the driver reports it.

    Attributes:
        name: Product name, such as ``NVIDIA L4``.
        sm: Compute capability, such as ``8.9``.
        memory_gib: Device memory in GiB.
    """

    name: str
    sm: str
    memory_gib: float


class NvidiaDriver(msgspec.Struct, frozen=True):
    """NVIDIA's driver and its GPUs.

    Attributes:
        gpus: The GPUs, in the driver's order.
        version: Driver version, such as ``535.183.01``; None without a driver.
        cuda: Newest CUDA version that the driver supports, such as ``12.2``; None without a driver.
        problem: Why no GPU was found; empty if there is one.
    """

    gpus: tuple[Gpu, ...] = ()
    version: str | None = None
    cuda: str | None = None
    problem: str = ""


def query_driver() -> NvidiaDriver:
    """Ask NVML for the driver and its GPUs. A failure is returned as `NvidiaDriver.problem`, never raised.

    ::

        for gpu in query_driver().gpus:
            print(gpu.name, gpu.sm)
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return NvidiaDriver(problem="nvidia-ml-py, which finds GPUs, is not installed: pip install nvidia-ml-py")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return NvidiaDriver(problem=f"no NVIDIA driver found (NVML: {error})")
    try:
        return _query(nvml)
    except nvml.NVMLError as error:
        return NvidiaDriver(problem=f"the NVIDIA driver cannot list its GPUs (NVML: {error})")
    finally:
        nvml.nvmlShutdown()


def _query(nvml: Any) -> NvidiaDriver:
    cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()  # 12040 for 12.4
    gpus = tuple(_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(nvml.nvmlDeviceGetCount()))
    return NvidiaDriver(
        gpus=gpus,
        version=_text(nvml.nvmlSystemGetDriverVersion()),
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
        problem="" if gpus else "the NVIDIA driver lists no GPU",
    )


def _gpu(nvml: Any, handle: Any) -> Gpu:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = round(nvml.nvmlDeviceGetMemoryInfo(handle).total / GIB, 1)
    return Gpu(_text(nvml.nvmlDeviceGetName(handle)), f"{major}.{minor}", memory)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # nvidia-ml-py before 11.515 returns bytes
