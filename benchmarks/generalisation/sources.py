"""How well weights hold up on other sources and under other stains.

Example: python benchmarks/generalisation/sources.py score bundle --data monuseg --data consep --json scores.json
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msal_deploy.cli.options import BundlePath, Plot, Threads
from msal_deploy.cli.terminal import command_line, run_command_line
from msal_deploy.errors import BadInput, MissingRequirement

if TYPE_CHECKING:
    from grids import Grid
    from source_results import Results

    from msal_deploy.bundle import Bundle

app = command_line("Score weights on other sources and under other stains, compare weights, and choose a recipe.")
DENSITIES = "0.6,0.7,0.8,0.9,1,1.1,1.2,1.4,1.6"

Markdown = Annotated[Path | None, typer.Option("--markdown", help="Also write the tables to this file as Markdown.")]


@app.command()
def score(
    bundle: BundlePath,
    data: Annotated[
        list[str],
        typer.Option(
            "--data", help="A folder or zip with images and labels; repeatable. NAME=PATH names it.", show_default=False
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="held-out: training images that the bundle's recipe holds out. all: all of them, or all images if no "
            "folder is named test. test: test images. NAME=WHICH for one data set; repeatable. Default: held-out.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", "-e", help="Default: the fastest FP32 engine on the CPU.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(help="Regular expression searched in stems: its first group names an image's group, as an organ."),
    ] = None,
    densities: Annotated[str, typer.Option(help="Factors on the optical density, separated by commas.")] = DENSITIES,
    stains: Annotated[bool, typer.Option("--stains", help="Also scale haematoxylin only and eosin only.")] = False,
    curve_images: Annotated[
        int, typer.Option(min=0, help="Images per source for the stain-shift curves, at most; 0 for no curves.")
    ] = 24,
    require: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Exit 1 unless each source keeps this share of its Dice at densities from 0.7 to 1.4."
        ),
    ] = None,
    threads: Threads = None,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file as JSON.")] = None,
    plot: Plot = None,
) -> None:
    """Score the images of each source as they are and under other stains.

    Example: python benchmarks/generalisation/sources.py score bundle --data monuseg --data consep --images consep=all
    """
    factors = parse_densities(densities)
    _check(factors, curve_images, require)
    from measure_sources import Scorer, groups_of, open_sources
    from rich.console import Console
    from source_plot import save_plot
    from source_results import Results

    from msal_deploy.bench import describe_machine
    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json
    from msal_deploy.runtimes import open_engine

    opened = Bundle(bundle)
    name = engine or fastest_fp32(opened)
    with (
        open_sources(data, images or (), opened.manifest.recipe.train.validation) as sources,
        open_engine(opened, name, threads=threads) as running,
    ):
        groups = groups_of(sources, group_by)
        scorer = Scorer(running, opened.spec.threshold, factors, stains, curve_images)
        scores = tuple(scorer.score(source, groups[source.name]) for source in sources)
    results = Results(
        weights=_weights(opened),
        engine=name,
        threshold=opened.spec.threshold,
        densities=factors,
        sources=scores,
        environment=describe_machine(),
    )
    if json:
        write_json(json, results.to_json())
    if plot:
        save_plot(results, plot)
    console = Console(highlight=False)
    console.print(*(grid.shown() for grid in results.grids()), sep="\n")
    if require is not None:
        results.require(require)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="Scores of the old weights.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="Scores of the new weights.", show_default=False)],
    markdown: Markdown = None,
) -> None:
    """Show the scores of two bundles on the same images side by side, the worst source first.

    Example: python benchmarks/generalisation/sources.py compare shipped.json robust.json --markdown compare.md
    """
    from comparison import compare_results

    grids, notes = compare_results(_load(before), _load(after), (before.stem, after.stem))
    _show(grids, notes, markdown)


@app.command()
def recipes(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder with RECIPE-FOLD/report.json of msal-deploy train --json.", show_default=False),
    ],
    json: Annotated[Path | None, typer.Option("--json", help="Also write the choice to this file as JSON.")] = None,
    markdown: Markdown = None,
) -> None:
    """Choose the recipe with the best worst held-out view; each fold leaves out a source and gives it as --unseen.

    Example: python benchmarks/generalisation/sources.py recipes runs --json choice.json --markdown choice.md
    """
    from recipe_choice import choose, read_folds

    from msal_deploy.files import write_json

    choice = choose(read_folds(folder))
    if json:
        write_json(json, choice.to_json())
    _show(choice.grids(), choice.notes(), markdown)


def parse_densities(text: str) -> tuple[float, ...]:
    """Return the factors of a list such as ``0.6,1,1.4``, sorted and each once.

    Raises:
        BadInput: A factor is not a number from 0.1 to 8.
    """
    try:
        factors = sorted({float(part) for part in text.split(",")})
    except ValueError as error:
        raise BadInput(f"{text!r} is not a list of numbers", "use --densities 0.7,1,1.4") from error
    if not all(0.1 <= factor <= 8 for factor in factors):
        raise BadInput(f"Expected densities from 0.1 to 8, got {text}", "use factors such as 0.7,1,1.4")
    return tuple(factors)


def _check(densities: tuple[float, ...], curve_images: int, require: float | None) -> None:
    from source_results import RANGE

    low, high = RANGE
    if require is not None and not (curve_images and any(low <= one <= high and one != 1 for one in densities)):
        raise BadInput(f"--require needs a curve with a density from {low:g} to {high:g}", "use --densities 0.7,1,1.4")


def fastest_fp32(bundle: "Bundle") -> str:
    """Return the id of the fastest FP32 engine on the CPU that the bundle has a graph for.

    Raises:
        MissingRequirement: No such engine is installed.
    """
    from msal_deploy.runtimes import available_engines
    from msal_deploy.runtimes.catalogue import fastest_cpu_engines

    usable = available_engines(bundle)
    for name in fastest_cpu_engines():
        if name.endswith(":fp32") and name in usable:
            return name
    raise MissingRequirement("No FP32 engine is installed", "run: pip install openvino")


def _weights(bundle: "Bundle") -> dict[str, str]:
    from msal_deploy.bundle import CHECKPOINT, graph_name

    manifest = bundle.manifest
    artifacts = [name for name in (CHECKPOINT, graph_name("fp32")) if name in manifest.artifacts]
    hashes = {f"{name} sha256": manifest.artifacts[name].sha256 for name in artifacts}
    return {
        "recipe": manifest.recipe.name,
        "network": manifest.recipe.network.title,
        "licence": manifest.licence,
    } | hashes


def _load(path: Path) -> "Results":
    from source_results import Results

    return Results.load(path)


def _show(grids: "list[Grid]", notes: list[str], markdown: Path | None) -> None:
    from grids import as_markdown
    from rich.console import Console

    from msal_deploy.files import atomic_file

    if markdown:
        with atomic_file(markdown) as temporary:
            temporary.write_text(as_markdown(grids, notes), encoding="utf-8")
    console = Console(highlight=False)
    console.print(*(grid.shown() for grid in grids), *notes, sep="\n", markup=False)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # otherwise torch:fp32 would use a GPU
    run_command_line(app)
