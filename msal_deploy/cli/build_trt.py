"""``msal-deploy build-trt``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from msal_deploy.cli.options import BundlePath, Json
from msal_deploy.errors import BadInput, MissingRequirement, suggest

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
        bool, typer.Option("--auto", help="Build the graph that pays most on the GPU, of those that the bundle has.")
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(help="The GPU that the plan is for, such as rtx-3090, or a TOML file. Default: the one here."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="tensorrt, which builds on the GPU itself, or tensorrt-rtx, which needs none. Default: tensorrt where "
            "it and the GPU are here, else tensorrt-rtx."
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Images a call, MIN:OPT:MAX, or one number.")] = "1:4:8",
    size: Annotated[
        str, typer.Option(help="Side in pixels or HEIGHTxWIDTH, MIN:OPT:MAX, or one size; multiples of 32.")
    ] = "256:512:1024",
    workspace: Annotated[
        int | None, typer.Option(min=1, help="MiB of the GPU's memory that one layer may use for itself.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Later TensorRT of the same major version may load it.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="GPUs of compute capability 8.0 and above may load it.")
    ] = False,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let FP32 be TF32, which keeps ten bits of the mantissa.")
    ] = False,
    allow_wider: Annotated[
        bool, typer.Option("--allow-wider", help="Accept layers computed wider than the graph says; they are named.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build every plan of the bundle again that can no longer be used.")
    ] = False,
    json: Json = None,
) -> None:
    """Build a TensorRT plan from a graph of the bundle, and prove that it computes in the precision asked for.

    TensorRT builds on the GPU that the plan is for; TensorRT-RTX builds for any RTX GPU on any machine.
    A plan that does not compute as its graph says is kept aside, and the command fails.

    Example: msal-deploy build-trt bundle --fp16 --gpu rtx-3090
    """
    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json
    from msal_deploy.trt.plan_metadata import BuildOptions

    opened = Bundle(bundle)
    precision = _precision({"fp16": fp16, "int8": int8, "fp32": fp32, "auto": auto, "rebuild": rebuild})
    if precision == "rebuild":
        report: dict[str, Any] = _rebuild(opened)
    else:
        options = BuildOptions(workspace, version_compatible, hardware_compatible, tf32, allow_wider)
        report = _build(opened, precision, gpu, _backend(backend), parse_profile(batch, size), options)
    if json:
        write_json(json, report)


def _precision(flags: dict[str, bool]) -> str:
    given = [name for name, is_given in flags.items() if is_given]
    if len(given) != 1:
        raise BadInput("Give exactly one of --fp16, --int8, --fp32, --auto and --rebuild")
    return given[0]


def _backend(name: str | None) -> "TrtBackendName | None":
    from msal_deploy.trt.bindings import TRT_BACKENDS

    if name is not None and name not in TRT_BACKENDS:
        raise BadInput(f"No backend is called {name!r}; {suggest(name, TRT_BACKENDS)}")
    return name


def _build(
    bundle: "Bundle",
    precision: str,
    gpu: str | None,
    backend: "TrtBackendName | None",
    profile: "Profile",
    options: "BuildOptions",
) -> dict[str, Any]:
    from msal_deploy.build_trt import BuildRequest, build_trt, find_build_target, first_preferred

    build_target = find_build_target(bundle.path, gpu, backend)
    chosen = first_preferred(bundle, build_target.target) if precision == "auto" else precision
    report = build_trt(bundle, BuildRequest(chosen, build_target, profile, options), progress=True)
    _show(report)
    typer.echo(f"Next: msal-deploy validate {bundle.path} --data DIR --engine {build_target.backend}:{chosen}")
    return report.to_json()


def _show(report: "BuildReport") -> None:
    from rich.console import Console

    Console().print(report.table())
    for warning in report.warnings:
        typer.echo(f"Warning: {warning}", err=True)


def _rebuild(bundle: "Bundle") -> dict[str, Any]:
    """Build again what can no longer be used; what cannot be built here is named at the end."""
    from msal_deploy.build_trt import build_trt
    from msal_deploy.build_trt.rebuild import find_stale
    from msal_deploy.trt.plan_checks import plans

    stale, all_plans = find_stale(bundle), plans(bundle)
    built, left = [], []
    for plan in stale:
        typer.echo(f"{plan.why}: building it again", err=True)
        try:
            report = build_trt(bundle, plan.request(bundle), progress=True)
        except MissingRequirement as error:
            left.append(error)
            continue
        _show(report)
        built.append(report.to_json())
    typer.echo(f"{len(all_plans)} plans: {len(all_plans) - len(stale)} can be used, {len(built)} were built again")
    if left:
        raise left[0]
    return {"built": built, "kept": [file.name for file in all_plans if file not in {plan.file for plan in stale}]}


def parse_profile(batch: str, size: str) -> "Profile":
    """Read ``1:4:8`` and ``256:512:1024`` (or ``4`` and ``768x512``) as the smallest, the usual and the largest shape.

    Raises:
        BadInput: they are something else.
    """
    from msal_deploy.cli.options import parse_size
    from msal_deploy.trt.plan_metadata import Profile

    batches, sizes = _three(batch, "batch"), [parse_size(part) for part in _three(size, "size")]
    if not all(part.isdecimal() for part in batches):
        raise BadInput(f"{batch!r} is no batch; write 4, or 1:4:8 for the smallest, the usual and the largest")
    return Profile(*((int(number), height, width) for number, (height, width) in zip(batches, sizes, strict=True)))


def _three(text: str, what: str) -> list[str]:
    parts = text.split(":")
    if len(parts) not in (1, 3):
        raise BadInput(f"{text!r} is no {what}; write one, or three as MIN:OPT:MAX")
    return parts * 3 if len(parts) == 1 else parts
