"""``msal-deploy report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A folder that run or validate --out wrote.", show_default=False),
    ],
) -> None:
    """Rebuild DIR/report.html from DIR/report.json and DIR/pictures, without running an engine.

    The page is the same, byte for byte, as long as msal-deploy has the same version. Exit 0 whatever the verdict is.

    Example: msal-deploy report runs/shipped
    """
    from msal_deploy.report import rebuild_report

    typer.echo(f"Report: {rebuild_report(folder)}")
