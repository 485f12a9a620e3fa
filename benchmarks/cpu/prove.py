"""Time the CPU engines and compare them with the limit of this machine.

Example: python benchmarks/cpu/prove.py run bundle --json proof.json --plot proof.png
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import BundlePath
from msal_deploy.cli.terminal import command_line, run_command_line
from msal_deploy.errors import BadInput
from msal_deploy.hardware import available_cores

app = command_line("Time the CPU engines and compare them with the limit of this machine.")
FORMATS = (".png", ".svg", ".pdf")


@app.command()
def run(
    bundle: BundlePath,
    size: Annotated[int, typer.Option(help="Side of the image in pixels, a multiple of 32.")] = 512,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of every measurement. Default: all cores.", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.001, max=600, help="Length of a time window in seconds.")] = 3.0,
    windows: Annotated[int, typer.Option(min=5, help="Number of interleaved time windows.")] = 5,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file as JSON.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw the results into this file (PNG, SVG or PDF).")
    ] = None,
) -> None:
    """Time every CPU engine and the limit of this machine in one run, and check the claim.

    A claim that is not met is reported and is not an error, because it depends on the CPU.

    Example: python benchmarks/cpu/prove.py run bundle --json proof.json --plot proof.png
    """
    if plot and plot.suffix not in FORMATS:
        raise BadInput(f"{plot.name} is not a supported image file", f"use the suffix {', '.join(FORMATS)}")
    from bars import save_bars
    from cpu_timing import measure
    from rich.console import Console

    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json

    results = measure(
        Bundle(bundle),
        size=size,
        threads=threads or available_cores(),
        seconds=seconds,
        windows=windows,
        progress=True,
    )
    console = Console(highlight=False)
    console.print(results.table())
    console.print(*results.messages(), sep="\n")
    if json:
        write_json(json, results.to_json())
    if plot:
        save_bars(results, plot)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # otherwise torch:fp32 would use a GPU
    run_command_line(app)
