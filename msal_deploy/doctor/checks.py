"""Compare each part of a machine with what a target needs."""

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from msal_deploy.doctor.machine import Machine
from msal_deploy.targets import Target
from msal_deploy.versions import parse_version

# "another": a GPU of another kind, or a build for another device.
Status = Literal["ok", "not needed", "missing", "too new", "too old", "too small", "another", "broken"]

MIN_MEMORY_GIB = 4.0  # estimate: the builder holds several copies of the weights
MIN_DISK_GIB = 8.0  # estimate: TensorRT, cuBLAS and cuDNN unpacked, plus the plans


class Check(msgspec.Struct, frozen=True):
    """One part of a machine, compared with what a target needs.

    >>> check = Check("Python", found="3.13.1", needed="3.11", status="too new")
    >>> check.is_met
    False

    Attributes:
        part: The part, such as ``GPU`` or ``TensorRT``.
        found: What the machine has. JSON key: ``here``.
        needed: What the target needs, such as ``R535 to R580``.
        status: The result. JSON key: ``word``.
        why: Reason and consequence, or further information; empty if there is none.
        required: Whether building and running plans for the target needs this part.
    """

    part: str
    found: str = msgspec.field(name="here")  # the JSON keys are older than the attribute names
    needed: str
    status: Status = msgspec.field(name="word")
    why: str = ""
    required: bool = True

    @property
    def is_met(self) -> bool:
        """False if building or running plans for the target fails because of this part."""
        return self.status == "ok" or not self.required

    @property
    def requirement(self) -> str:
        """The part and what is needed, such as ``driver (R535 to R580)``."""
        return f"{self.part} ({self.needed})"


def check_machine(machine: Machine, target: Target) -> tuple[Check, ...]:
    """Return one check for each part of `machine` that matters for `target`.

    >>> from msal_deploy.targets import find_target
    >>> machine = Machine(python="3.13.1", tensorrt="10.4.0")
    >>> checks = {check.part: check for check in check_machine(machine, find_target("gtx-1080-ti"))}
    >>> checks["TensorRT"].status, checks["TensorRT"].needed
    ('too new', '8.6.1')
    """
    checks = (_gpu, _driver, _cuda, _python, _tensorrt, _rtx, _torch, _onnxruntime, _openvino, _memory, _disk)
    return tuple(check(machine, target) for check in checks)


def _gpu(machine: Machine, target: Target) -> Check:
    found = ", ".join(f"{gpu.name} ({gpu.sm})" for gpu in machine.gpus) or "none"
    needed = f"capability {target.sm}"
    if any(gpu.sm == target.sm for gpu in machine.gpus):
        return Check("GPU", found, needed, "ok")
    if machine.gpus:
        return Check("GPU", found, needed, "another", "TensorRT must build a plan on a GPU of the kind that runs it")
    return Check("GPU", found, needed, "missing", machine.no_gpu)


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
    return Check("driver", machine.driver, needed, "ok", f"supports CUDA up to {machine.driver_cuda}")


def _cuda(machine: Machine, target: Target) -> Check:
    newest, needed = parse_version(target.cuda), f"{target.cuda} at most"
    found = ", ".join(f"{version} ({source})" for source, version in machine.cuda.items())
    if any(parse_version(version)[:2] <= newest for version in machine.cuda.values()):
        return Check("CUDA", found, needed, "ok")
    if machine.cuda:
        why = f"TensorRT {target.tensorrt} on {target.architecture} supports CUDA up to {target.cuda}"
        return Check("CUDA", found, needed, "too new", why)
    return Check("CUDA", "none", needed, "missing", "TensorRT's packages and containers include it")


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
    # If TensorRT-RTX supports the GPU and is installed, it can build the plans instead.
    required = not (target.tensorrt_rtx and machine.tensorrt_rtx)
    found = machine.tensorrt
    if found is None:
        fault = machine.faults.get("tensorrt")
        status: Status = "broken" if fault else "missing"
        return Check("TensorRT", "none", needed, status, fault or "", required)
    if parse_version(found) > parse_version(last):
        why = target.why_last or f"not known to support {target.gpu} yet"
        return Check("TensorRT", found, needed, "too new", why, required)
    if parse_version(found) < parse_version(first):
        why = f"{first} is the first version that supports compute capability {target.sm}"
        return Check("TensorRT", found, needed, "too old", why, required)
    return Check("TensorRT", found, needed, "ok", _triton(found, target), required)


def _triton(tensorrt: str, target: Target) -> str:
    container = target.container
    if parse_version(tensorrt) == parse_version(container.tensorrt):
        return ""
    return f"Triton {container.tag} has {container.tensorrt} and cannot load plans of {tensorrt}"


def _rtx(machine: Machine, target: Target) -> Check:
    found, part = machine.tensorrt_rtx or "none", "TensorRT-RTX"
    fault = machine.faults.get("tensorrt-rtx", "")
    if not target.tensorrt_rtx:
        why = f"does not support compute capability {target.sm}"
        return Check(part, found, "–", "not needed", why, required=False)
    if machine.tensorrt_rtx:
        return Check(part, found, "any", "ok", "builds FP32 and FP16 plans for this GPU", required=False)
    why = fault or "builds FP16 plans for this GPU, even on a machine without one: pip install tensorrt-rtx"
    return Check(part, found, "any", "broken" if fault else "missing", why, required=False)


def _torch(machine: Machine, target: Target) -> Check:
    needed, version = f"{target.torch} at most", machine.packages.get("torch")
    if version is None:
        why = "needed for training and for torch:fp32 on the GPU"
        return Check("torch", "none", needed, "missing", why, required=False)
    built_with = f"CUDA {machine.torch_cuda}" if machine.torch_cuda else "no CUDA"
    if "torch" in machine.faults:
        return Check("torch", version, needed, "broken", machine.faults["torch"], required=False)
    if has_code_for(target.sm, machine.torch_architectures):
        return Check("torch", f"{version}, {built_with}", needed, "ok", required=False)
    if not machine.torch_cuda:
        why = "this build computes on the CPU only"
        return Check("torch", f"{version}, {built_with}", needed, "another", why, required=False)
    why = f"has code for {', '.join(machine.torch_architectures)}, not for {target.sm}; {_wheel(target)}"
    return Check("torch", f"{version}, {built_with}", needed, "too new", why, required=False)


def _wheel(target: Target) -> str:
    version, _, cuda = target.torch.partition("+")
    return f"install {version}" + (f" from PyTorch's package index for {cuda}" if cuda else "")


def has_code_for(sm: str, architectures: Iterable[str]) -> bool:
    """Return whether code for `architectures` (``sm_75``, ``compute_90``) runs on compute capability `sm`.

    Machine code (``sm_``) runs on GPUs of the same major version with the same or a later minor version. PTX
    (``compute_``) runs on all later GPUs.

    >>> has_code_for("8.9", ["sm_75", "sm_86"])
    True
    >>> has_code_for("6.1", ["sm_75", "compute_75"])
    False
    """
    major, minor = map(int, sm.split("."))
    for name in architectures:
        if match := re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name):
            built_for = int(match[2]), int(match[3])
            if built_for <= (major, minor) and (match[1] == "compute" or built_for[0] == major):
                return True
    return False


def _onnxruntime(machine: Machine, target: Target) -> Check:
    packages = {name: machine.packages[name] for name in ("onnxruntime-gpu", "onnxruntime") if name in machine.packages}
    found = ", ".join(
        f"{name.removeprefix('onnxruntime')[1:] or 'CPU'} {version}" for name, version in packages.items()
    )
    fault = machine.faults.get("onnxruntime", "")
    if not packages or fault:
        return Check("ONNX Runtime", found or "none", "any", "broken" if fault else "missing", fault)
    providers = [
        name.removesuffix("ExecutionProvider") for name in machine.providers if name != "AzureExecutionProvider"
    ]
    why = f"providers: {', '.join(providers)}; newest onnxruntime-gpu for this GPU: {target.onnxruntime}"
    return Check("ONNX Runtime", found, "any", "ok", why)


def _openvino(machine: Machine, target: Target) -> Check:
    version, fault = machine.packages.get("openvino"), machine.faults.get("openvino", "")
    if version is None or fault:
        return Check("OpenVINO", version or "none", "any", "broken" if fault else "missing", fault, required=False)
    precisions = [name for name in machine.openvino_capabilities if name in ("FP32", "FP16", "BF16", "INT8")]
    return Check("OpenVINO", version, "any", "ok", f"CPU: {', '.join(precisions)}", required=False)


def _memory(machine: Machine, target: Target) -> Check:
    found, needed = f"{machine.memory_gib:g} GiB", f"{MIN_MEMORY_GIB:g} GiB"
    if machine.memory_gib >= MIN_MEMORY_GIB:
        return Check("memory", found, needed, "ok")
    return Check("memory", found, needed, "too small", "the system kills the builder if memory runs out")


def _disk(machine: Machine, target: Target) -> Check:
    found, needed = f"{machine.free_disk_gib:g} GiB free", f"{MIN_DISK_GIB:g} GiB"
    if machine.free_disk_gib >= MIN_DISK_GIB:
        return Check("disk", found, needed, "ok")
    return Check("disk", found, needed, "too small", "TensorRT and its libraries do not fit")
