"""How fast the CPU engines are, and how fast this machine allows them to be.

Example: python benchmarks/cpu/prove.py run bundle --json proof.json --plot proof.png
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import BundlePath
from msal_deploy.cli.terminal import command_line, exit_cleanly_on_sigterm
from msal_deploy.errors import BadInput

app = command_line("How fast the CPU engines are, and how fast this machine allows them to be.")
PICTURES = (".png", ".svg", ".pdf")


@app.command()
def run(
    bundle: BundlePath,
    size: Annotated[int, typer.Option(help="Side of the image in pixels, a multiple of 32.")] = 512,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of everything. Default: all cores.", show_default=False)
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.001, max=600, help="Length of a time window.")] = 3.0,
    windows: Annotated[int, typer.Option(min=5, help="Time windows; everything takes turns, window by window.")] = 5,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw them into this file (PNG, SVG, PDF).")] = None,
) -> None:
    """Time every CPU engine, a bare OpenVINO loop and the machine's own limit in one run, and judge the claims.

    A claim that is not met is said, with what was found, and is no error: it depends on the chip.

    Example: python benchmarks/cpu/prove.py run bundle --json proof.json --plot proof.png
    """
    if plot and plot.suffix not in PICTURES:
        raise BadInput(f"{plot.name} is no kind of picture that can be drawn; let it end in {', '.join(PICTURES)}")
    from bars import save_bars
    from contest import measure
    from rich.console import Console

    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json

    proof = measure(
        Bundle(bundle),
        size=size,
        threads=threads or len(os.sched_getaffinity(0)),
        seconds=seconds,
        windows=windows,
        progress=True,
    )
    console = Console(highlight=False)
    console.print(proof.table())
    console.print(*proof.sentences(), sep="\n")
    if json:
        write_json(json, proof.to_json())
    if plot:
        save_bars(proof, plot)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # torch:fp32 would take a GPU
    exit_cleanly_on_sigterm()
    app()
