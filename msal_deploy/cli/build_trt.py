"""``msal-deploy build-trt``."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msal_deploy.cli.options import BundlePath, Json
from msal_deploy.errors import BadInput, MissingRequirement

if TYPE_CHECKING:
    from msal_deploy.build_trt import BuildReport
    from msal_deploy.bundle import Bundle
    from msal_deploy.trt.plan_metadata import BuildOptions, Profile, TrtBackendName


def build_trt(
    bundle: BundlePath,
    fp16: Annotated[bool, typer.Option("--fp16", help="Build the FP16 graph.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Build the INT8 graph.")] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Build the FP32 graph.")] = False,
    auto: Annotated[
        bool, typer.Option("--auto", help="Build the graph in the GPU's most preferred precision that the bundle has.")
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(help="Target GPU, such as rtx-3090, or a TOML file. Default: the local GPU."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="tensorrt, which builds on the target GPU itself, or tensorrt-rtx, which needs no GPU. Default: "
            "tensorrt if it and the GPU are available, otherwise tensorrt-rtx."
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Images per call: MIN:OPT:MAX, or one number.")] = "1:4:8",
    size: Annotated[
        str,
        typer.Option(help="Image size in pixels, SIDE or HEIGHTxWIDTH, in multiples of 32: MIN:OPT:MAX, or one size."),
    ] = "256:512:1024",
    workspace: Annotated[
        int | None, typer.Option(min=1, help="Maximum device memory for the workspace of one layer, in MiB.")
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible", help="Let later TensorRT releases of the same major version load the plan."
        ),
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Let GPUs of compute capability 8.0 and above load the plan.")
    ] = False,
    tf32: Annotated[bool, typer.Option("--tf32", help="Allow TF32 for FP32 layers (10-bit mantissa).")] = False,
    allow_wider: Annotated[
        bool,
        typer.Option("--allow-wider", help="Accept layers that are wider than in the graph, with a warning."),
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Rebuild every plan of the bundle that can no longer be used.")
    ] = False,
    json: Json = None,
) -> None:
    """Build a TensorRT plan from a graph of the bundle, and check that it computes in the requested precision.

    TensorRT builds on the target GPU itself; TensorRT-RTX builds for any RTX GPU on any machine.
    If the plan computes in another precision, it is saved with the suffix .rejected, and the command fails.

    Example: msal-deploy build-trt bundle --fp16 --gpu rtx-3090
    """
    from msal_deploy.bundle import Bundle
    from msal_deploy.trt.plan_metadata import BuildOptions

    opened = Bundle(bundle)
    precision = _precision({"fp16": fp16, "int8": int8, "fp32": fp32, "auto": auto, "rebuild": rebuild})
    if precision == "rebuild":
        _rebuild(opened, json)
    else:
        options = BuildOptions(workspace, version_compatible, hardware_compatible, tf32, allow_wider)
        _build(opened, precision, gpu, _backend(backend), parse_profile(batch, size), options, json)


def _precision(flags: dict[str, bool]) -> str:
    given = [name for name, is_given in flags.items() if is_given]
    if len(given) != 1:
        options = "--fp16, --int8, --fp32, --auto and --rebuild"
        raise BadInput(f"Expected exactly one of {options}, got {len(given)}", "choose one")
    return given[0]


def _backend(name: str | None) -> "TrtBackendName | None":
    from msal_deploy.trt.bindings import parse_backend

    return None if name is None else parse_backend(name)


def _build(
    bundle: "Bundle",
    precision: str,
    gpu: str | None,
    backend: "TrtBackendName | None",
    profile: "Profile",
    options: "BuildOptions",
    json: Path | None,
) -> None:
    from msal_deploy.build_trt import BuildRequest, build_trt, find_build_target, first_preferred
    from msal_deploy.files import write_json

    build_target = find_build_target(bundle.path, gpu, backend)
    chosen = first_preferred(bundle, build_target.target) if precision == "auto" else precision
    report = build_trt(bundle, BuildRequest(chosen, build_target, profile, options), progress=True)
    if json:
        write_json(json, report.to_json())
    _show(report)
    path = shlex.quote(str(bundle.path))
    typer.echo(f"Next: msal-deploy validate {path} --data DIR --engine {build_target.backend}:{chosen}")


def _show(report: "BuildReport") -> None:
    from rich.console import Console

    Console().print(report.table())
    for warning in report.warnings:
        typer.echo(f"Warning: {warning}", err=True)


def _rebuild(bundle: "Bundle", json: Path | None) -> None:
    """Rebuild the plans that can no longer be used. The first that this machine cannot build is reported at the end."""
    from msal_deploy.build_trt import build_trt
    from msal_deploy.build_trt.rebuild import find_stale
    from msal_deploy.files import write_json
    from msal_deploy.trt.plan_checks import plans

    stale, all_plans = find_stale(bundle), plans(bundle)
    built, errors = [], []
    for plan in stale:
        typer.echo(f"{plan.reason}: rebuilding it", err=True)
        try:
            report = build_trt(bundle, plan.request(bundle), progress=True)
        except MissingRequirement as error:
            errors.append(error)
            continue
        built.append(report)
    kept = [file.name for file in all_plans if file not in {plan.file for plan in stale}]
    if json:
        write_json(json, {"built": [report.to_json() for report in built], "kept": kept})
    for report in built:
        _show(report)
    typer.echo(f"{len(all_plans)} plans: {len(all_plans) - len(stale)} up to date, {len(built)} rebuilt")
    if errors:
        raise errors[0]


def parse_profile(batch: str, size: str) -> "Profile":
    """Read the options ``--batch`` and ``--size`` as MIN:OPT:MAX, or as one value for all three.

    >>> print(parse_profile("1:4:8", "768x512"))
    1 × 768 × 512 px to 8 × 768 × 512 px

    Raises:
        BadInput: One of them is neither.
    """
    from msal_deploy.cli.options import is_number, parse_size
    from msal_deploy.trt.plan_metadata import Profile

    batches, sizes = _three(batch, "batch"), [parse_size(part) for part in _three(size, "size")]
    if not all(is_number(part) for part in batches):
        raise BadInput(f"{batch!r} is not a batch", "write 4, or 1:4:8 for MIN:OPT:MAX")
    return Profile(*((int(count), height, width) for count, (height, width) in zip(batches, sizes, strict=True)))


def _three(text: str, what: str) -> list[str]:
    parts = text.split(":")
    if len(parts) not in (1, 3):
        raise BadInput(f"{text!r} is not a {what}", "write one value, or three as MIN:OPT:MAX")
    return parts * 3 if len(parts) == 1 else parts
