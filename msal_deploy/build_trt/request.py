"""BuildRequest: what is to be built, and where; what can be refused of it is refused before anything is built."""

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
from msal_deploy.trt.plan_metadata import DEFAULT_PROFILE, BuildOptions, Profile, TrtBackendName, plan_name
from msal_deploy.versions import parse_version

if TYPE_CHECKING:
    from msal_deploy.graph import Layer


class BuildTarget(msgspec.Struct, frozen=True):
    """Where a plan is to run, and what builds it.

    Attributes:
        gpu: name of the target that was asked for, None where it is the GPU that is here.
    """

    target: Target
    backend: TrtBackendName
    gpu: str | None = None


class BuildRequest(msgspec.Struct, frozen=True):
    """What is to be built: a precision, for a build_target, for shapes."""

    precision: str
    build_target: BuildTarget
    profile: Profile = DEFAULT_PROFILE
    options: BuildOptions = BuildOptions()

    @property
    def graph(self) -> str:
        """Name in the bundle of the graph that the plan is built from."""
        return graph_name(self.precision)

    @property
    def plan(self) -> str:
        """Name in the bundle of the plan."""
        return plan_name(self.precision, self.build_target.backend, (self.build_target.target.sm,))


def find_build_target(bundle: Path, gpu: str | None = None, backend: TrtBackendName | None = None) -> BuildTarget:
    """Return the place for `gpu`, or for the GPU that is here.

    Without a `backend` it is TensorRT where that is installed and the GPU is here, and else TensorRT-RTX, which needs
    no GPU to build, if it serves the target.

    Raises:
        BadInput: no such GPU, or TensorRT-RTX does not serve it.
        MissingRequirement: TensorRT is to build for a GPU that is not here; or no GPU is named, and none is here.
    """
    here = current_gpu()
    target = _target(gpu, here)
    is_here = here.sm == target.sm
    backend = backend or _default_backend(target, is_here)
    if backend == "tensorrt-rtx" and not target.tensorrt_rtx:
        raise BadInput(
            f"TensorRT-RTX does not serve {target.gpu} (compute capability {target.sm}); {_kit(bundle, target)}"
        )
    if backend == "tensorrt" and not is_here:
        raise MissingRequirement(
            f"TensorRT builds only on the GPU that the plan is for, and there is no {target.gpu} here{_why(here)}; "
            f"{_kit(bundle, target)}"
        )
    return BuildTarget(target, backend, None if gpu is None else target.name)


def _target(gpu: str | None, here: LocalGpu) -> Target:
    if gpu is not None:
        return find_target(gpu)
    if here.sm:
        return target_of_sm(here.sm, here.name)
    raise MissingRequirement(
        f"There is no GPU here to build for{_why(here)}; name the one that the plan is for with --gpu: "
        f"{', '.join(target_names())}"
    )


def _why(gpu: LocalGpu) -> str:
    return f" ({gpu.unknown_because})" if gpu.unknown_because else ""


def _kit(bundle: Path, target: Target) -> str:
    command = f"msal-deploy package {shlex.quote(str(bundle))} build-kit --gpu {target.name} --out DIR"
    return f"take a build kit to a machine that has it: {command}"


def _default_backend(target: Target, is_here: bool) -> TrtBackendName:
    if not target.tensorrt_rtx or (is_here and _loads("tensorrt")):
        return "tensorrt"
    return "tensorrt-rtx"


def _loads(backend: str) -> bool:
    try:
        load_backend(backend)
    except MissingRequirement:
        return False
    return True


def first_preferred(bundle: Bundle, target: Target) -> str:
    """Return the first precision of the target's table whose graph the bundle holds.

    Raises:
        BadInput: it holds none of them.
    """
    for precision in target.auto:
        if bundle.has_graph(precision):
            return precision
    raise BadInput(
        f"{bundle.path} holds none of the graphs that pay on {target.gpu} ({', '.join(target.auto)}); name a precision"
    )


def check_request(request: BuildRequest, spec: ModelSpec, backend: Backend) -> None:
    """Refuse what cannot be built, before the graph is read.

    Raises:
        BadInput: the profile is outside of the spec, or the backend has no such option.
        MissingRequirement: this TensorRT does not serve the target.
    """
    _check_profile(request.profile, spec)
    _check_options(request.options, backend)
    _check_version(request.build_target.target, backend)


def _check_profile(profile: Profile, spec: ModelSpec) -> None:
    for index, axis in enumerate(spec.image.axes[:3]):
        extents = (profile.min[index], profile.opt[index], profile.max[index])
        name = axis.name if isinstance(axis, Axis) else "extent"
        if list(extents) != sorted(extents):
            raise BadInput(f"The {name} is {':'.join(map(str, extents))}; write MIN:OPT:MAX, the smallest first")
        for extent in extents:
            if isinstance(axis, Axis):
                check_extent(axis, extent)
            elif extent != axis:
                raise BadInput(f"The graph takes images with an axis of {axis}, and not {extent}")


def _check_options(options: BuildOptions, backend: Backend) -> None:
    for option in ("version_compatible", "hardware_compatible"):
        if backend.is_rtx and getattr(options, option):
            raise BadInput(
                f"TensorRT-RTX has no --{option.replace('_', '-')} plans; leave it out, and build one plan for each "
                "version and GPU: that takes seconds and needs no GPU"
            )


def _check_version(target: Target, backend: Backend) -> None:
    if backend.is_rtx:
        return
    first, last = parse_version(target.tensorrt_first), parse_version(target.tensorrt)
    too_new = target.why_last is not None and backend.number[: len(last)] > last
    if backend.number[: len(first)] < first or too_new:
        raise MissingRequirement(
            f"TensorRT {backend.version} is installed, and {target.gpu} (compute capability {target.sm}) is served by "
            f"{target.tensorrt_first} to {target.tensorrt}; a set that works: msal-deploy doctor --gpu {target.name}"
        )


def check_memory_of_target(request: BuildRequest, largest: Layer) -> None:
    """Refuse a profile whose largest layer alone, input, weights and output, does not fit into the GPU's memory.

    Raises:
        BadInput: it does not.
    """
    needed, there = largest.moved_bytes / 2**30, request.build_target.target.memory_gib
    if needed > there:
        batch, height, width = request.profile.max
        raise BadInput(
            f"{batch} images of {height} × {width} px need {needed:.1f} GiB for {largest.name} alone, and "
            f"{request.build_target.target.gpu} has {there:g}; give a smaller largest --batch or --size"
        )
