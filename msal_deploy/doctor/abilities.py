"""What a machine can do without a GPU."""

import msgspec

from msal_deploy.doctor.machine import Machine
from msal_deploy.targets import targets

INT8_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp")  # dot products of INT8, the fastest first


class Ability(msgspec.Struct, frozen=True):
    """Something that a machine can do or not, and with what."""

    what: str
    able: bool
    how: str


def abilities(machine: Machine) -> tuple[Ability, ...]:
    """Return what `machine` can do: engines on the CPU, plans for RTX cards, plans for this GPU."""
    return (*_engines(machine), _int8(machine), _rtx(machine), _tensorrt(machine), _resources(machine))


def _engines(machine: Machine) -> tuple[Ability, ...]:
    return tuple(_engine(machine, name) for name in ("openvino", "onnxruntime", "torch"))


def _engine(machine: Machine, name: str) -> Ability:
    versions = [machine.packages[key] for key in (name, f"{name}-gpu") if key in machine.packages]
    if name in machine.faults:
        return Ability(f"run {name} on the CPU", False, f"it is installed and fails: {machine.faults[name]}")
    extra = "msal-deploy[train]" if name == "torch" else "msal-deploy"
    return Ability(f"run {name} on the CPU", bool(versions), versions[0] if versions else f"pip install '{extra}'")


def _int8(machine: Machine) -> Ability:
    found = next((name for name in INT8_INSTRUCTIONS if name in machine.instructions), "")
    how = f"{machine.processor}: {found}" if found else f"{machine.processor}: no INT8 dot product; FP32 is as good"
    return Ability("compute INT8 fast", bool(found), how)


def _rtx(machine: Machine) -> Ability:
    what, fault = "build TensorRT-RTX plans", machine.faults.get("tensorrt-rtx")
    if not machine.tensorrt_rtx:
        return Ability(
            what, False, f"it fails: {fault}" if fault else "pip install 'msal-deploy[rtx]'; it needs no GPU"
        )
    served = ", ".join(target.name for target in targets() if target.tensorrt_rtx)
    return Ability(what, True, f"{machine.tensorrt_rtx}, without a GPU, for {served}")


def _tensorrt(machine: Machine) -> Ability:
    return Ability("build and run TensorRT plans", False, "a plan is built on a GPU of the kind that runs it")


def _resources(machine: Machine) -> Ability:
    cores = f"{machine.cores} cores, {machine.memory_gib:g} GiB memory, {machine.free_disk_gib:g} GiB of disk free"
    return Ability(f"run Python {machine.python}", True, cores)
