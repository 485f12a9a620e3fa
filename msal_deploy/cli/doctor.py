"""``msal-deploy doctor``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msal_deploy.cli.options import Json, output
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from msal_deploy.targets import Target


def doctor(
    gpu: Annotated[
        str | None,
        typer.Option(
            help="GPU to check for, such as gtx-1080-ti, or your own .toml file. Default: this machine's GPU."
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Also estimate this bundle's graphs on the GPU (or all GPUs) and check their operators."),
    ] = None,
    requirements: Annotated[
        Path | None, typer.Option(help="Write compatible versions to this requirements file.", callback=output)
    ] = None,
    dockerfile: Annotated[
        Path | None, typer.Option(help="Write a Dockerfile with these versions.", callback=output)
    ] = None,
    compose: Annotated[
        Path | None, typer.Option(help="Write a Docker Compose file for that Dockerfile.", callback=output)
    ] = None,
    json: Json = None,
) -> None:
    """Check this machine and print versions that work together; exit 3 if it does not meet the requirements of --gpu.

    Example: msal-deploy doctor --gpu gtx-1080-ti --requirements requirements.txt --dockerfile Dockerfile
    """
    from rich.console import Console

    from msal_deploy.bundle import Bundle
    from msal_deploy.doctor import compose_file, doctor
    from msal_deploy.doctor import dockerfile as docker_file
    from msal_deploy.doctor import requirements as pip_file
    from msal_deploy.files import atomic_file, write_json

    outputs = [path for path in (requirements, dockerfile, compose, json) if path]
    if len(set(outputs)) < len(outputs):
        raise BadInput("Two options name the same file", "give each its own")
    report = doctor(gpu, Bundle(bundle) if bundle else None)
    makers = {requirements: pip_file, dockerfile: docker_file, compose: compose_file}
    files = {path: make(_required(report.target)) for path, make in makers.items() if path}
    if json:
        write_json(json, report.to_json())
    for path, text in files.items():
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    Console().print(report.table())
    report.require_target(requirements, dockerfile)


def _required(target: "Target | None") -> "Target":
    if target is None:
        raise BadInput("No supported GPU found", "choose one with --gpu")
    return target
