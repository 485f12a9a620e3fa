"""What is here. Nothing is changed, and whatever cannot be asked is told instead of raised."""

import importlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from msal_deploy.errors import MissingExtra, MissingRequirement
from msal_deploy.hardware import Gpu, ask_driver, describe_processor
from msal_deploy.runtimes import runtime_packages
from msal_deploy.trt.bindings import load_backend

T = TypeVar("T")

PACKAGES = ("onnx", "numpy", "cuda-python", "pycuda", "polygraphy")
CUDA_RUNTIMES = ("nvidia-cuda-runtime-cu11", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime")


class Torch(msgspec.Struct, frozen=True):
    """What torch was built with."""

    cuda: str | None = None
    architectures: tuple[str, ...] = ()


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine has.

    Attributes:
        driver: NVIDIA's, such as ``535.183.01``; None where there is none.
        driver_cuda: the newest CUDA that the driver serves.
        no_gpu: why no GPU is told.
        packages: name -> version of those that are installed.
        faults: name -> why what is installed cannot be used.
        cuda: the versions of CUDA's runtime and compiler that are installed, by where they are.
        torch_cuda, torch_architectures: what torch was built with; the latter such as ``sm_75``.
        instructions: of the processor, those that inference gains from.
        free_disk_gib: where this runs.
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


def describe() -> Machine:
    """Return what this machine has; torch, ONNX Runtime, OpenVINO and TensorRT are imported where they are here."""
    faults: dict[str, str] = {}
    torch = _ask("torch", _torch, faults, Torch())
    processor, instructions = describe_processor()
    return Machine(
        **ask_driver(),
        python=platform.python_version(),
        packages=dict(_installed((*runtime_packages("cpu"), *PACKAGES))),
        faults=faults,
        cuda={**dict(_installed(CUDA_RUNTIMES)), **_compiler()},
        tensorrt=_backend("tensorrt", faults),
        tensorrt_rtx=_backend("tensorrt-rtx", faults),
        providers=_ask("onnxruntime", _providers, faults, ()),
        torch_cuda=torch.cuda,
        torch_architectures=torch.architectures,
        openvino_capabilities=_ask("openvino", _openvino, faults, ()),
        processor=processor,
        instructions=instructions,
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        free_disk_gib=round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
    )


def _ask(module: str, question: Callable[[Any], T], faults: dict[str, str], otherwise: T) -> T:
    """Ask a module that may be missing or broken; what it fails with is kept in `faults`."""
    if find_spec(module) is None:
        return otherwise
    try:
        return question(importlib.import_module(module))
    except Exception as error:  # a broken installation raises what it likes, and is what a doctor is asked about
        faults[module] = _one_line(error)
        return otherwise


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _installed(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    for package in packages:
        with suppress(PackageNotFoundError):
            yield package, version(package)


def _backend(name: str, faults: dict[str, str]) -> str | None:
    """Return the version of a TensorRT whose libraries load."""
    try:
        return load_backend(name).version
    except MissingExtra:
        return None
    except MissingRequirement as error:
        faults[name] = _one_line(error)
        return None


def _torch(torch: Any) -> Torch:
    # torch.cuda.get_arch_list() is empty without a driver; what it reads is there all the same.
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: "")
    return Torch(torch.version.cuda, tuple((flags() or "").split()))


def _providers(onnxruntime: Any) -> tuple[str, ...]:
    return tuple(onnxruntime.get_available_providers())


def _openvino(openvino: Any) -> tuple[str, ...]:
    return tuple(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _compiler() -> dict[str, str]:
    """Return the version of the CUDA compiler on the path."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return {}
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        if found := re.search(r"release (\d+\.\d+)", told):
            return {"nvcc": found[1]}
    return {}
