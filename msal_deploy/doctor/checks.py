"""Each part of a machine against what a target needs."""

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from msal_deploy.doctor.machine import Machine
from msal_deploy.targets import Target
from msal_deploy.versions import parse_version

Status = Literal["ok", "not needed", "missing", "too new", "too old", "too small", "another", "broken"]

MIN_MEMORY_GIB = 4.0  # estimate: the builder holds the weights several times over
MIN_DISK_GIB = 8.0  # estimate: TensorRT, cuBLAS and cuDNN unpacked, and the plans


class Check(msgspec.Struct, frozen=True):
    """One part of the machine.

    Attributes:
        needed: what the target needs, in words.
        why: what is wrong and what follows, or what is worth knowing; empty where there is nothing to say.
        required: whether no plan can be built and run for the target without it.
    """

    part: str
    found: str = msgspec.field(name="here")  # the JSON keys have always been "here" and "word"
    needed: str
    status: Status = msgspec.field(name="word")
    why: str = ""
    required: bool = True

    @property
    def lacks(self) -> bool:
        """Whether the target cannot be served here because of this."""
        return self.required and self.status != "ok"

    @property
    def want(self) -> str:
        """What is needed, as a part of a sentence."""
        return {"GPU": f"a GPU of compute {self.needed}", "driver": f"a driver {self.needed}"}.get(
            self.part, f"{self.part} {self.needed}"
        )


def check_machine(machine: Machine, target: Target) -> tuple[Check, ...]:
    """Judge `machine` for `target`, a check for each part."""
    judged = (_gpu, _driver, _cuda, _python, _tensorrt, _rtx, _torch, _onnxruntime, _openvino, _memory, _disk)
    return tuple(judge(machine, target) for judge in judged)


def _gpu(machine: Machine, target: Target) -> Check:
    here = ", ".join(f"{gpu.name} ({gpu.sm})" for gpu in machine.gpus) or "none"
    needed = f"capability {target.sm}"
    if any(gpu.sm == target.sm for gpu in machine.gpus):
        return Check("GPU", here, needed, "ok")
    if machine.gpus:
        return Check("GPU", here, needed, "another", "a TensorRT plan is built on a GPU of the kind that runs it")
    return Check("GPU", here, needed, "missing", machine.no_gpu)


def _driver(machine: Machine, target: Target) -> Check:
    first, last = target.driver.first, target.driver.last
    needed = f"R{first} to R{last}" if last else f"R{first} or later"
    if machine.driver is None:
        return Check("driver", "none", needed, "missing")
    branch = parse_version(machine.driver)[0]
    if last and branch > last:
        return Check(
            "driver", machine.driver, needed, "too new", f"R{last} is the last branch for {target.architecture}"
        )
    if branch < first:
        return Check("driver", machine.driver, needed, "too old", f"CUDA {target.container.cuda} needs R{first}")
    return Check("driver", machine.driver, needed, "ok", f"serves CUDA up to {machine.driver_cuda}")


def _cuda(machine: Machine, target: Target) -> Check:
    newest, needed = parse_version(target.cuda), f"{target.cuda} at most"
    found = ", ".join(f"{version} ({where})" for where, version in machine.cuda.items())
    if any(parse_version(version)[:2] <= newest for version in machine.cuda.values()):
        return Check("CUDA", found, needed, "ok")
    if machine.cuda:
        why = f"TensorRT {target.tensorrt} and {target.architecture} end with CUDA {target.cuda}"
        return Check("CUDA", found, needed, "too new", why)
    return Check("CUDA", "none", needed, "missing", "TensorRT's packages and containers bring it")


def _python(machine: Machine, target: Target) -> Check:
    first, last = target.python
    needed = first if first == last else f"{first} to {last}"
    status: Status = "ok"
    if parse_version(machine.python)[:2] > parse_version(last):
        status = "too new"
    elif parse_version(machine.python)[:2] < parse_version(first):
        status = "too old"
    why = "" if status == "ok" else f"TensorRT {target.tensorrt} has bindings for Python up to {last}"
    return Check("Python", machine.python, needed, status, why)


def _tensorrt(machine: Machine, target: Target) -> Check:
    first, last = target.tensorrt_first, target.tensorrt
    needed = last if first == last else f"{first} to {last}"
    # Where TensorRT-RTX serves the GPU and is here, plans can be built with that.
    required = not (target.tensorrt_rtx and machine.tensorrt_rtx)
    here = machine.tensorrt
    if here is None:
        broken = machine.faults.get("tensorrt")
        status: Status = "broken" if broken else "missing"
        return Check("TensorRT", "none", needed, status, broken or "", required)
    if parse_version(here) > parse_version(last):
        return Check("TensorRT", here, needed, "too new", target.why_last or "newer than what is known here", required)
    if parse_version(here) < parse_version(first):
        return Check("TensorRT", here, needed, "too old", f"{first} is the first that serves {target.sm}", required)
    return Check("TensorRT", here, needed, "ok", _triton(here, target), required)


def _triton(tensorrt: str, target: Target) -> str:
    container = target.container
    if parse_version(tensorrt) == parse_version(container.tensorrt):
        return ""
    return f"Triton {container.tag} has {container.tensorrt}: plans of {tensorrt} do not load there"


def _rtx(machine: Machine, target: Target) -> Check:
    here, part = machine.tensorrt_rtx or "none", "TensorRT-RTX"
    broken = machine.faults.get("tensorrt-rtx", "")
    if not target.tensorrt_rtx:
        return Check(part, here, "–", "not needed", f"does not serve capability {target.sm}", required=False)
    if machine.tensorrt_rtx:
        return Check(part, here, "any", "ok", "builds FP32 and FP16 plans for this GPU", required=False)
    why = broken or "pip install tensorrt-rtx builds FP16 plans for this GPU, without one too"
    return Check(part, here, "any", "broken" if broken else "missing", why, required=False)


def _torch(machine: Machine, target: Target) -> Check:
    needed, version = f"{target.torch} at most", machine.packages.get("torch")
    if version is None:
        return Check("torch", "none", needed, "missing", "for torch:fp32 on the GPU, and for training", required=False)
    built_with = f"CUDA {machine.torch_cuda}" if machine.torch_cuda else "no CUDA"
    if "torch" in machine.faults:
        return Check("torch", version, needed, "broken", machine.faults["torch"], required=False)
    if has_code_for(target.sm, machine.torch_architectures):
        return Check("torch", f"{version}, {built_with}", needed, "ok", required=False)
    if not machine.torch_cuda:
        why = "computes on the CPU only"
        return Check("torch", f"{version}, {built_with}", needed, "another", why, required=False)
    why = f"has code for {', '.join(machine.torch_architectures)} and not for {target.sm}; {_wheel(target)}"
    return Check("torch", f"{version}, {built_with}", needed, "too new", why, required=False)


def _wheel(target: Target) -> str:
    version, _, cuda = target.torch.partition("+")
    return f"take {version}" + (f" from PyTorch's index for {cuda}" if cuda else "")


def has_code_for(sm: str, architectures: Iterable[str]) -> bool:
    """Return whether code for `architectures` (``sm_75``, ``compute_90``) runs on compute capability `sm`.

    Machine code runs on the same major version from its own minor version on, PTX on everything later.
    """
    major, minor = map(int, sm.split("."))
    for name in architectures:
        if found := re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name):
            own = int(found[2]), int(found[3])
            if own <= (major, minor) and (found[1] == "compute" or own[0] == major):
                return True
    return False


def _onnxruntime(machine: Machine, target: Target) -> Check:
    found = {name: machine.packages[name] for name in ("onnxruntime-gpu", "onnxruntime") if name in machine.packages}
    here = ", ".join(f"{name.removeprefix('onnxruntime')[1:] or 'CPU'} {version}" for name, version in found.items())
    broken = machine.faults.get("onnxruntime", "")
    if not found or broken:
        return Check("ONNX Runtime", here or "none", "any", "broken" if broken else "missing", broken)
    providers = [
        name.removesuffix("ExecutionProvider") for name in machine.providers if name != "AzureExecutionProvider"
    ]
    why = f"computes with {', '.join(providers)}; onnxruntime-gpu for this GPU: {target.onnxruntime} at most"
    return Check("ONNX Runtime", here, "any", "ok", why)


def _openvino(machine: Machine, target: Target) -> Check:
    version, broken = machine.packages.get("openvino"), machine.faults.get("openvino", "")
    if version is None or broken:
        return Check("OpenVINO", version or "none", "any", "broken" if broken else "missing", broken, required=False)
    precisions = [name for name in machine.openvino_capabilities if name in ("FP32", "FP16", "BF16", "INT8")]
    return Check("OpenVINO", version, "any", "ok", f"CPU: {', '.join(precisions)}", required=False)


def _memory(machine: Machine, target: Target) -> Check:
    here, needed = f"{machine.memory_gib:g} GiB", f"{MIN_MEMORY_GIB:g} GiB"
    if machine.memory_gib >= MIN_MEMORY_GIB:
        return Check("memory", here, needed, "ok")
    return Check("memory", here, needed, "too small", "the builder is killed where memory runs out")


def _disk(machine: Machine, target: Target) -> Check:
    here, needed = f"{machine.free_disk_gib:g} GiB free", f"{MIN_DISK_GIB:g} GiB"
    if machine.free_disk_gib >= MIN_DISK_GIB:
        return Check("disk", here, needed, "ok")
    return Check("disk", here, needed, "too small", "TensorRT and its libraries do not fit")
