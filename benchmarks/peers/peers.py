"""Compare our figures with those of others: bare loops in the same process, and the runtimes' own tools.

Example: python benchmarks/peers/peers.py run bundle --json peers.json
Example: python benchmarks/peers/peers.py overhead bundle --json overhead.json
"""

from typing import Annotated

import typer

from msal_deploy.cli.options import BundlePath, Json, Seconds
from msal_deploy.cli.terminal import command_line, run_command_line
from msal_deploy.errors import BadInput, suggest
from msal_deploy.hardware import available_cores

app = command_line("Compare our figures with those of others: bare loops, and the runtimes' own tools.")
Size = Annotated[int, typer.Option(help="Side of the image in pixels, a multiple of 32.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of every measurement. Default: all cores.", show_default=False)
]
Named = Annotated[list[str] | None, typer.Option("--engine", "-e", help="An engine of ours; repeatable.")]


@app.command()
def run(
    bundle: BundlePath,
    engine: Named = None,
    size: Size = 512,
    threads: Threads = None,
    seconds: Seconds = 2.0,
    turns: Annotated[int, typer.Option(min=2, max=1000, help="Processes of each side.")] = 5,
    json: Json = None,
) -> None:
    """Run `msal-deploy bench` and the tools of others in turns, a process each: do the figures agree within 5%?

    A figure that differs is reported, with what the tool leaves out or adds; it is not an error.

    Example: python benchmarks/peers/peers.py run bundle --json peers.json
    """
    from peer_results import compare
    from peer_tools import BENCH
    from rich.console import Console

    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json

    engines = engine or ["openvino:int8", "onnxruntime:int8", "tensorrt:int8"]
    for one in engines:
        if one.partition(":")[0] not in BENCH.runtimes:
            raise BadInput(f"No tool times {one}", suggest(one, (f"{name}:int8" for name in BENCH.runtimes)))
    results = compare(
        Bundle(bundle), engines, size=size, threads=threads or available_cores(), seconds=seconds, turns=turns,
        progress=True,
    )  # fmt: skip
    if json:
        write_json(json, results.to_json())
    console = Console(highlight=False)
    console.print(results.table())
    console.print(*results.messages(), sep="\n", markup=False, soft_wrap=True)


@app.command()
def overhead(
    bundle: BundlePath,
    engine: Named = None,
    size: Size = 512,
    threads: Threads = None,
    pairs: Annotated[int, typer.Option(min=5, max=100_000, help="Pairs of single runs of each engine.")] = 40,
    json: Json = None,
) -> None:
    """Time our engines and bare loops over the same graphs in pairs of single runs: are ours within 3%?

    A claim that is not met is reported and is not an error.

    Example: python benchmarks/peers/peers.py overhead bundle --json overhead.json
    """
    from bare_loops import ENGINES
    from rich.console import Console
    from wrapper_overhead import measure_overheads

    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json

    for one in engine or ():
        if one not in ENGINES:
            raise BadInput(f"There is no bare loop of {one}", suggest(one, ENGINES))
    results = measure_overheads(
        Bundle(bundle), engine or ENGINES, size=size, threads=threads or available_cores(), pairs=pairs, progress=True
    )
    if json:
        write_json(json, results.to_json())
    console = Console(highlight=False)
    console.print(results.table())
    console.print(*results.messages(), sep="\n", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_command_line(app)
