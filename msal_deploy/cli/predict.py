"""``msal-deploy predict``."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import Json, Threads, finite


def predict(
    images: Annotated[
        list[Path], typer.Argument(help="Images and slides, or folders of OME-Zarr.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the results; a run in it goes on.", show_default=False)
    ],
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", "-b", help="A bundle written by export. Default: the weights of the package."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", "-e", help="Such as openvino:int8. Default: the bundle's fastest CPU engine."),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=100,
            callback=finite,
            help="µm per pixel of the images. Default: what the file says, or the model's.",
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option("--format", help="Of geojson, geojson.gz, parquet, ome-zarr, tiff and png, separated by commas."),
    ] = "geojson,png",
    tile: Annotated[
        int | None,
        typer.Option(
            min=32,
            max=8192,
            help="Side of a tile in pixels, a multiple of 32. Default: 512, or up to 640 where these are fewer pixels.",
        ),
    ] = None,
    overlap: Annotated[int, typer.Option(min=0, max=4096, help="Pixels that neighbouring tiles share.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Tiles in each call of the engine.")] = 1,
    threads: Threads = None,
    workers: Annotated[int | None, typer.Option(min=1, max=1024, help="Processes of a local Dask cluster.")] = None,
    dask: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, instead of --workers.")] = None,
    json: Json = None,
) -> None:
    """Find the nuclei in images and whole slides.

    Writes outlines and features of all nuclei, pictures, and an index.html that shows them. The same command resumes a
    run that was interrupted. Exit 1 if an image, or a part of one, could not be read; the others are complete.

    Example: msal-deploy predict slide.svs --out nuclei --format geojson,parquet,png

    Example: msal-deploy predict docs/images/tissue.png --mpp 0.5 --out nuclei
    """
    from rich.console import Console

    from msal_deploy.bundle import Bundle
    from msal_deploy.errors import BadInput
    from msal_deploy.files import write_json
    from msal_deploy.prediction import predict_all

    if workers and dask:
        raise BadInput("--workers and --dask exclude each other", "give one of them")
    report = predict_all(
        images,
        out,
        bundle=Bundle(bundle) if bundle else None,
        engine=engine,
        mpp=mpp,
        formats=[name.strip() for name in formats.split(",") if name.strip()] or [formats],
        threads=threads,
        tile=tile,
        overlap=overlap,
        batch=batch,
        workers=workers,
        dask=dask,
        progress=True,
    )
    if json:
        write_json(json, report.to_json())
    Console().print(report.table())
    for name, record in report.slides.items():
        for note in record.notes:
            typer.echo(f"{name}: {note}", err=True)
    typer.echo(f"Open {out / 'index.html'}, or: msal-deploy view {shlex.quote(str(out))}")
    report.require_passed()
