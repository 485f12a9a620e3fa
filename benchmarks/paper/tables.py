"""Reproduces Tables 1 and 2 of the MSAL-Net paper. `costs` and `train` measure rows; `show` prints the tables.

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

from msal_deploy.cli.terminal import command_line, run_command_line
from msal_deploy.errors import BadInput, GateFailed, suggest

if TYPE_CHECKING:
    from agreement import ShapeSet
    from costs import RowCost

    from msal_deploy.recipe import Recipe

app = command_line("Reproduce Tables 1 and 2 of the MSAL-Net paper: train, measure, and compare with the paper.")

Rows = Annotated[list[str] | None, typer.Option("--row", help=f"Only this row; repeatable. Rows: {', '.join(ROWS)}.")]
ParityName = Annotated[
    str,
    typer.Option(
        "--parity",
        help="Shapes to compare with PyTorch. quick: three small ones; full: also the nine of msal-deploy export.",
    ),
]
CostsFile = Annotated[Path, typer.Option("--json", help="File for the costs, row by row.", show_default=False)]


@app.command()
def costs(
    json: CostsFile,
    row: Rows = None,
    size: Annotated[int, typer.Option(help="Side of the image in pixels, a multiple of 32.")] = 512,
    seconds: Annotated[float, typer.Option(help="Length of a benchmark time window in seconds.")] = 3.0,
    parity: ParityName = "quick",
    again: Annotated[bool, typer.Option("--again", help="Measure rows again that are in the file.")] = False,
) -> None:
    """Export each row with random weights, compare its graph with PyTorch, and benchmark it on this machine.

    Skips rows that are in the file, so the same command resumes after an interruption.

    Example: python benchmarks/paper/tables.py costs --json costs.json --row t1-ddc --row t2-linknet
    """
    from agreement import require_engines
    from costs import load_or_start, measure, save_costs

    require_engines()
    shapes = _shape_set(parity)
    chosen = choose(row)
    before = load_or_start(json, size, seconds)

    def work(one: Row) -> str:
        cost = measure(one, size, seconds, shapes)
        now = load_or_start(json, size, seconds)
        save_costs(json, replace(now, rows=_in_order({**now.rows, one.key: cost})))
        times = ", ".join(f"{result['engine']} {result['latency_ms']['p50']:.1f} ms" for result in cost.latency)
        return (
            f"{cost.parameters / 1e6:.1f} M parameters, {cost.gflop:.1f} GFLOP, "
            f"max |Δp| {cost.agreement.max_abs_delta:.1e}, {times}"
        )

    _each([one for one in chosen if again or before.of(one) is None], len(chosen), work)


@app.command()
def train(
    data: Annotated[Path, typer.Option("--data", help="MoNuSeg folder or zip.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Output folder, with a JSON per row.", show_default=False),
    ],
    row: Rows = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Training schedule of all rows: paper, fast, demo, or a TOML file.")
    ] = "fast",
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, instead of the recipe's.")] = None,
    parity: ParityName = "quick",
    accelerator: Annotated[
        str, typer.Option(help="auto, cpu, cuda or mps. Only training uses it; the graphs are scored on the CPU.")
    ] = "auto",
    licence: Annotated[
        str, typer.Option(help="SPDX licence of the weights; it depends on the training data.")
    ] = "not stated",
) -> None:
    """Train each row with the same schedule, export it, and score its graph on the test patches.

    The same command resumes after an interruption and skips finished rows.

    Example: python benchmarks/paper/tables.py train --data monuseg --out runs/paper --row t1-ddc
    """
    from agreement import require_engines
    from scores import recipe_of, run

    from msal_deploy.cli.options import choose_recipe
    from msal_deploy.data import open_dataset, patches_of

    require_engines()
    shapes = _shape_set(parity)
    schedule = choose_recipe(recipe, None, epochs)
    recipes = {one.key: recipe_of(one, schedule) for one in choose(row)}
    unfinished = [one for one in choose(row) if not _finished(out, one, recipes[one.key])]
    with open_dataset(data) as dataset:
        patches = patches_of(dataset.test) if unfinished else ()

        def work(one: Row) -> str:
            score = run(
                one,
                recipes[one.key],
                dataset,
                patches,
                out,
                shapes=shapes,
                licence=licence,
                accelerator=accelerator,
            )
            return f"Dice {score.scores['pixel_dice_mean']:.4f} on {len(score.patches)} test patches"

        _each(unfinished, len(recipes), work)


@app.command()
def show(
    costs: Annotated[Path, typer.Option("--costs", help="File of the costs command.", show_default=False)],
    scores: Annotated[Path | None, typer.Option("--scores", help="Folder of the train command.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Also write them to this Markdown file.")] = None,
) -> None:
    """Print the costs and the scores of the rows of each table, the scores beside the paper's.

    Rows without costs or scores are left out of that table.

    Example: python benchmarks/paper/tables.py show --costs costs.json --scores runs/paper
    """
    from render import as_markdown, as_tables, load, sections

    from msal_deploy.files import atomic_file

    parts = sections(load(costs, scores))
    console = Console(highlight=False)
    for part in parts:
        for table in as_tables(part):
            console.print(table)
        console.print(escape("\n".join(part.notes)), end="\n\n")
    if markdown:
        with atomic_file(markdown) as temporary:
            temporary.write_text(as_markdown(parts), encoding="utf-8")


def _shape_set(name: str) -> "ShapeSet":
    known: dict[str, ShapeSet] = {"quick": "quick", "full": "full"}
    if name not in known:
        raise BadInput(f"Expected --parity quick or full, got {name!r}", suggest(name, known))
    return known[name]


def _finished(out: Path, row: Row, recipe: "Recipe") -> bool:
    from scores import load_score, score_file

    score = load_score(out, row)
    if score is not None and score.recipe != recipe:
        raise BadInput(f"{score_file(out, row)} was trained with another recipe", "use that recipe or another --out")
    return score is not None


def _in_order(rows: "dict[str, RowCost]") -> "dict[str, RowCost]":
    return {key: rows[key] for key in ROWS if key in rows}


def _each(rows: Sequence[Row], total: int, work: Callable[[Row], str]) -> None:
    """Run `work` for each row and print its summary. A failed gate does not stop the other rows."""
    console = Console(stderr=True, highlight=False)
    if len(rows) < total:
        console.print(f"{total - len(rows)} of {total} rows are already done.")
    failures: dict[str, GateFailed] = {}
    for index, row in enumerate(rows, 1):
        console.rule(f"{index} of {len(rows)}  {row.key}  {row.label}", align="left")
        start = time.monotonic()
        try:
            summary = work(row)
        except GateFailed as error:
            failures[row.key] = error
            summary = str(error)
        console.print(f"{escape(summary)}  ({time.monotonic() - start:.0f} s)")
    if failures:
        raise GateFailed(
            ". ".join(f"{key}: {error.cause}" for key, error in failures.items()),
            ". ".join(dict.fromkeys(error.remedy for error in failures.values() if error.remedy)),
        )


if __name__ == "__main__":
    run_command_line(app)
