"""PlanMetadata: a built TensorRT engine on disk, and the sidecar that says what it is.

A plan is plain bytes that any loader takes. Beside ``model.fp16.sm86.tensorrt-rtx.plan`` lies
``model.fp16.sm86.tensorrt-rtx.plan.json``: for which TensorRT and GPU it was built, from which graph, for which shapes,
and in which precision it really computes. `preflight` reads it before the plan is loaded: TensorRT itself answers with
an error number, or computes something else.
"""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from msal_deploy.errors import BadInput
from msal_deploy.files import write_json

FORMAT_VERSION = 1
TrtBackendName = Literal["tensorrt", "tensorrt-rtx"]
Shape = tuple[int, int, int]  # N, H, W


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An optimization profile: the shapes (N, H, W) that a plan accepts, from `min` to `max`, tuned for `opt`.

    The JSON keys are ``minimum``, ``optimum`` and ``maximum``.

    >>> Profile((1, 256, 256), (4, 512, 512), (8, 1024, 1024)).accepts((2, 512, 512))
    True
    """

    min: Shape = msgspec.field(name="minimum")
    opt: Shape = msgspec.field(name="optimum")
    max: Shape = msgspec.field(name="maximum")

    def accepts(self, shape: Shape) -> bool:
        """Return whether images of N, H, W can be computed with this profile."""
        return all(low <= n <= high for low, n, high in zip(self.min, shape, self.max, strict=True))

    def widened(self, shape: Shape) -> "Profile":
        """Return a profile that takes `shape` too."""
        return Profile(_each(min, self.min, shape), self.opt, _each(max, self.max, shape))

    def __str__(self) -> str:
        if self.min == self.max:
            return format_shape(self.min)
        return f"{format_shape(self.min)} to {format_shape(self.max)}"

    def options(self) -> str:
        """Return the profile as options of ``msal-deploy build-trt``."""
        points = (self.min, self.opt, self.max)
        batches = ":".join(str(batch) for batch, _, _ in points)
        sizes = ":".join(str(h) if h == w else f"{h}x{w}" for _, h, w in points)
        return f"--batch {batches} --size {sizes}"


DEFAULT_PROFILE = Profile((1, 256, 256), (4, 512, 512), (8, 1024, 1024))


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of the network one precision computes: layers, their share of all, and their share of the FLOPs."""

    layers: int
    of_layers: float
    of_flops: float


class ActualPrecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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


class BuildOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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


class PlanMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
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

    backend: TrtBackendName
    backend_version: str
    gpu: str | None
    sm: tuple[str, ...]
    graph: str
    graph_sha256: str
    requested: str
    realised: ActualPrecision
    profile: Profile
    plan_sha256: str
    bytes: int
    options: BuildOptions
    built: str
    format_version: int = FORMAT_VERSION


def plan_name(precision: str, backend: str, sm: Iterable[str]) -> str:
    """Return a plan's name in its bundle: ``model.fp16.sm86.tensorrt-rtx.plan``."""
    capabilities = "-".join(capability.replace(".", "") for capability in sm)
    return f"model.{precision}.sm{capabilities}.{backend}.plan"


def sidecar(plan_file: Path) -> Path:
    """Return where the metadata of `plan_file` is."""
    return plan_file.with_name(f"{plan_file.name}.json")


def kernel_cache_path(plan_file: Path) -> Path:
    """Return where TensorRT-RTX keeps the kernels that it has compiled for `plan_file`."""
    return plan_file.with_name(f"{plan_file.name}.cache")


def write_metadata(plan_file: Path, plan: PlanMetadata) -> None:
    """Write `plan` beside `plan_file`."""
    write_json(sidecar(plan_file), msgspec.to_builtins(plan))


def read_metadata(plan_file: Path) -> PlanMetadata:
    """Read the metadata of `plan_file`.

    Raises:
        BadInput: it has none, or one that cannot be read.
    """
    path, again = sidecar(plan_file), "build it again with: msal-deploy build-trt BUNDLE --rebuild"
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=PlanMetadata)
    except FileNotFoundError as error:
        raise BadInput(
            f"{plan_file} has no {path.name} beside it, which says what it was built for; {again}"
        ) from error
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} cannot be read ({error}); {again}") from error
    if plan.format_version != FORMAT_VERSION:
        raise BadInput(f"{path} has format version {plan.format_version}, and only {FORMAT_VERSION} is known; {again}")
    return plan


def build_command(
    bundle: Path,
    precision: str,
    *,
    backend: str | None = None,
    gpu: str | None = None,
    profile: Profile | None = None,
    options: BuildOptions | None = None,
) -> str:
    """Return the command that builds a plan, ready to be pasted into a shell."""
    words = ["msal-deploy build-trt", shlex.quote(str(bundle)), f"--{precision}"]
    words += [f"--gpu {shlex.quote(gpu)}"] if gpu else []
    words += [f"--backend {backend}"] if backend else []
    words += [part.options() for part in (profile, options) if part is not None]
    return " ".join(word for word in words if word)


def rebuild_command(bundle: Path, plan: PlanMetadata, profile: Profile | None = None) -> str:
    """Return the command that builds `plan` again, for `profile` instead of its own if one is given."""
    return build_command(
        bundle,
        plan.requested,
        backend=plan.backend,
        gpu=plan.gpu,
        profile=profile or plan.profile,
        options=plan.options,
    )


def _each(pick: Callable[[int, int], int], one: Shape, other: Shape) -> Shape:
    return pick(one[0], other[0]), pick(one[1], other[1]), pick(one[2], other[2])


def format_shape(shape: Shape) -> str:
    """Write N, H, W for a message: ``4 × 512 × 512 px``."""
    return f"{shape[0]} × {shape[1]} × {shape[2]} px"
