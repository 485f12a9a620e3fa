"""The command line. Each command is a module that imports its stage when it runs, so that ``--help`` is instant."""

from typing import Annotated

import typer

from msal_deploy import __version__
from msal_deploy.cli import bench, build_trt, data, doctor, export, package, predict, report, run, train, validate, view
from msal_deploy.cli.terminal import command_line, run_command_line

app = command_line(
    "Turn a nuclei-segmentation checkpoint into a fast inference engine, with its Dice score verified against PyTorch. "
    "Start with: msal-deploy run",
    "Exit codes: 0 done, 1 gate failed, 2 bad input or usage, 3 missing requirement, 70 internal fault, "
    "130 interrupted.",
)
app.command("run")(run.run)
app.command("train")(train.train)
app.command("export")(export.export)
app.command("build-trt")(build_trt.build_trt)
app.command("validate")(validate.validate)
app.command("bench")(bench.bench)
app.command("predict")(predict.predict)
app.command("package")(package.package)
app.command("report")(report.report)
app.command("view")(view.view)
app.command("doctor")(doctor.doctor)
app.add_typer(data.app, name="data")


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    run_command_line(app)
