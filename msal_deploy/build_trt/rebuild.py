"""Find the plans of a bundle that can no longer be used, and the requests that rebuild them."""

import re
from pathlib import Path

import msgspec

from msal_deploy.build_trt.request import BuildRequest, find_build_target
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.targets import find_target, target_of_sm
from msal_deploy.trt.bindings import load_backend
from msal_deploy.trt.plan_checks import plans, preflight
from msal_deploy.trt.plan_metadata import DEFAULT_PROFILE, BuildOptions, Profile, read_metadata

NAME = re.compile(r"model\.(?P<precision>\w+)\.sm(?P<major>\d+)(?P<minor>\d)\.(?P<backend>tensorrt|tensorrt-rtx)\.plan")


class Stale(msgspec.Struct, frozen=True):
    """A plan that fails its preflight.

    Attributes:
        file: The plan.
        reason: Why it fails, as a sentence without a final stop.
        precision: Requested precision.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        gpu: Name of the target; None for the local GPU.
        profile: Shapes that it was built for; the default if its metadata is not readable.
        options: Options that it was built with; the default if its metadata is not readable.
    """

    file: Path
    reason: str
    precision: str
    backend: str
    gpu: str | None
    profile: Profile = DEFAULT_PROFILE
    options: BuildOptions = BuildOptions()

    def request(self, bundle: Bundle) -> BuildRequest:
        """Return the request that rebuilds the plan.

        Raises:
            MissingRequirement: The plan can be built only on a GPU that this machine does not have.
        """
        build_target = find_build_target(bundle.path, self.gpu, self.backend)  # type: ignore[arg-type]
        return BuildRequest(self.precision, build_target, self.profile, self.options)


def find_stale(bundle: Bundle) -> tuple[Stale, ...]:
    """Return the plans of a bundle that fail their preflight with the installed TensorRT.

    >>> find_stale(Bundle(Path("bundle")))
    ()

    Raises:
        BadInput: A plan has a name that build-trt does not give, so how to rebuild it is unknown.
    """
    return tuple(filter(None, (_examine(file, bundle) for file in plans(bundle))))


def _examine(file: Path, bundle: Bundle) -> Stale | None:
    name = NAME.fullmatch(file.name)
    if name is None:
        raise BadInput(f"{file} is not a plan of build-trt", "move it out of the bundle")
    try:
        preflight(file, bundle, backend_version=_installed(name["backend"]))
    except BadInput as error:
        return _stale(file, name, error.cause)
    return None


def _installed(backend: str) -> str | None:
    try:
        return load_backend(backend).version
    except MissingRequirement:
        return None


def _stale(file: Path, name: re.Match[str], reason: str) -> Stale:
    """Describe a stale plan by its metadata, or by its name if the metadata is not readable."""
    target = target_of_sm(f"{name['major']}.{name['minor']}")
    try:
        plan = read_metadata(file)
        gpu = None if plan.gpu is None and plan.backend == "tensorrt" else _known_target(plan.gpu, target.name)
        return Stale(file, reason, plan.requested, plan.backend, gpu, plan.profile, plan.options)
    except BadInput:
        return Stale(file, reason, name["precision"], name["backend"], target.name)


def _known_target(gpu: str | None, default: str) -> str:
    try:
        return find_target(gpu or default).name
    except BadInput:  # a target that the user has defined
        return default
