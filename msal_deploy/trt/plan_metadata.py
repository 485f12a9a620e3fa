"""Metadata of a plan (a built TensorRT engine), and the commands that build it.

A plan is plain bytes that any loader accepts. Its metadata is in a sidecar: ``model.fp16.sm86.tensorrt-rtx.plan.json``
beside ``model.fp16.sm86.tensorrt-rtx.plan``. It records the TensorRT, GPU, graph and shapes that the plan was built
for, and the precision that it actually computes in.
"""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from msal_deploy.documents import FileName, Identifier, Sha256, VersionText, read_json
from msal_deploy.errors import BadInput
from msal_deploy.files import write_json
from msal_deploy.trt.layer_precisions import Source

FORMAT_VERSION = 1
REBUILD_ALL = "rebuild the plan with: msal-deploy build-trt BUNDLE --rebuild"
TrtBackendName = Literal["tensorrt", "tensorrt-rtx"]
Extent = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Shape = tuple[Extent, Extent, Extent]  # N, H, W
Capability = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+\.[0-9]+\Z")]


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
        """Return whether images of `shape` (N, H, W) can be computed with this profile."""
        return all(low <= n <= high for low, n, high in zip(self.min, shape, self.max, strict=True))

    def widened(self, shape: Shape) -> "Profile":
        """Return a profile that also accepts `shape`.

        >>> print(Profile((1, 256, 256), (4, 512, 512), (8, 1024, 1024)).widened((16, 512, 512)))
        1 × 256 × 256 px to 16 × 1024 × 1024 px
        """
        return Profile(_each(min, self.min, shape), self.opt, _each(max, self.max, shape))

    def __str__(self) -> str:
        if self.min == self.max:
            return format_shape(self.min)
        return f"{format_shape(self.min)} to {format_shape(self.max)}"

    def options(self) -> str:
        """Return the profile as options of ``msal-deploy build-trt``.

        >>> DEFAULT_PROFILE.options()
        '--batch 1:4:8 --size 256:512:1024'
        """
        points = (self.min, self.opt, self.max)
        batches = ":".join(str(batch) for batch, _, _ in points)
        sizes = ":".join(str(h) if h == w else f"{h}x{w}" for _, h, w in points)
        return f"--batch {batches} --size {sizes}"


DEFAULT_PROFILE = Profile((1, 256, 256), (4, 512, 512), (8, 1024, 1024))


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of the network one precision computes.

    Attributes:
        layers: Number of layers.
        of_layers: Their share of all layers, 0 to 1.
        of_flops: Their share of the FLOPs, 0 to 1.
    """

    layers: int
    of_layers: float
    of_flops: float


class ActualPrecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The precision of a plan's convolutions and matrix products.

    Attributes:
        read_from: Source: ``inspector`` of the loaded engine, ``log`` of the build, or ``network`` before the build;
            see `msal_deploy.trt.audit`.
        shares: Precision -> how much of the network it computes.
        reformats: Number of layers that only change a layout or type; None if the source is the network.
    """

    read_from: Source
    shares: dict[str, Share]
    reformats: int | None = None


class BuildOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the builder.

    >>> BuildOptions(workspace_mib=512, tf32=True).options()
    '--workspace 512 --tf32'

    Attributes:
        workspace_mib: Maximum device memory for the workspace of one layer, in MiB; None for the backend's default.
        version_compatible: Let later releases of the same major version load the plan.
        hardware_compatible: Let GPUs of compute capability 8.0 and above load the plan.
        tf32: Allow TF32 for FP32 layers (10-bit mantissa).
        allow_wider: Accept layers that are computed in a wider precision than in the graph, with a warning.
    """

    workspace_mib: Annotated[int, msgspec.Meta(ge=1)] | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    tf32: bool = False
    allow_wider: bool = False

    def options(self) -> str:
        """Return the options of ``msal-deploy build-trt``."""
        workspace = (f"--workspace {self.workspace_mib}",) if self.workspace_mib else ()
        flags = ("version_compatible", "hardware_compatible", "tf32", "allow_wider")
        return " ".join((*workspace, *(f"--{flag.replace('_', '-')}" for flag in flags if getattr(self, flag))))


class PlanMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Metadata of a plan, as in its sidecar.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        backend_version: Version of the builder, such as ``10.13.3.9``.
        gpu: Name of the target; None if the plan was built for the local GPU.
        sm: Compute capabilities of the target, such as ``("8.6",)``.
        graph: File name of the graph in the bundle.
        graph_sha256: SHA-256 of the graph.
        requested: Requested precision.
        actual: Actual precision; the JSON key is ``realised``.
        profile: Shapes that the plan accepts.
        plan_sha256: SHA-256 of the plan.
        bytes: Size of the plan in bytes.
        options: Options of the builder.
        built: Date and time of the build, in UTC.
        format_version: Version of this format.
    """

    backend: TrtBackendName
    backend_version: VersionText
    gpu: Annotated[str, msgspec.Meta(max_length=200)] | None
    sm: Annotated[tuple[Capability, ...], msgspec.Meta(min_length=1)]
    graph: FileName
    graph_sha256: Sha256
    requested: Identifier
    actual: ActualPrecision = msgspec.field(name="realised")
    profile: Profile
    plan_sha256: Sha256
    bytes: Annotated[int, msgspec.Meta(ge=1)]
    options: BuildOptions
    built: str
    format_version: int = FORMAT_VERSION


def plan_name(precision: str, backend: str, sm: Iterable[str]) -> str:
    """Return the file name of a plan in its bundle.

    >>> plan_name("fp16", "tensorrt-rtx", ("8.6",))
    'model.fp16.sm86.tensorrt-rtx.plan'
    """
    capabilities = "-".join(capability.replace(".", "") for capability in sm)
    return f"model.{precision}.sm{capabilities}.{backend}.plan"


def metadata_path(plan_file: Path) -> Path:
    """Return the path of a plan's metadata.

    >>> metadata_path(Path("model.fp16.sm86.tensorrt.plan")).name
    'model.fp16.sm86.tensorrt.plan.json'
    """
    return plan_file.with_name(f"{plan_file.name}.json")


def kernel_cache_path(plan_file: Path) -> Path:
    """Return the path of the kernels that TensorRT-RTX has compiled for a plan.

    >>> kernel_cache_path(Path("model.fp16.sm86.tensorrt-rtx.plan")).name
    'model.fp16.sm86.tensorrt-rtx.plan.cache'
    """
    return plan_file.with_name(f"{plan_file.name}.cache")


def write_metadata(plan_file: Path, plan: PlanMetadata) -> None:
    """Write the metadata of `plan_file` to its sidecar."""
    write_json(metadata_path(plan_file), msgspec.to_builtins(plan))


def read_metadata(plan_file: Path) -> PlanMetadata:
    """Read the metadata of `plan_file` from its sidecar.

    >>> read_metadata(Path("my.plan"))
    Traceback (most recent call last):
        ...
    msal_deploy.errors.BadInput: my.plan has no metadata (my.plan.json is missing); rebuild the plan with: msal-deploy
    build-trt BUNDLE --rebuild

    Raises:
        BadInput: The sidecar is missing or invalid.
    """
    path = metadata_path(plan_file)
    try:
        plan = read_json(path, PlanMetadata, "valid plan metadata", REBUILD_ALL)
    except FileNotFoundError as error:
        raise BadInput(f"{plan_file} has no metadata ({path.name} is missing)", REBUILD_ALL) from error
    if plan.format_version != FORMAT_VERSION:
        cause = f"Expected format version {FORMAT_VERSION} in {path}, got {plan.format_version}"
        raise BadInput(cause, REBUILD_ALL)
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
    """Return the command that builds a plan, quoted for a shell.

    >>> build_command(Path("my bundle"), "fp16", gpu="rtx-3090", options=BuildOptions(tf32=True))
    "msal-deploy build-trt 'my bundle' --fp16 --gpu rtx-3090 --tf32"
    """
    words = ["msal-deploy build-trt", shlex.quote(str(bundle)), f"--{precision}"]
    words += [f"--gpu {shlex.quote(gpu)}"] if gpu else []
    words += [f"--backend {backend}"] if backend else []
    words += [part.options() for part in (profile, options) if part is not None]
    return " ".join(word for word in words if word)


def rebuild_remedy(bundle: Path, plan: PlanMetadata, profile: Profile | None = None) -> str:
    """Return the remedy for a plan that cannot be used: ``rebuild it with: msal-deploy build-trt …``."""
    return f"rebuild it with: {rebuild_command(bundle, plan, profile)}"


def rebuild_command(bundle: Path, plan: PlanMetadata, profile: Profile | None = None) -> str:
    """Return the command that rebuilds a plan, with `profile` instead of its own if one is given."""
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
    """Format N, H, W for a message.

    >>> format_shape((4, 512, 512))
    '4 × 512 × 512 px'
    """
    return f"{shape[0]} × {shape[1]} × {shape[2]} px"
