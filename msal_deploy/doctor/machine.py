"""Inspect this machine, read-only. A failed probe is recorded in `Machine.faults`, never raised."""

import importlib
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from msal_deploy.errors import MissingExtra, MissingRequirement
from msal_deploy.hardware import (
    Gpu,
    available_cores,
    describe_processor,
    free_disk_gib,
    installed_versions,
    memory_gib,
    query_driver,
)
from msal_deploy.runtimes import runtime_packages
from msal_deploy.trt.bindings import load_backend

T = TypeVar("T")

PACKAGES = ("onnx", "numpy", "cuda-python", "pycuda", "polygraphy")
CUDA_RUNTIMES = ("nvidia-cuda-runtime-cu11", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime")


class Torch(msgspec.Struct, frozen=True):
    """How torch was built: its CUDA version, and the GPU architectures that it has code for."""

    cuda: str | None = None
    architectures: tuple[str, ...] = ()


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine has.

    Attributes:
        gpus: NVIDIA GPUs.
        driver: Version of NVIDIA's driver, such as ``535.183.01``; None without one.
        driver_cuda: Newest CUDA version that the driver supports.
        no_gpu: Why no GPU was found; empty if there is one.
        python: Version of Python.
        packages: Versions of the installed packages, by name.
        faults: Why an installed package cannot be used, by name.
        cuda: Versions of the installed CUDA runtimes and compilers, by package or program.
        tensorrt: Version of TensorRT; None if it is missing or fails to load.
        tensorrt_rtx: Version of TensorRT-RTX; None if it is missing or fails to load.
        providers: Execution providers of ONNX Runtime.
        torch_cuda: CUDA version that torch was built with; None for a CPU build.
        torch_architectures: GPU architectures that torch has code for, such as ``sm_75``.
        openvino_capabilities: Precisions and features that OpenVINO reports for the CPU.
        processor: Name of the processor.
        instructions: Those of its instructions that speed up inference.
        cores: Logical cores that this process may use.
        memory_gib: Memory in GiB.
        free_disk_gib: Free space on the disk of the working directory in GiB.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    driver_cuda: str | None = None
    no_gpu: str = ""
    python: str = ""
    packages: dict[str, str] = {}
    faults: dict[str, str] = {}
    cuda: dict[str, str] = {}
    tensorrt: str | None = None
    tensorrt_rtx: str | None = None
    providers: tuple[str, ...] = ()
    torch_cuda: str | None = None
    torch_architectures: tuple[str, ...] = ()
    openvino_capabilities: tuple[str, ...] = ()
    processor: str = ""
    instructions: tuple[str, ...] = ()
    cores: int = 0
    memory_gib: float = 0.0
    free_disk_gib: float = 0.0


def inspect_machine() -> Machine:
    """Return what this machine has. Imports torch, ONNX Runtime, OpenVINO and TensorRT if they are installed.

    >>> machine = inspect_machine()
    >>> "openvino" in machine.packages
    True
    """
    faults: dict[str, str] = {}
    torch = _probe("torch", _torch, faults, Torch())
    processor, instructions = describe_processor()
    nvidia = query_driver()
    return Machine(
        gpus=nvidia.gpus,
        driver=nvidia.version,
        driver_cuda=nvidia.cuda,
        no_gpu=nvidia.problem,
        python=platform.python_version(),
        packages=installed_versions((*runtime_packages("cpu"), *PACKAGES)),
        faults=faults,
        cuda=installed_versions(CUDA_RUNTIMES) | _compiler(),
        tensorrt=_backend("tensorrt", faults),
        tensorrt_rtx=_backend("tensorrt-rtx", faults),
        providers=_probe("onnxruntime", _providers, faults, ()),
        torch_cuda=torch.cuda,
        torch_architectures=torch.architectures,
        openvino_capabilities=_probe("openvino", _openvino, faults, ()),
        processor=processor,
        instructions=instructions,
        cores=available_cores(),
        memory_gib=memory_gib(),
        free_disk_gib=free_disk_gib(Path.cwd()),
    )


def _probe(module: str, question: Callable[[Any], T], faults: dict[str, str], default: T) -> T:
    """Return what `question` finds in a module, or `default` if it is missing or fails; a failure goes to `faults`."""
    if find_spec(module) is None:
        return default
    try:
        return question(importlib.import_module(module))
    except Exception as error:  # a broken installation can raise anything, and reporting it is this command's purpose
        faults[module] = _one_line(error)
        return default


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _backend(name: str, faults: dict[str, str]) -> str | None:
    """Return the version of a TensorRT backend whose libraries load."""
    try:
        return load_backend(name).version
    except MissingExtra:
        return None
    except MissingRequirement as error:
        faults[name] = _one_line(error)
        return None


def _torch(torch: Any) -> Torch:
    # torch.cuda.get_arch_list() is empty without a driver; this flag string, which it reads, is always filled.
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: "")
    return Torch(torch.version.cuda, tuple((flags() or "").split()))


def _providers(onnxruntime: Any) -> tuple[str, ...]:
    return tuple(onnxruntime.get_available_providers())


def _openvino(openvino: Any) -> tuple[str, ...]:
    return tuple(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _compiler() -> dict[str, str]:
    """Return the version of the CUDA compiler on the search path."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return {}
    with suppress(OSError, subprocess.SubprocessError):
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        if release := re.search(r"release (\d+\.\d+)", text):
            return {"nvcc": release[1]}
    return {}
