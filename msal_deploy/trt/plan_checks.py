"""Find the plan of a bundle for a GPU, and check that it can be used before TensorRT loads it.

TensorRT reports most mismatches as an error number, or computes something else; `preflight` reads the metadata instead
and says which command rebuilds the plan.
"""

from contextlib import suppress
from pathlib import Path

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.trt.plan_metadata import (
    PlanMetadata,
    Shape,
    build_command,
    format_shape,
    plan_name,
    read_metadata,
    rebuild_command,
)
from msal_deploy.versions import parse_version


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
        f"{bundle.path} has no {precision} plan of {backend} for compute capability {sm}"
        f"{' (it has ' + ', '.join(others) + ')' if others else ''}; "
        f"build it with: {build_command(bundle.path, precision, backend=backend)}"
    )


def _serves(plan_file: Path, sm: str) -> bool:
    with suppress(BadInput):  # a sidecar that cannot be read: the plan for this GPU is what is missing
        return not _wrong_gpu(read_metadata(plan_file), sm)
    return False


def preflight(
    plan_file: Path,
    bundle: Bundle,
    *,
    backend_version: str | None = None,
    sm: str | None = None,
    shape: Shape | None = None,
) -> PlanMetadata:
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
    plan = read_metadata(plan_file)
    command = rebuild_command(bundle.path, plan)
    wrong = (
        _wrong_name(plan_file, plan)
        or _wrong_bytes(plan_file, plan)
        or _wrong_graph(bundle, plan)
        or (backend_version and _wrong_version(plan, backend_version))
        or (sm and _wrong_gpu(plan, sm))
    )
    if wrong:
        raise BadInput(f"{plan_file} {wrong}; build it again with: {command}")
    if shape:
        check_shape(plan_file, bundle, plan, shape)
    return plan


def check_shape(plan_file: Path, bundle: Bundle, plan: PlanMetadata, shape: Shape) -> None:
    """Raise `BadInput` unless `plan` takes images of `shape` (N, H, W)."""
    if plan.profile.accepts(shape):
        return
    command = rebuild_command(bundle.path, plan, plan.profile.widened(shape))
    raise BadInput(
        f"{plan_file} takes {plan.profile} and not {format_shape(shape)}; build it for that too with: {command}"
    )


def _wrong_name(plan_file: Path, plan: PlanMetadata) -> str:
    """A plan is found by its name, so a copy under another name would be run as something that it is not."""
    start, end = f"model.{plan.requested}.", f".{plan.backend}.plan"
    good = plan_file.name.startswith(start) and plan_file.name.endswith(end)
    return "" if good else f"was built in {plan.requested} by {plan.backend}"


def _wrong_bytes(plan_file: Path, plan: PlanMetadata) -> str:
    size = plan_file.stat().st_size
    if size != plan.bytes:
        what = "truncated" if size < plan.bytes else "not the plan that was built"
        return f"has {size:,} bytes and should have {plan.bytes:,}: it is {what}"
    return "" if sha256(plan_file) == plan.plan_sha256 else "was changed after it was built (SHA-256 differs)"


def _wrong_graph(bundle: Bundle, plan: PlanMetadata) -> str:
    entry = bundle.manifest.artifacts.get(plan.graph)
    if entry is None:
        return f"was built from {plan.graph}, which {bundle.path} does not hold"
    return "" if entry.sha256 == plan.graph_sha256 else f"was built from another {plan.graph} than the bundle's"


def _wrong_version(plan: PlanMetadata, version: str) -> str:
    built, here = parse_version(plan.backend_version), parse_version(version)
    later = plan.options.version_compatible and here[0] == built[0] and here >= built
    return "" if here == built or later else f"was built by {plan.backend} {plan.backend_version} and not {version}"


def _wrong_gpu(plan: PlanMetadata, sm: str) -> str:
    ampere = plan.options.hardware_compatible and parse_version(sm) >= (8, 0)
    return "" if sm in plan.sm or ampere else f"was built for compute capability {', '.join(plan.sm)} and not {sm}"
