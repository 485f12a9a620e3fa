"""How well touching nuclei are separated, which parameters do it best, what limits it, and how long it takes.

Example: python benchmarks/instances/instances.py run bundle --data monuseg --engine openvino:int8 --json instances.json
"""

from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import BundlePath
from msal_deploy.cli.terminal import command_line, run_command_line

app = command_line("Score the separation of touching nuclei on labelled images.")


@app.command()
def run(
    bundle: BundlePath,
    data: Annotated[
        list[str],
        typer.Option(
            "--data", help="A folder or zip with images and labels; repeatable. NAME=PATH names it.", show_default=False
        ),
    ],
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", help="Repeatable; the first compares parameters. Default: openvino:int8."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each test image is timed.")] = 5,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file as JSON.")] = None,
) -> None:
    """Compare parameters on held-out training images; then score, explain and time the default on test images.

    Example: python benchmarks/instances/instances.py run bundle --data monuseg --data consep --json instances.json
    """
    from measure_instances import measure
    from rich.console import Console

    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json

    results = measure(Bundle(bundle), data, engine or ["openvino:int8"], repeats)
    if json:
        write_json(json, results.to_json())
    console = Console(highlight=False)
    console.print(*results.tables(), sep="\n")


if __name__ == "__main__":
    run_command_line(app)
