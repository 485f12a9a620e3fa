"""Tables 1 and 2 of the MSAL-Net paper, made again: `costs` and `train` fill rows, `show` prints ours beside theirs.

Example: python benchmarks/paper/tables.py costs --json costs.json
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace
from rich.console import Console
from rich.markup import escape
from rows import ROWS, Row, choose

from msal_deploy.cli.terminal import command_line, exit_cleanly_on_sigterm
from msal_deploy.errors import BadInput, GateFailed

if TYPE_CHECKING:
    from costs import RowCost
    from parity import Parity

    from msal_deploy.recipe import Recipe

app = command_line("The rows of the paper's Tables 1 and 2: train them, weigh them, and print ours beside the paper's.")

Rows = Annotated[list[str] | None, typer.Option("--row", help=f"Only this row; repeatable. Rows: {', '.join(ROWS)}.")]
ParityName = Annotated[
    str, typer.Option("--parity", help="quick: three small shapes; full: the nine of msal-deploy export as well.")
]
CostsFile = Annotated[Path, typer.Option("--json", help="Where the costs are kept, row by row.", show_default=False)]


@app.command()
def costs(
    json: CostsFile,
    row: Rows = None,
    size: Annotated[int, typer.Option(help="Side of the image in pixels, a multiple of 32.")] = 512,
    seconds: Annotated[float, typer.Option(help="Length of a time window of the bench.")] = 3.0,
    parity: ParityName = "quick",
    again: Annotated[bool, typer.Option("--again", help="Also measure rows that are in the file already.")] = False,
) -> None:
    """Export every row with random weights, compare the graph with torch, and time it on this machine.

    Rows that the file has already are left as they are: run it again after an interruption and it goes on.

    Example: python benchmarks/paper/tables.py costs --json costs.json --row t1-ddc --row t2-linknet
    """
    from costs import measure, save_costs, started

    checked = _parity(parity)
    chosen = choose(row)
    before = started(json, size, seconds)

    def work(one: Row) -> str:
        found = measure(one, size, seconds, checked)
        now = started(json, size, seconds)
        save_costs(json, replace(now, rows=_in_order({**now.rows, one.key: found})))
        times = ", ".join(f"{result['engine']} {result['latency_ms']['p50']:.1f} ms" for result in found.latency)
        return (
            f"{found.parameters / 1e6:.1f} M parameters, {found.gflop:.1f} GFLOP, "
            f"max |Δp| {found.proof.worst:.1e}, {times}"
        )

    _each([one for one in chosen if again or before.of(one) is None], len(chosen), work)


@app.command()
def train(
    data: Annotated[Path, typer.Option("--data", help="A MoNuSeg folder or zip.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A JSON and a run folder a row.", show_default=False)],
    row: Rows = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="The schedule of all rows: paper, fast, demo, or a TOML file.")
    ] = "fast",
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, instead of the recipe's.")] = None,
    parity: ParityName = "quick",
    licence: Annotated[
        str, typer.Option(help="SPDX licence of the weights, which the training data decides.")
    ] = "not stated",
) -> None:
    """Train every row by one schedule, export it, and score its graph once on the test patches.

    Stop it at any time; the same command goes on, and leaves finished rows alone.

    Example: python benchmarks/paper/tables.py train --data monuseg --out runs/paper --row t1-ddc
    """
    from scores import recipe_of, run

    from msal_deploy.cli.options import choose_recipe
    from msal_deploy.data import open_dataset, patches_of

    checked = _parity(parity)
    schedule = choose_recipe(recipe, None, epochs)
    recipes = {one.key: recipe_of(one, schedule) for one in choose(row)}
    left = [one for one in choose(row) if not _finished(out, one, recipes[one.key])]
    with open_dataset(data) as dataset:
        patches = patches_of(dataset.test) if left else ()

        def work(one: Row) -> str:
            score = run(one, recipes[one.key], dataset, patches, out, checked, licence)
            return f"Dice {score.scores['pixel_dice_mean']:.4f} on {len(score.patches)} test patches"

        _each(left, len(recipes), work)


@app.command()
def show(
    costs: Annotated[Path, typer.Option("--costs", help="The file that costs wrote.", show_default=False)],
    scores: Annotated[Path | None, typer.Option("--scores", help="The folder that train wrote.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Also write the tables to this file.")] = None,
) -> None:
    """Print both tables, ours beside the paper's; a row that was not trained says so.

    Example: python benchmarks/paper/tables.py show --costs costs.json --scores runs/paper
    """
    from render import as_markdown, as_tables, load

    from msal_deploy.files import atomic_file

    results = load(costs, scores)
    for table in as_tables(results):
        Console().print(table)
    if markdown:
        with atomic_file(markdown) as temporary:
            temporary.write_text(as_markdown(results), encoding="utf-8")


def _parity(name: str) -> "Parity":
    known: dict[str, Parity] = {"quick": "quick", "full": "full"}
    if name not in known:
        raise BadInput(f"No parity is called {name!r}; use quick or full")
    return known[name]


def _finished(out: Path, row: Row, recipe: "Recipe") -> bool:
    from scores import load_score, score_file

    score = load_score(out, row)
    if score is not None and score.recipe != recipe:
        raise BadInput(f"{score_file(out, row)} was trained with another recipe; give that, or another --out")
    return score is not None


def _in_order(rows: "dict[str, RowCost]") -> "dict[str, RowCost]":
    return {key: rows[key] for key in ROWS if key in rows}


def _each(rows: Sequence[Row], total: int, work: Callable[[Row], str]) -> None:
    """Do `work` for every row and say what came of it; a row that fails its gate does not stop the others."""
    console = Console(stderr=True, highlight=False)
    if len(rows) < total:
        console.print(f"{total - len(rows)} of {total} rows are done already.")
    failures = {}
    for number, row in enumerate(rows, 1):
        console.rule(f"{number} of {len(rows)}  {row.key}  {row.label}", align="left")
        start = time.monotonic()
        try:
            said = work(row)
        except GateFailed as error:
            failures[row.key] = said = str(error)
        console.print(f"{escape(said)}  ({time.monotonic() - start:.0f} s)")
    if failures:
        raise GateFailed("; ".join(f"{key}: {said}" for key, said in failures.items()))


if __name__ == "__main__":
    exit_cleanly_on_sigterm()
    app()
