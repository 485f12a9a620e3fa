"""``msal-deploy data``: check a set of images and annotations, or make a synthetic one."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Check a MoNuSeg copy, or make a synthetic set.", no_args_is_help=True)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Folder or zip with images and annotations.")],
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the report here.")] = None,
) -> None:
    """Check that every image and annotation can be read and that they belong together.

    Exits with 1 when something is wrong with the set.

    Example: msal-deploy data verify monuseg/ --json verify.json
    """
    from rich.console import Console

    from msal_deploy.data import verify as check
    from msal_deploy.errors import GateFailed
    from msal_deploy.files import write_json

    report = check(path, progress=True)
    Console().print(report.table())
    if json is not None:
        write_json(json, report.to_json())
    if not report.ok:
        first, *more = report.sentences
        raise GateFailed(f"{path} has {len(more) + 1} problem{'s' if more else ''}; the first: {first}")


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make; an older synthetic set is replaced.")],
    train: Annotated[int, typer.Option(min=0, help="Training images.")] = 8,
    test: Annotated[int, typer.Option(min=0, help="Test images.")] = 4,
    size: Annotated[int, typer.Option(min=256, help="Side of an image in pixels.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")] = 0,
) -> None:
    """Draw H&E-like images with exactly known nuclei, in MoNuSeg's own layout; free to use for anything (CC0).

    Example: msal-deploy data synthesize demo-data --train 8 --test 4
    """
    from rich.console import Console

    from msal_deploy.data import synthesize as draw

    draw(out, train=train, test=test, size=size, seed=seed)
    Console().print(f"{train} training and {test} test images in {out}", markup=False)
