"""The stage: inspect this machine and check it against a target."""

from msal_deploy.bundle import Bundle
from msal_deploy.doctor.capabilities import capabilities
from msal_deploy.doctor.checks import check_machine
from msal_deploy.doctor.estimates import inspect_bundle
from msal_deploy.doctor.machine import Machine, inspect_machine
from msal_deploy.doctor.report import DoctorReport
from msal_deploy.errors import BadInput
from msal_deploy.targets import Target, find_target, target_of_sm, targets


def doctor(gpu: str | None = None, bundle: Bundle | None = None) -> DoctorReport:
    """Inspect this machine and check it against a target.

    >>> report = doctor("l4")
    >>> report.target.gpu
    'NVIDIA L4'
    >>> [check.part for check in report.checks][:3]
    ['GPU', 'driver', 'CUDA']

    Args:
        gpu: A target's name or TOML file; None selects the target of this machine's GPU.
        bundle: A bundle whose graphs to estimate and to check, on that target, or on all targets if `gpu` is None.

    Raises:
        BadInput: The target is unknown, or the bundle cannot be used.
    """
    target = None if gpu is None else find_target(gpu)
    bundle_report = inspect_bundle(bundle, (target,) if target else targets()) if bundle else None
    machine = inspect_machine()
    target = target or local_target(machine)
    return DoctorReport(
        machine=machine,
        asked_for=gpu or "",
        target=target,
        checks=check_machine(machine, target) if target else (),
        capabilities=() if target else capabilities(machine),
        bundle=bundle_report,
    )


def local_target(machine: Machine) -> Target | None:
    """Return the target of the machine's first supported GPU, or None without one."""
    for gpu in machine.gpus:
        try:
            return target_of_sm(gpu.sm, gpu.name)
        except BadInput:
            continue
    return None
