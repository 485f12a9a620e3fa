"""``msal-deploy package``."""

from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import BundlePath, Json, parse_size


def package(
    bundle: BundlePath,
    integration: Annotated[
        str,
        typer.Argument(metavar="INTEGRATION", help="build-kit, cpp, triton, bioimageio or onnx.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder to write; an older package is replaced.", show_default=False)
    ],
    precision: Annotated[
        str | None,
        typer.Option(
            help="The graph to package: fp32, fp16 or int8. Default: fp32; for build-kit, every preferred "
            "precision of the GPU."
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="The GPU to package for, such as gtx-1080-ti, or your own target as a .toml file."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Triton's backend: tensorrt, onnxruntime or openvino (CPU only). Default: tensorrt if --gpu is given "
            "or the bundle has plans, else openvino.",
            show_default=False,
        ),
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option(help="Author to name on bioimage.io; repeat it for several.", show_default=False),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Image size in pixels that Triton computes before it is ready, so that the first request does not "
            "wait: a side, or HEIGHTxWIDTH; repeat it for several. 512 always is, if the model accepts it.",
            show_default=False,
        ),
    ] = None,
    io: Annotated[
        str | None,
        typer.Option(
            help="What the graph of an onnx package takes: uint8-nhwc, or float32-nchw for hosts that normalise images "
            "themselves. Default: uint8-nhwc.",
            show_default=False,
        ),
    ] = None,
    torch_python: Annotated[
        Path | None,
        typer.Option(
            help="Python of an environment with an older torch, which then writes bioimage.io's TorchScript: QuPath "
            "runs no newer file than its own torch can read.",
            show_default=False,
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Package a bundle for another runtime (C++, Triton, bioimage.io, TensorRT build kit, plain ONNX), with reference
    tiles to test it.

    An older package at --out is replaced, unless other files were added to it.

    Example: msal-deploy package bundle cpp --precision int8 --out segmenter
    """
    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json
    from msal_deploy.package import choose_options, write_package

    sizes = map(parse_size, size or ())
    options = choose_options(integration, precision, gpu, backend, author or (), sizes, io, torch_python)
    report = write_package(Bundle(bundle), integration, out, options)
    if json:
        write_json(json, report.to_json())
    typer.echo(f"{out}: {len(report.files)} files for {integration}")
    typer.echo(report.next_step)
