"""The processor and the GPUs that are here. Nothing is loaded to ask for them but NVIDIA's library of the driver."""

import importlib
import platform
from pathlib import Path
from typing import Any

import msgspec

# What inference on a CPU gains from, as /proc/cpuinfo spells it.
INSTRUCTIONS = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8", "asimddp"}


def describe_processor() -> tuple[str, tuple[str, ...]]:
    """Return the processor's name and which of `INSTRUCTIONS` it has; none where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("Features", "")).split()  # of x86, and of ARM
    return fields.get("model name", platform.machine()), tuple(sorted(INSTRUCTIONS.intersection(flags)))


class Gpu(msgspec.Struct, frozen=True):
    """A GPU as the driver tells it; `sm` is its compute capability, such as ``6.1``."""

    name: str
    sm: str
    memory_gib: float


def ask_driver() -> dict[str, Any]:
    """Return driver and GPUs as NVML tells them, or why it does not."""
    try:
        nvml = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return {"no_gpu": "GPUs are found through nvidia-ml-py, which is not installed: pip install nvidia-ml-py"}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return {"no_gpu": f"no NVIDIA driver answers (NVML: {error})"}
    try:
        return _nvml_answers(nvml)
    except nvml.NVMLError as error:
        return {"no_gpu": f"the NVIDIA driver does not tell its GPUs (NVML: {error})"}
    finally:
        nvml.nvmlShutdown()


def _nvml_answers(nvml: Any) -> dict[str, Any]:
    cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()  # 12040 for 12.4
    gpus = tuple(_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(nvml.nvmlDeviceGetCount()))
    return {
        "gpus": gpus,
        "driver": _text(nvml.nvmlSystemGetDriverVersion()),
        "driver_cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
        "no_gpu": "" if gpus else "the NVIDIA driver has no GPU",
    }


def _gpu(nvml: Any, handle: Any) -> Gpu:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = round(nvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30, 1)
    return Gpu(_text(nvml.nvmlDeviceGetName(handle)), f"{major}.{minor}", memory)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # bytes before nvidia-ml-py 11.515
