"""Rebuild: which plans of a bundle can no longer be used, and the orders that build them again."""

import re
from pathlib import Path

import msgspec

from msal_deploy.build_trt.order import DEFAULT_PROFILE, Order, find_place
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, EnvironmentLacks
from msal_deploy.plan import Options, Profile, plans, preflight, read_plan
from msal_deploy.targets import find_target, target_of_sm
from msal_deploy.trt import load_backend

NAME = re.compile(r"model\.(?P<precision>\w+)\.sm(?P<major>\d+)(?P<minor>\d)\.(?P<backend>tensorrt|tensorrt-rtx)\.plan")


class Stale(msgspec.Struct, frozen=True):
    """A plan that fails its preflight: why, and how it was built, as far as that can be known.

    Attributes:
        gpu: name of the target, None for the GPU that is here.
    """

    file: Path
    why: str
    precision: str
    backend: str
    gpu: str | None
    profile: Profile = DEFAULT_PROFILE
    options: Options = Options()

    def order(self, bundle: Bundle) -> Order:
        """Return the order that builds it again.

        Raises:
            EnvironmentLacks: it can be built only on a GPU that is not here.
        """
        place = find_place(bundle.path, self.gpu, self.backend)  # type: ignore[arg-type]
        return Order(self.precision, place, self.profile, self.options)


def find_stale(bundle: Bundle) -> tuple[Stale, ...]:
    """Return the plans of a bundle that fail their preflight with the TensorRT that is installed.

    Raises:
        BadInput: a plan is not one of build-trt's, so that nobody knows how to build it again.
    """
    return tuple(filter(None, (_examine(file, bundle) for file in plans(bundle))))


def _examine(file: Path, bundle: Bundle) -> Stale | None:
    name = NAME.fullmatch(file.name)
    if name is None:
        raise BadInput(f"{file} is not a plan that build-trt named; move it out of the bundle")
    try:
        preflight(file, bundle, backend_version=_installed(name["backend"]))
    except BadInput as error:
        return _stale(file, name, str(error).partition("; rebuild ")[0])
    return None


def _installed(backend: str) -> str | None:
    try:
        return load_backend(backend).version
    except EnvironmentLacks:
        return None


def _stale(file: Path, name: re.Match[str], why: str) -> Stale:
    """Take from the sidecar what it still says, and the rest from the plan's name."""
    target = target_of_sm(f"{name['major']}.{name['minor']}")
    try:
        plan = read_plan(file)
        gpu = None if plan.gpu is None and plan.backend == "tensorrt" else _known(plan.gpu, target.name)
        return Stale(file, why, plan.requested, plan.backend, gpu, plan.profile, plan.options)
    except BadInput:
        return Stale(file, why, name["precision"], name["backend"], target.name)


def _known(gpu: str | None, otherwise: str) -> str:
    try:
        return find_target(gpu or otherwise).name
    except BadInput:  # a target of the user's own
        return otherwise
