"""Plan: a built TensorRT engine on disk, and the sidecar that says what it is.

A plan is plain bytes that any loader takes. Beside ``model.fp16.sm86.tensorrt-rtx.plan`` lies
``model.fp16.sm86.tensorrt-rtx.plan.json``: for which TensorRT and GPU it was built, from which graph, for which shapes,
and in which precision it really computes. `preflight` reads it before the plan is loaded: TensorRT itself answers with
an error number, or computes something else.
"""

import shlex
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256, write_json

FORMAT_VERSION = 1
BackendName = Literal["tensorrt", "tensorrt-rtx"]
Shape = tuple[int, int, int]  # N, H, W


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shapes N, H, W that a plan takes: from `minimum` to `maximum`, fastest at `optimum`."""

    minimum: Shape
    optimum: Shape
    maximum: Shape

    def takes(self, shape: Shape) -> bool:
        """Return whether images of N, H, W can be computed with this profile."""
        return all(low <= n <= high for low, n, high in zip(self.minimum, shape, self.maximum, strict=True))

    def widened(self, shape: Shape) -> "Profile":
        """Return a profile that takes `shape` too."""
        return Profile(_each(min, self.minimum, shape), self.optimum, _each(max, self.maximum, shape))

    def __str__(self) -> str:
        if self.minimum == self.maximum:
            return _shape(self.minimum)
        return f"{_shape(self.minimum)} to {_shape(self.maximum)}"

    def options(self) -> str:
        """Return the profile as options of ``msal-deploy build-trt``."""
        points = (self.minimum, self.optimum, self.maximum)
        batches = ":".join(str(batch) for batch, _, _ in points)
        sizes = ":".join(str(h) if h == w else f"{h}x{w}" for _, h, w in points)
        return f"--batch {batches} --size {sizes}"


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of the network one precision computes: layers, their share of all, and their share of the FLOPs."""

    layers: int
    of_layers: float
    of_flops: float


class Realised(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan computes in, of the layers that hold the arithmetic (convolutions and matrix products).

    Attributes:
        read_from: ``inspector`` of the loaded engine; ``log`` of the build, which names the engine's layers too (of
            TensorRT-RTX, where there is no driver to load it with); or ``network``, its types before the build.
        shares: precision -> how much it computes.
        reformats: layers that only change a tensor's layout or type; None where the network was read.
    """

    read_from: Literal["inspector", "log", "network"]
    shares: dict[str, Share]
    reformats: int | None = None


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the builder was told beside the profile.

    Attributes:
        workspace_mib: most device memory that a layer may take for itself, None for what the backend allows.
        version_compatible: later versions of the same major version may load the plan.
        hardware_compatible: GPUs of compute capability 8.0 and above may load it.
        tf32: what is FP32 may be multiplied in TF32, which keeps ten bits of the mantissa.
        allow_wider: layers that the builder computes wider than the graph says are accepted, and named.
    """

    workspace_mib: Annotated[int, msgspec.Meta(ge=1)] | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    tf32: bool = False
    allow_wider: bool = False

    def options(self) -> str:
        """Return them as options of ``msal-deploy build-trt``."""
        workspace = (f"--workspace {self.workspace_mib}",) if self.workspace_mib else ()
        flags = ("version_compatible", "hardware_compatible", "tf32", "allow_wider")
        return " ".join((*workspace, *(f"--{flag.replace('_', '-')}" for flag in flags if getattr(self, flag))))


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A plan's sidecar.

    Attributes:
        backend_version: of the builder, such as ``10.13.3.9``.
        gpu: name of the target it was built for, None where it was the GPU that was here.
        sm: compute capabilities that it is for, such as ``("8.6",)``.
        graph: name in the bundle of the graph it was built from.
        requested: the precision that was asked for.
        realised: the precision it computes in.
        bytes: size of the plan.
        built: date and time, UTC.
    """

    backend: BackendName
    backend_version: str
    gpu: str | None
    sm: tuple[str, ...]
    graph: str
    graph_sha256: str
    requested: str
    realised: Realised
    profile: Profile
    plan_sha256: str
    bytes: int
    options: Options
    built: str
    format_version: int = FORMAT_VERSION


def plan_name(precision: str, backend: str, sm: Iterable[str]) -> str:
    """Return a plan's name in its bundle: ``model.fp16.sm86.tensorrt-rtx.plan``."""
    capabilities = "-".join(capability.replace(".", "") for capability in sm)
    return f"model.{precision}.sm{capabilities}.{backend}.plan"


def sidecar(plan_file: Path) -> Path:
    """Return where the metadata of `plan_file` is."""
    return plan_file.with_name(f"{plan_file.name}.json")


def kernel_cache(plan_file: Path) -> Path:
    """Return where TensorRT-RTX keeps the kernels that it has compiled for `plan_file`."""
    return plan_file.with_name(f"{plan_file.name}.cache")


def write_plan(plan_file: Path, plan: Plan) -> None:
    """Write `plan` beside `plan_file`."""
    write_json(sidecar(plan_file), msgspec.to_builtins(plan))


def read_plan(plan_file: Path) -> Plan:
    """Read the metadata of `plan_file`.

    Raises:
        BadInput: it has none, or one that cannot be read.
    """
    path, again = sidecar(plan_file), "rebuild the plan with: msal-deploy build-trt BUNDLE --rebuild"
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError as error:
        raise BadInput(f"{plan_file} has no metadata ({path.name} is missing); {again}") from error
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is not valid plan metadata: {error}; {again}") from error
    if plan.format_version != FORMAT_VERSION:
        raise BadInput(f"Expected format version {FORMAT_VERSION} in {path}, got {plan.format_version}; {again}")
    return plan


def build_command(
    bundle: Path,
    precision: str,
    *,
    backend: str | None = None,
    gpu: str | None = None,
    profile: Profile | None = None,
    options: Options | None = None,
) -> str:
    """Return the command that builds a plan, ready to be pasted into a shell."""
    words = ["msal-deploy build-trt", shlex.quote(str(bundle)), f"--{precision}"]
    words += [f"--gpu {shlex.quote(gpu)}"] if gpu else []
    words += [f"--backend {backend}"] if backend else []
    words += [part.options() for part in (profile, options) if part is not None]
    return " ".join(word for word in words if word)


def rebuild_command(bundle: Path, plan: Plan, profile: Profile | None = None) -> str:
    """Return the command that builds `plan` again, for `profile` instead of its own if one is given."""
    return build_command(
        bundle,
        plan.requested,
        backend=plan.backend,
        gpu=plan.gpu,
        profile=profile or plan.profile,
        options=plan.options,
    )


def plans(bundle: Bundle) -> tuple[Path, ...]:
    """Return the plans of a bundle, by name."""
    return tuple(sorted(file for file in bundle.path.glob("*.plan") if not file.name.startswith(".")))


def find_plan(bundle: Bundle, precision: str, backend: str, sm: str) -> Path:
    """Return the plan of a bundle for one precision, backend and compute capability.

    The GPU's own is taken before one that was built for several of them.

    Raises:
        BadInput: the bundle has none; the sentence says how to build it.
    """
    path = bundle.path / plan_name(precision, backend, (sm,))
    if path.is_file():
        return path
    there = [other for other in plans(bundle) if other.name.endswith(f".{backend}.plan")]
    for other in there:
        if other.name.startswith(f"model.{precision}.") and _serves(other, sm):
            return other
    others = [other.name for other in there]
    raise BadInput(
        f"{bundle.path} has no {precision} plan for {backend} and compute capability {sm}"
        f"{' (found: ' + ', '.join(others) + ')' if others else ''}; "
        f"build one with: {build_command(bundle.path, precision, backend=backend)}"
    )


def _serves(plan_file: Path, sm: str) -> bool:
    with suppress(BadInput):  # a sidecar that cannot be read: the plan for this GPU is what is missing
        return not _wrong_gpu(read_plan(plan_file), sm)
    return False


def preflight(
    plan_file: Path,
    bundle: Bundle,
    *,
    backend_version: str | None = None,
    sm: str | None = None,
    shape: Shape | None = None,
) -> Plan:
    """Return the metadata of `plan_file` after checking that it can be used here.

    Args:
        backend_version: of the TensorRT that is to load it, None to leave that out (nothing of it is installed here).
        sm: compute capability of the GPU that is to run it, None to leave that out (there is none here).
        shape: N, H, W that it is to take, None to leave that out.

    Raises:
        BadInput: the plan is missing, truncated or changed, or was built for another graph, TensorRT, GPU or shape;
            the sentence says with which command to build it again.
    """
    if not plan_file.is_file():
        raise BadInput(f"There is no plan {plan_file}; build it with: msal-deploy build-trt {bundle.path}")
    plan = read_plan(plan_file)
    command = rebuild_command(bundle.path, plan)
    wrong = (
        _wrong_name(plan_file, plan)
        or _wrong_bytes(plan_file, plan)
        or _wrong_graph(bundle, plan)
        or (backend_version and _wrong_version(plan, backend_version))
        or (sm and _wrong_gpu(plan, sm))
    )
    if wrong:
        raise BadInput(f"{plan_file} {wrong}; rebuild it with: {command}")
    if shape:
        check_shape(plan_file, bundle, plan, shape)
    return plan


def check_shape(plan_file: Path, bundle: Bundle, plan: Plan, shape: Shape) -> None:
    """Raise `BadInput` unless `plan` takes images of `shape` (N, H, W)."""
    if plan.profile.takes(shape):
        return
    command = rebuild_command(bundle.path, plan, plan.profile.widened(shape))
    raise BadInput(f"{plan_file} accepts {plan.profile}, not {_shape(shape)}; rebuild it with: {command}")


def _each(pick: Callable[[int, int], int], one: Shape, other: Shape) -> Shape:
    return pick(one[0], other[0]), pick(one[1], other[1]), pick(one[2], other[2])


def _shape(shape: Shape) -> str:
    return f"{shape[0]} × {shape[1]} × {shape[2]} px"


def _wrong_name(plan_file: Path, plan: Plan) -> str:
    """A plan is found by its name, so a copy under another name would be run as something that it is not."""
    start, end = f"model.{plan.requested}.", f".{plan.backend}.plan"
    good = plan_file.name.startswith(start) and plan_file.name.endswith(end)
    return "" if good else f"was built in {plan.requested} by {plan.backend}, not what its name says"


def _wrong_bytes(plan_file: Path, plan: Plan) -> str:
    size = plan_file.stat().st_size
    if size != plan.bytes:
        what = "truncated" if size < plan.bytes else "larger than when it was built"
        return f"is {what} ({size:,} bytes, expected {plan.bytes:,})"
    return "" if sha256(plan_file) == plan.plan_sha256 else "has changed since it was built (SHA-256 differs)"


def _wrong_graph(bundle: Bundle, plan: Plan) -> str:
    entry = bundle.manifest.artifacts.get(plan.graph)
    if entry is None:
        return f"was built from {plan.graph}, which is not in {bundle.path}"
    return "" if entry.sha256 == plan.graph_sha256 else f"was built from a different {plan.graph}"


def _wrong_version(plan: Plan, version: str) -> str:
    built, here = numbers(plan.backend_version), numbers(version)
    later = plan.options.version_compatible and here[0] == built[0] and here >= built
    return "" if here == built or later else f"was built by {plan.backend} {plan.backend_version}, not {version}"


def numbers(version: str) -> tuple[int, ...]:
    """Return major, minor and patch of a version; what comes after them does not change a plan's format."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())


def _wrong_gpu(plan: Plan, sm: str) -> str:
    ampere = plan.options.hardware_compatible and numbers(sm) >= (8, 0)
    return "" if sm in plan.sm or ampere else f"was built for compute capability {', '.join(plan.sm)}, not {sm}"
