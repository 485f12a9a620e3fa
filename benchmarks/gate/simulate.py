"""How often is the gate right? Type-I error and power on simulated sets whose true loss is known.

Example: python benchmarks/gate/simulate.py --json gate.json --plot gate.png
"""

from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import Plot
from msal_deploy.cli.terminal import command_line, run_command_line

app = command_line("Measure how often the verdict is right, on simulated sets whose true loss is known.")
OBSERVED = Path(__file__).parents[1] / "results" / "2026-11-26-epyc-2-cores-validate-r34.json"


@app.command()
def run(
    sets: Annotated[int, typer.Option(min=100, help="Simulated sets of each cell.")] = 10_000,
    other_sets: Annotated[int, typer.Option(min=100, help="The same for the bounds to compare with.")] = 4_000,
    observed: Annotated[
        Path, typer.Option(help="JSON of `msal-deploy validate`; the spread between images is its INT8 engines'.")
    ] = OBSERVED,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file as JSON.")] = None,
    plot: Plot = None,
) -> None:
    """Simulate every cell, and print how often an engine at the budget passes, and one that loses nothing.

    Example: python benchmarks/gate/simulate.py --json gate.json --plot gate.png
    """
    from gate_plot import save_plot
    from gate_tables import tables
    from measure_gate import BUDGET, observed_spreads, simulate
    from rich.console import Console

    from msal_deploy.bench import describe_machine
    from msal_deploy.files import write_json

    spreads = {"observed": max(observed_spreads(observed).values()), "equal to the budget": BUDGET}
    results = {"environment": describe_machine()} | simulate(sets, other_sets, spreads)
    if json:
        write_json(json, results)
    if plot:
        save_plot(results, plot)
    for table in tables(results):
        Console(highlight=False).print(table)


@app.command()
def draw(
    results: Annotated[Path, typer.Argument(help="JSON that `run` wrote.", exists=True, dir_okay=False)],
    plot: Annotated[Path, typer.Option("--plot", help="File to draw into (PNG, SVG or PDF).")],
) -> None:
    """Print and draw the results of an earlier run.

    Example: python benchmarks/gate/simulate.py draw gate.json --plot gate.png
    """
    import msgspec
    from gate_plot import save_plot
    from gate_tables import tables
    from rich.console import Console

    found = msgspec.json.decode(results.read_bytes())
    save_plot(found, plot)
    for table in tables(found):
        Console(highlight=False).print(table)


if __name__ == "__main__":
    run_command_line(app)
