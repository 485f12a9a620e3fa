"""The stage: inspect this machine, and check it against a target."""

from msal_deploy.bundle import Bundle
from msal_deploy.doctor.capabilities import capabilities
from msal_deploy.doctor.checks import check_machine
from msal_deploy.doctor.estimates import judge_bundle
from msal_deploy.doctor.machine import Machine, describe
from msal_deploy.doctor.report import DoctorReport
from msal_deploy.errors import BadInput
from msal_deploy.targets import Target, find_target, target_of_sm, targets


def doctor(gpu: str | None = None, bundle: Bundle | None = None) -> DoctorReport:
    """Look at this machine, and judge it for a target.

    Args:
        gpu: a target's name or file; None for the one of the GPU that is here.
        bundle: whose graphs to estimate and to check, on that target, or on all of them where `gpu` is None.

    Raises:
        BadInput: no such target, or the bundle cannot be used.
    """
    target = find_target(gpu) if gpu else None
    judged = judge_bundle(bundle, (target,) if target else targets()) if bundle else None
    machine = describe()
    target = target or target_here(machine)
    return DoctorReport(
        machine=machine,
        asked_for=gpu or "",
        target=target,
        checks=check_machine(machine, target) if target else (),
        capabilities=() if target else capabilities(machine),
        bundle=judged,
    )


def target_here(machine: Machine) -> Target | None:
    """Return the target of the first GPU here that one is for."""
    for gpu in machine.gpus:
        try:
            return target_of_sm(gpu.sm, gpu.name)
        except BadInput:
            continue
    return None
