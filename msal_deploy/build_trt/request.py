"""The request of a build: what to build and for which GPU, with the checks that run before the build."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from msal_deploy.bundle import Bundle, graph_name
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.spec import Axis, ModelSpec, check_extent
from msal_deploy.targets import Target, find_target, target_names, target_of_sm
from msal_deploy.trt.bindings import Backend, load_backend
from msal_deploy.trt.local_gpu import LocalGpu, current_gpu
from msal_deploy.trt.plan_metadata import (
    DEFAULT_PROFILE,
    BuildOptions,
    Profile,
    TrtBackendName,
    format_shape,
    plan_name,
)
from msal_deploy.versions import parse_version

if TYPE_CHECKING:
    from msal_deploy.graph import Layer


class BuildTarget(msgspec.Struct, frozen=True):
    """The GPU that a plan is for, and the TensorRT that builds it.

    Attributes:
        target: The GPU.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        gpu: Name of the target as requested; None for the local GPU.
    """

    target: Target
    backend: TrtBackendName
    gpu: str | None = None


class BuildRequest(msgspec.Struct, frozen=True):
    """A plan to build.

    >>> from msal_deploy.targets import find_target
    >>> BuildRequest("fp16", BuildTarget(find_target("t4"), "tensorrt-rtx", "t4")).plan
    'model.fp16.sm75.tensorrt-rtx.plan'

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        build_target: GPU and backend.
        profile: Shapes that the plan must accept.
        options: Options of the builder.
    """

    precision: str
    build_target: BuildTarget
    profile: Profile = DEFAULT_PROFILE
    options: BuildOptions = BuildOptions()

    @property
    def graph(self) -> str:
        """File name of the graph in the bundle."""
        return graph_name(self.precision)

    @property
    def plan(self) -> str:
        """File name of the plan in the bundle."""
        return plan_name(self.precision, self.build_target.backend, (self.build_target.target.sm,))


def find_build_target(bundle: Path, gpu: str | None = None, backend: TrtBackendName | None = None) -> BuildTarget:
    """Return the target and backend for `gpu`, or for the local GPU.

    The default backend is TensorRT if it is installed on the target GPU itself; otherwise TensorRT-RTX, which builds
    without a GPU, if it supports the target.

    >>> find_build_target(Path("bundle"), "rtx-3090", "tensorrt-rtx").target.sm
    '8.6'

    Raises:
        BadInput: `gpu` is unknown, or TensorRT-RTX does not support it.
        MissingRequirement: TensorRT needs the target GPU, which this machine does not have; or neither `gpu` nor a
            local GPU is given.
    """
    local = current_gpu()
    target = _find_target(gpu, local)
    is_local = local.sm == target.sm
    backend = backend or _default_backend(target, is_local)
    if backend == "tensorrt-rtx" and not target.tensorrt_rtx:
        cause = f"TensorRT-RTX does not support {target.gpu} (compute capability {target.sm})"
        raise BadInput(cause, _kit_remedy(bundle, target))
    if backend == "tensorrt" and not is_local:
        cause = f"TensorRT must build on the target GPU, but no {target.gpu} was found{_detection_error(local)}"
        raise MissingRequirement(cause, _kit_remedy(bundle, target))
    return BuildTarget(target, backend, None if gpu is None else target.name)


def _find_target(gpu: str | None, local: LocalGpu) -> Target:
    if gpu is not None:
        return find_target(gpu)
    if local.sm:
        return target_of_sm(local.sm, local.name)
    cause = f"No GPU found{_detection_error(local)}"
    raise MissingRequirement(cause, f"choose a target with --gpu: {', '.join(target_names())}")


def _detection_error(gpu: LocalGpu) -> str:
    return f" ({gpu.detection_error})" if gpu.detection_error else ""


def _kit_remedy(bundle: Path, target: Target) -> str:
    command = f"msal-deploy package {shlex.quote(str(bundle))} build-kit --gpu {target.name} --out DIR"
    return f"build on a machine that has this GPU, with a build kit: {command}"


def _default_backend(target: Target, is_local: bool) -> TrtBackendName:
    if not target.tensorrt_rtx or (is_local and _is_installed("tensorrt")):
        return "tensorrt"
    return "tensorrt-rtx"


def _is_installed(backend: str) -> bool:
    try:
        load_backend(backend)
    except MissingRequirement:
        return False
    return True


def first_preferred(bundle: Bundle, target: Target) -> str:
    """Return the target's most preferred precision whose graph is in the bundle.

    >>> from msal_deploy.targets import find_target
    >>> first_preferred(Bundle(Path("bundle")), find_target("gtx-1080-ti"))
    'int8'

    Raises:
        BadInput: The bundle has none of these graphs.
    """
    for precision in target.preferred:
        if bundle.has_graph(precision):
            return precision
    preferred = ", ".join(target.preferred)
    cause = f"{bundle.path} has no graph in a preferred precision of {target.gpu} ({preferred})"
    raise BadInput(cause, "choose a precision that it has")


def check_request(request: BuildRequest, spec: ModelSpec, backend: Backend) -> None:
    """Check a request before the graph is read.

    Raises:
        BadInput: The profile is outside the spec, or the backend does not support an option.
        MissingRequirement: This TensorRT does not support the target.
    """
    _check_profile(request.profile, spec)
    _check_options(request.options, backend)
    _check_version(request.build_target.target, backend)


def _check_profile(profile: Profile, spec: ModelSpec) -> None:
    for index, axis in enumerate(spec.image.axes[:3]):
        extents = (profile.min[index], profile.opt[index], profile.max[index])
        name = axis.name if isinstance(axis, Axis) else "extent"
        if list(extents) != sorted(extents):
            cause = f"Expected MIN:OPT:MAX in increasing order for the {name}, got {':'.join(map(str, extents))}"
            raise BadInput(cause, "sort the three values")
        for extent in extents:
            if isinstance(axis, Axis):
                check_extent(axis, extent)
            elif extent != axis:
                raise BadInput(f"Expected {axis} for axis {index} of the images, got {extent}")


def _check_options(options: BuildOptions, backend: Backend) -> None:
    for option in ("version_compatible", "hardware_compatible"):
        if backend.is_rtx and getattr(options, option):
            cause = f"TensorRT-RTX does not support --{option.replace('_', '-')}"
            raise BadInput(cause, "build one plan for each version and GPU, which takes seconds and needs no GPU")


def _check_version(target: Target, backend: Backend) -> None:
    if backend.is_rtx:
        return
    first, last = parse_version(target.tensorrt_first), parse_version(target.tensorrt)
    too_new = target.why_last is not None and backend.version_tuple[: len(last)] > last
    if backend.version_tuple[: len(first)] < first or too_new:
        raise MissingRequirement(
            f"Expected TensorRT {target.tensorrt_first} to {target.tensorrt} for {target.gpu} (compute capability "
            f"{target.sm}), got {backend.version}",
            f"install versions that work together: msal-deploy doctor --gpu {target.name}",
        )


def check_memory_of_target(request: BuildRequest, largest: Layer) -> None:
    """Raise `BadInput` if input, weights and output of the largest layer alone exceed the GPU's memory."""
    target = request.build_target.target
    needed = largest.moved_bytes / 2**30
    if needed > target.memory_gib:
        raise BadInput(
            f"{format_shape(request.profile.max)} need {needed:.1f} GiB for {largest.name} alone, but {target.gpu} has "
            f"{target.memory_gib:g} GiB",
            "lower the maximum --batch or --size",
        )
