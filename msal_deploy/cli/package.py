"""``msal-deploy package``."""

from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import BundlePath, Json


def package(
    bundle: BundlePath,
    host: Annotated[str, typer.Argument(help="build-kit, cpp, triton or bioimageio.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder to write; an older package is replaced.", show_default=False)
    ],
    precision: Annotated[
        str | None,
        typer.Option(
            help="Which graph of the bundle the host runs: fp32, fp16 or int8. Default: fp32; for build-kit, all that "
            "pay on the GPU."
        ),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="The GPU it will run on, such as gtx-1080-ti, or a .toml of your own.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="What Triton runs it in: tensorrt, onnxruntime or openvino (on the CPU). By default the bundle's "
            "plans, or else openvino.",
            show_default=False,
        ),
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option(help="Who bioimage.io is to name as the author; give it again for more.", show_default=False),
    ] = None,
    json: Json = None,
) -> None:
    """Write what another host needs to run the bundle, with golden tiles by which it proves itself.

    A folder to which files were added since it was written is left alone.

    Example: msal-deploy package bundle cpp --precision int8 --out segmenter
    """
    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json
    from msal_deploy.package import choose_options, write_package

    report = write_package(Bundle(bundle), host, out, choose_options(host, precision, gpu, backend, author or ()))
    typer.echo(f"{out}: {len(report.files)} files for {host}")
    typer.echo(report.next_step)
    if json:
        write_json(json, report.to_json())
