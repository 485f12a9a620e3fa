"""``msal-deploy report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A folder that run or validate --out wrote.", show_default=False),
    ],
    bench: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Show this report of bench --json, of the same bundle, from now on."),
    ] = None,
) -> None:
    """Rebuild DIR/report.html from DIR/report.json and DIR/pictures, without running an engine.

    The page is the same, byte for byte, as long as msal-deploy has the same version. Exit 0 whatever the verdict is.
    With --bench, the latencies are those of another run, such as one on the machine that the bundle is for.

    Example: msal-deploy report runs/shipped

    Example: msal-deploy report runs/shipped --bench bench.json
    """
    from msal_deploy.report import rebuild_report

    typer.echo(f"Report: {rebuild_report(folder) if bench is None else _with_bench(folder, bench)}")


def _with_bench(folder: Path, bench: Path) -> Path:
    """Put a bench report into a report folder; return the page."""
    import msgspec

    from msal_deploy.bench import read_report
    from msal_deploy.report import load_report, save_report

    content = msgspec.to_builtins(read_report(bench))
    return save_report(folder, msgspec.structs.replace(load_report(folder), bench=content))
