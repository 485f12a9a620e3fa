"""What a machine can do without a GPU."""

from math import inf

import msgspec

from msal_deploy.doctor.machine import Machine
from msal_deploy.runtimes import CATALOGUE, Runtime
from msal_deploy.targets import targets

INT8_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp")  # INT8 dot products, the fastest first


class Capability(msgspec.Struct, frozen=True):
    """Something that a machine can or cannot do.

    Attributes:
        what: The task, such as ``run openvino on the CPU``.
        able: Whether the machine can do it.
        how: With what it does it, or what is missing.
    """

    what: str
    able: bool
    how: str


def capabilities(machine: Machine) -> tuple[Capability, ...]:
    """Return what `machine` can do: run engines on the CPU, build plans for RTX GPUs, run Python.

    >>> openvino = capabilities(Machine(packages={"openvino": "2026.4.1"}))[0]
    >>> openvino.what, openvino.able, openvino.how
    ('run openvino on the CPU', True, '2026.4.1')
    """
    return (*_engines(machine), _int8(machine), _rtx(machine), _tensorrt(machine), _resources(machine))


def _engines(machine: Machine) -> tuple[Capability, ...]:
    fastest_first = sorted(CATALOGUE.values(), key=lambda runtime: min(runtime.milliseconds.values(), default=inf))
    return tuple(_engine(machine, runtime) for runtime in fastest_first if runtime.device == "cpu")


def _engine(machine: Machine, runtime: Runtime) -> Capability:
    name, versions = runtime.name, [machine.packages[key] for key in runtime.packages if key in machine.packages]
    if name in machine.faults:
        return Capability(f"run {name} on the CPU", False, f"installed, but fails: {machine.faults[name]}")
    how = versions[0] if versions else f"pip install '{runtime.requirement}'"
    return Capability(f"run {name} on the CPU", bool(versions), how)


def _int8(machine: Machine) -> Capability:
    instruction = next((name for name in INT8_INSTRUCTIONS if name in machine.instructions), "")
    how = instruction or "no INT8 dot product, so INT8 is not faster than FP32"
    return Capability("compute INT8 fast", bool(instruction), f"{machine.processor}: {how}")


def _rtx(machine: Machine) -> Capability:
    what, fault = "build TensorRT-RTX plans", machine.faults.get("tensorrt-rtx")
    if not machine.tensorrt_rtx:
        how = f"installed, but fails: {fault}" if fault else "pip install 'msal-deploy[rtx]' (needs no GPU)"
        return Capability(what, False, how)
    supported = ", ".join(target.name for target in targets() if target.tensorrt_rtx)
    return Capability(what, True, f"{machine.tensorrt_rtx}, without a GPU, for {supported}")


def _tensorrt(machine: Machine) -> Capability:
    return Capability("build and run TensorRT plans", False, "TensorRT needs a GPU of the kind that runs the plan")


def _resources(machine: Machine) -> Capability:
    cores = f"{machine.cores} cores, {machine.memory_gib:g} GiB memory, {machine.free_disk_gib:g} GiB free disk space"
    return Capability(f"run Python {machine.python}", True, cores)
