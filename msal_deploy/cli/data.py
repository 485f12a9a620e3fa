"""``msal-deploy data``: check a data set, or write a synthetic one."""

from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import Json, LabelFolder

app = typer.Typer(help="Check a data set, or write a synthetic one.", no_args_is_help=True)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A folder or zip with images and annotations.")],
    labels: LabelFolder = None,
    json: Json = None,
) -> None:
    """Check that every image and annotation can be read and that they belong together.

    Names of folders decide: train or test, images, and labels or masks. Files of one name belong together; outlines
    (Aperio XML) may be beside the images. Labels that are not where the nuclei are, or that are blurred, resized,
    inverted or empty, are a problem. Exit code 1 if the data set has one.

    Example: msal-deploy data verify monuseg/ --json verify.json

    Example: msal-deploy data verify nuinsseg/ --labels "label masks"
    """
    from rich.console import Console

    from msal_deploy import data
    from msal_deploy.errors import GateFailed
    from msal_deploy.files import write_json

    report = data.verify(path, labels=labels, progress=True)
    if json:
        write_json(json, report.to_json())
    Console().print(report.table())
    if not report.ok:
        count = len(report.messages)
        raise GateFailed(f"{path} has {count} problem{'s' if count > 1 else ''}, the first: {report.messages[0]}")


@app.command()
def synthesize(
    out: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder to write; an older synthetic data set is replaced.")
    ],
    train: Annotated[int, typer.Option(min=0, max=100_000, help="Number of training images.")] = 23,
    test: Annotated[int, typer.Option(min=0, max=100_000, help="Number of test images.")] = 8,
    size: Annotated[int, typer.Option(min=256, max=65_536, help="Height and width of an image in pixels.")] = 512,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Random seed; the same seed gives the same files.")
    ] = 0,
) -> None:
    """Write synthetic H&E-like images with exactly known nuclei, in MoNuSeg's layout. Licence: CC0.

    Example: msal-deploy data synthesize demo-data --train 8 --test 8
    """
    from rich.console import Console

    from msal_deploy import data

    data.synthesize(out, train=train, test=test, size=size, seed=seed)
    Console().print(f"Wrote {train} training and {test} test images to {out}", markup=False)
