"""Order: what is to be built, and where; what can be refused of it is refused before anything is built."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, EnvironmentLacks
from msal_deploy.plan import BackendName, Options, Profile, numbers, plan_name
from msal_deploy.spec import Axis, ModelSpec, check_extent
from msal_deploy.targets import Target, find_target, target_names, target_of_sm
from msal_deploy.trt import Backend, load_backend

if TYPE_CHECKING:
    from msal_deploy.graph import Layer

DEFAULT_PROFILE = Profile((1, 256, 256), (4, 512, 512), (8, 1024, 1024))


class Place(msgspec.Struct, frozen=True):
    """Where a plan is to run, and what builds it.

    Attributes:
        gpu: name of the target that was asked for, None where it is the GPU that is here.
    """

    target: Target
    backend: BackendName
    gpu: str | None = None


class Order(msgspec.Struct, frozen=True):
    """What is to be built: a precision, for a place, for shapes."""

    precision: str
    place: Place
    profile: Profile = DEFAULT_PROFILE
    options: Options = Options()

    @property
    def graph(self) -> str:
        """Name in the bundle of the graph that the plan is built from."""
        return f"model.{self.precision}.onnx"

    @property
    def plan(self) -> str:
        """Name in the bundle of the plan."""
        return plan_name(self.precision, self.place.backend, (self.place.target.sm,))


def find_place(bundle: Path, gpu: str | None = None, backend: BackendName | None = None) -> Place:
    """Return the place for `gpu`, or for the GPU that is here.

    Without a `backend` it is TensorRT where that is installed and the GPU is here, and else TensorRT-RTX, which needs
    no GPU to build, if it serves the target.

    Raises:
        BadInput: no such GPU, or TensorRT-RTX does not serve it.
        EnvironmentLacks: TensorRT is to build for a GPU that is not here; or no GPU is named, and none is here.
    """
    here = gpu_here()
    target = _target(gpu, here)
    is_here = here.sm == target.sm
    backend = backend or _default_backend(target, is_here)
    if backend == "tensorrt-rtx" and not target.tensorrt_rtx:
        raise BadInput(
            f"TensorRT-RTX does not serve {target.gpu} (compute capability {target.sm}); {_kit(bundle, target)}"
        )
    if backend == "tensorrt" and not is_here:
        raise EnvironmentLacks(
            f"TensorRT builds only on the GPU that the plan is for, and there is no {target.gpu} here{here.why}; "
            f"{_kit(bundle, target)}"
        )
    return Place(target, backend, None if gpu is None else target.name)


def _target(gpu: str | None, here: Here) -> Target:
    if gpu is not None:
        return find_target(gpu)
    if here.sm:
        return target_of_sm(here.sm, here.gpu)
    raise EnvironmentLacks(
        f"There is no GPU here to build for{here.why}; name the one that the plan is for with --gpu: "
        f"{', '.join(target_names())}"
    )


def _kit(bundle: Path, target: Target) -> str:
    command = f"msal-deploy package {shlex.quote(str(bundle))} build-kit --gpu {target.name} --out DIR"
    return f"take a build kit to a machine that has it: {command}"


def _default_backend(target: Target, is_here: bool) -> BackendName:
    if not target.tensorrt_rtx or (is_here and _loads("tensorrt")):
        return "tensorrt"
    return "tensorrt-rtx"


def _loads(backend: str) -> bool:
    try:
        load_backend(backend)
    except EnvironmentLacks:
        return False
    return True


class Here(msgspec.Struct, frozen=True):
    """The GPU that is here: name and compute capability, empty if there is none or nothing can ask (`why`)."""

    gpu: str = ""
    sm: str = ""
    why: str = ""


def gpu_here() -> Here:
    """Return the GPU that CUDA takes by default."""
    from msal_deploy.runtimes.cuda import CudaError, open_cuda

    try:
        cuda = open_cuda()
    except CudaError:
        return Here()
    except EnvironmentLacks as error:
        return Here(why=f" ({error})")
    return Here(cuda.device, cuda.sm)


def first_that_pays(bundle: Bundle, target: Target) -> str:
    """Return the first precision of the target's table whose graph the bundle holds.

    Raises:
        BadInput: it holds none of them.
    """
    for precision in target.auto:
        if f"model.{precision}.onnx" in bundle.manifest.artifacts:
            return precision
    raise BadInput(
        f"{bundle.path} holds none of the graphs that pay on {target.gpu} ({', '.join(target.auto)}); name a precision"
    )


def check_order(order: Order, spec: ModelSpec, backend: Backend) -> None:
    """Refuse what cannot be built, before the graph is read.

    Raises:
        BadInput: the profile is outside of the spec, or the backend has no such option.
        EnvironmentLacks: this TensorRT does not serve the target.
    """
    _check_profile(order.profile, spec)
    _check_options(order.options, backend)
    _check_version(order.place.target, backend)


def _check_profile(profile: Profile, spec: ModelSpec) -> None:
    for index, axis in enumerate(spec.image.axes[:3]):
        extents = (profile.minimum[index], profile.optimum[index], profile.maximum[index])
        name = axis.name if isinstance(axis, Axis) else "extent"
        if list(extents) != sorted(extents):
            raise BadInput(
                f"The {name} is {':'.join(map(str, extents))}; write MINIMUM:OPTIMUM:MAXIMUM, the smallest first"
            )
        for extent in extents:
            if isinstance(axis, Axis):
                check_extent(axis, extent)
            elif extent != axis:
                raise BadInput(f"The graph takes images with an axis of {axis}, and not {extent}")


def _check_options(options: Options, backend: Backend) -> None:
    for option in ("version_compatible", "hardware_compatible"):
        if backend.is_rtx and getattr(options, option):
            raise BadInput(
                f"TensorRT-RTX has no --{option.replace('_', '-')} plans; leave it out, and build one plan for each "
                "version and GPU: that takes seconds and needs no GPU"
            )


def _check_version(target: Target, backend: Backend) -> None:
    if backend.is_rtx:
        return
    first, last = numbers(target.tensorrt_first), numbers(target.tensorrt)
    too_new = target.why_last is not None and backend.number[: len(last)] > last
    if backend.number[: len(first)] < first or too_new:
        raise EnvironmentLacks(
            f"TensorRT {backend.version} is installed, and {target.gpu} (compute capability {target.sm}) is served by "
            f"{target.tensorrt_first} to {target.tensorrt}; a set that works: msal-deploy doctor --gpu {target.name}"
        )


def check_memory_of_target(order: Order, largest: Layer) -> None:
    """Refuse a profile whose largest layer alone, input, weights and output, does not fit into the GPU's memory.

    Raises:
        BadInput: it does not.
    """
    needed, there = largest.moved_bytes / 2**30, order.place.target.memory_gib
    if needed > there:
        batch, height, width = order.profile.maximum
        raise BadInput(
            f"{batch} images of {height} × {width} px need {needed:.1f} GiB for {largest.name} alone, and "
            f"{order.place.target.gpu} has {there:g}; give a smaller largest --batch or --size"
        )
