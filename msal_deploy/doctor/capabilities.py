"""What a machine can do without a GPU."""

import msgspec

from msal_deploy.doctor.machine import Machine
from msal_deploy.runtimes import CATALOGUE, Runtime
from msal_deploy.targets import targets

INT8_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp")  # dot products of INT8, the fastest first


class Capability(msgspec.Struct, frozen=True):
    """Something that a machine can do or not, and with what."""

    what: str
    able: bool
    how: str


def capabilities(machine: Machine) -> tuple[Capability, ...]:
    """Return what `machine` can do: engines on the CPU, plans for RTX cards, plans for this GPU."""
    return (*_engines(machine), _int8(machine), _rtx(machine), _tensorrt(machine), _resources(machine))


def _engines(machine: Machine) -> tuple[Capability, ...]:
    return tuple(_engine(machine, runtime) for runtime in CATALOGUE.values() if runtime.device == "cpu")


def _engine(machine: Machine, runtime: Runtime) -> Capability:
    name, versions = runtime.name, [machine.packages[key] for key in runtime.packages if key in machine.packages]
    if name in machine.faults:
        return Capability(f"run {name} on the CPU", False, f"it is installed and fails: {machine.faults[name]}")
    how = versions[0] if versions else f"pip install '{runtime.requirement}'"
    return Capability(f"run {name} on the CPU", bool(versions), how)


def _int8(machine: Machine) -> Capability:
    found = next((name for name in INT8_INSTRUCTIONS if name in machine.instructions), "")
    how = f"{machine.processor}: {found}" if found else f"{machine.processor}: no INT8 dot product; FP32 is as good"
    return Capability("compute INT8 fast", bool(found), how)


def _rtx(machine: Machine) -> Capability:
    what, fault = "build TensorRT-RTX plans", machine.faults.get("tensorrt-rtx")
    if not machine.tensorrt_rtx:
        return Capability(
            what, False, f"it fails: {fault}" if fault else "pip install 'msal-deploy[rtx]'; it needs no GPU"
        )
    served = ", ".join(target.name for target in targets() if target.tensorrt_rtx)
    return Capability(what, True, f"{machine.tensorrt_rtx}, without a GPU, for {served}")


def _tensorrt(machine: Machine) -> Capability:
    return Capability("build and run TensorRT plans", False, "a plan is built on a GPU of the kind that runs it")


def _resources(machine: Machine) -> Capability:
    cores = f"{machine.cores} cores, {machine.memory_gib:g} GiB memory, {machine.free_disk_gib:g} GiB of disk free"
    return Capability(f"run Python {machine.python}", True, cores)
