"""Find a bundle's plan for a GPU, and check that the plan can be used before TensorRT loads it.

TensorRT reports most mismatches as an error number, or computes a wrong result. `preflight` reads the plan's metadata
instead, and its errors name the command that rebuilds the plan.
"""

from contextlib import suppress
from pathlib import Path

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.trt.plan_metadata import (
    REBUILD_ALL,
    PlanMetadata,
    Shape,
    build_command,
    format_shape,
    metadata_path,
    plan_name,
    read_metadata,
    rebuild_remedy,
)
from msal_deploy.versions import parse_version


def plans(bundle: Bundle) -> tuple[Path, ...]:
    """Return the plans of a bundle, sorted by name.

    >>> plans(Bundle(Path("bundle")))
    ()
    """
    return tuple(sorted(file for file in bundle.path.glob("*.plan") if not file.name.startswith(".")))


def read_plan(bundle: Bundle, plan_file: Path) -> PlanMetadata:
    """Read the metadata of a bundle's plan.

    The manifest lists the plans of ``build-trt`` with their sidecars, and what it lists must not have changed. For a
    plan that was copied into the bundle from a build kit, the sidecar stands alone.

    Raises:
        BadInput: The sidecar is missing, invalid or changed, or belongs to another plan than the manifest lists.
    """
    sidecar = metadata_path(plan_file)
    if sidecar.name in bundle and sidecar.is_file():
        try:
            bundle.file(sidecar.name)
        except BadInput as error:
            raise BadInput(error.cause, REBUILD_ALL) from error
    plan = read_metadata(plan_file)
    listed = bundle.manifest.artifacts.get(plan_file.name)
    if listed and listed.sha256 != plan.plan_sha256:
        raise BadInput(f"{sidecar} describes another plan than the manifest lists", REBUILD_ALL)
    return plan


def listed_plan(bundle: Bundle, plan_file: Path) -> tuple[Path, Path]:
    """Return a plan and its sidecar, both as the manifest lists them. Only such plans go into a package.

    Raises:
        BadInput: The manifest does not list them, or they cannot be used.
    """
    preflight(plan_file, bundle)
    names = (plan_file.name, metadata_path(plan_file).name)
    if missing := [name for name in names if name not in bundle]:
        raise BadInput(
            f"{bundle.path / missing[0]} is not in the manifest of {bundle.path}",
            "add plans of a build kit with its kit.py add, or move the plan out of the bundle",
        )
    plan, sidecar = (bundle.file(name) for name in names)
    return plan, sidecar


def find_plan(bundle: Bundle, precision: str, backend: str, sm: str) -> Path:
    """Return the plan of a bundle for one precision, backend and compute capability.

    A plan for exactly this compute capability is preferred to a hardware-compatible one.

    >>> find_plan(Bundle(Path("bundle")), "fp16", "tensorrt", "8.6")
    Traceback (most recent call last):
        ...
    msal_deploy.errors.BadInput: bundle has no fp16 plan for tensorrt and compute capability 8.6; build one with:
    msal-deploy build-trt bundle --fp16 --backend tensorrt

    Raises:
        BadInput: The bundle has no such plan.
    """
    path = bundle.path / plan_name(precision, backend, (sm,))
    if path.is_file():
        return path
    others = [plan for plan in plans(bundle) if plan.name.endswith(f".{backend}.plan")]
    for plan in others:
        if plan.name.startswith(f"model.{precision}.") and _supports(bundle, plan, sm):
            return plan
    listed = f" (found: {', '.join(plan.name for plan in others)})" if others else ""
    raise BadInput(
        f"{bundle.path} has no {precision} plan for {backend} and compute capability {sm}{listed}",
        f"build one with: {build_command(bundle.path, precision, backend=backend)}",
    )


def _supports(bundle: Bundle, plan_file: Path, sm: str) -> bool:
    with suppress(BadInput):  # its metadata is not readable: report that this GPU has no plan
        return not _check_gpu(read_plan(bundle, plan_file), sm)
    return False


def preflight(
    plan_file: Path,
    bundle: Bundle,
    *,
    backend_version: str | None = None,
    sm: str | None = None,
    shape: Shape | None = None,
) -> PlanMetadata:
    """Check that a plan can be used, and return its metadata.

    ::

        plan = preflight(plan_file, bundle, backend_version="10.4.0", sm="8.6", shape=(4, 512, 512))

    Args:
        plan_file: The plan.
        bundle: The bundle that holds it.
        backend_version: Version of the TensorRT that will load it; None skips this check.
        sm: Compute capability of the GPU that will run it; None skips this check.
        shape: N, H, W of the images; None skips this check.

    Raises:
        BadInput: The plan is missing, truncated or changed, or was built for another graph, TensorRT, GPU or shape.
    """
    if not plan_file.is_file():
        raise BadInput(f"{plan_file} does not exist", f"build one with: {build_command(bundle.path, 'auto')}")
    plan = read_plan(bundle, plan_file)
    reason = (
        _check_name(plan_file, plan)
        or _check_bytes(plan_file, plan)
        or _check_graph(bundle, plan)
        or (backend_version and _check_version(plan, backend_version))
        or (sm and _check_gpu(plan, sm))
    )
    if reason:
        raise BadInput(f"{plan_file} {reason}", rebuild_remedy(bundle.path, plan))
    if shape:
        check_shape(plan_file, bundle, plan, shape)
    return plan


def check_shape(plan_file: Path, bundle: Bundle, plan: PlanMetadata, shape: Shape) -> None:
    """Raise `BadInput` unless a plan accepts images of `shape` (N, H, W)."""
    if plan.profile.accepts(shape):
        return
    cause = f"{plan_file} accepts {plan.profile}, not {format_shape(shape)}"
    raise BadInput(cause, rebuild_remedy(bundle.path, plan, plan.profile.widened(shape)))


# Each check returns why the plan cannot be used, as the rest of a sentence that starts with its path; empty if it can.
# engines/cpp/src/plan_metadata.cpp has the same checks and messages.


def _check_name(plan_file: Path, plan: PlanMetadata) -> str:
    """A plan is found by its name, so a renamed copy would run as something that it is not."""
    start, end = f"model.{plan.requested}.", f".{plan.backend}.plan"
    good = plan_file.name.startswith(start) and plan_file.name.endswith(end)
    return "" if good else f"was built in {plan.requested} by {plan.backend}, not what its name says"


def _check_bytes(plan_file: Path, plan: PlanMetadata) -> str:
    size = plan_file.stat().st_size
    if size != plan.bytes:
        change = "is truncated" if size < plan.bytes else "is larger than when it was built"
        return f"{change} ({size:,} bytes, expected {plan.bytes:,})"
    return "" if sha256(plan_file) == plan.plan_sha256 else "has changed since it was built (SHA-256 differs)"


def _check_graph(bundle: Bundle, plan: PlanMetadata) -> str:
    entry = bundle.manifest.artifacts.get(plan.graph)
    if entry is None:
        return f"was built from {plan.graph}, which is not in {bundle.path}"
    return "" if entry.sha256 == plan.graph_sha256 else f"was built from a different {plan.graph}"


def _check_version(plan: PlanMetadata, version: str) -> str:
    return "" if loads(plan, version) else f"was built by {plan.backend} {plan.backend_version}, not {version}"


def loads(plan: PlanMetadata, version: str) -> bool:
    """Return whether this version of the plan's TensorRT loads it; text that is not a version loads nothing."""
    built, current = parse_version(plan.backend_version), parse_version(version)
    later = plan.options.version_compatible and current[:1] == built[:1] and current >= built
    return bool(built and current) and (current == built or later)


def _check_gpu(plan: PlanMetadata, sm: str) -> str:
    compatible = plan.options.hardware_compatible and parse_version(sm) >= (8, 0)
    return "" if sm in plan.sm or compatible else f"was built for compute capability {', '.join(plan.sm)}, not {sm}"
