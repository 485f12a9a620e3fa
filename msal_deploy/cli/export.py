"""``msal-deploy export``."""

import shlex
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msal_deploy.cli.options import Json, LabelFolder, RecipeName, Split, choose_recipe, finite, read_checkpoint
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from msal_deploy.data import Dataset
    from msal_deploy.precision import PrecisionReport
    from msal_deploy.recipe import Recipe


def export(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the bundle; an older bundle is replaced.", show_default=False)
    ],
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint written by train, the name of weights, or the weights of another program with "
            "--recipe or --model. Default: msal-net-r34, which is part of the package.",
            show_default=False,
        ),
    ] = None,
    recipe: RecipeName = None,
    model: Annotated[
        str | None, typer.Option(help="Another network, such as ce-net; untrained unless a checkpoint is given.")
    ] = None,
    light: Annotated[
        bool,
        typer.Option("--light", help="Export msal-net-light, 1.8 times as fast in INT8, for about 0.005 Dice."),
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Add the FP16 graph. Requires --calibration.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Add the INT8 graph. Requires --calibration.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A MoNuSeg folder or zip; calibration uses only its training images.", show_default=False),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=finite,
            help="Maximum loss of mean Dice through INT8 on held-out training images: nodes stay in float until it is "
            "met. Default: quantise everything.",
        ),
    ] = None,
    tiles: Annotated[
        int | None,
        typer.Option(min=1, help="Calibration tiles of 256 px. Default: 40, or all if there are fewer."),
    ] = None,
    method: Annotated[str, typer.Option(help="Calibration method: minmax, entropy or percentile.")] = "minmax",
    labels: LabelFolder = None,
    split: Split = None,
    json: Json = None,
) -> None:
    """Export a checkpoint as a bundle: ONNX graphs, golden tensors, and a manifest with the hashes of all files.

    A graph takes uint8 RGB images and returns probabilities. The FP32 graph is compared with PyTorch at nine shapes,
    and nothing is written if they differ. An interrupted --budget search resumes on the next run.

    Example: msal-deploy export --out bundle --fp16 --int8 --calibration monuseg --budget 0.002
    """
    from msal_deploy.bundle import is_bundle
    from msal_deploy.checkpoint import untrained
    from msal_deploy.export import export as write_bundle
    from msal_deploy.files import output_folder, output_lock, write_json
    from msal_deploy.weights import DEFAULT, LIGHT, find_weights

    if light and (checkpoint, recipe, model) != (None, None, None):
        raise BadInput("--light names the weights", "leave out the checkpoint, --recipe and --model, or --light")
    name = (LIGHT if light else DEFAULT) if checkpoint is None else checkpoint
    _check_options(fp16 or int8, int8, calibration, budget, method, tiles)
    output_folder(out, is_bundle)
    chosen: Recipe | None = None
    if recipe is not None or model is not None:
        chosen = choose_recipe("paper" if recipe is None else recipe, model=model)
    if checkpoint is None and chosen is not None:
        weights = untrained(chosen)
        typer.echo(f"{chosen.network.model} is not trained: use this graph only for timing and integration.", err=True)
    else:
        weights = read_checkpoint(find_weights(name), chosen)
    added: list[PrecisionReport] = []
    trial_log = out.resolve().with_name(f".{out.resolve().name}.search.jsonl")
    with output_lock(out), _calibration_images(calibration, labels, split) as dataset:
        if dataset:
            _check_calibration(dataset, weights.recipe, tiles, scored=budget is not None)

        def finish(folder: Path) -> None:
            if dataset:
                added.append(_add(folder, dataset, fp16, int8, tiles, method, budget, trial_log))

        report = write_bundle(weights, out, finish=finish, progress=True)
        trial_log.unlink(missing_ok=True)
    if json:
        write_json(json, report.to_json() | {"precision": added[0].to_json() if added else None})
    typer.echo(
        f"{out}: opset {report.opset}, {report.nodes} nodes; max |Δp| torch to ONNX Runtime {report.worst:.1e} "
        f"over {len(report.checks)} shapes"
    )
    for precision in added:
        _print_precision(precision)
    typer.echo(f"Next: msal-deploy validate {shlex.quote(str(out))} --data DIR")


def _check_options(
    calibrates: bool, int8: bool, calibration: Path | None, budget: float | None, method: str, tiles: int | None
) -> None:
    from msal_deploy.errors import suggest

    methods = ("minmax", "entropy", "percentile")
    if calibrates and calibration is None:
        raise BadInput("--fp16 and --int8 require calibration", "name a data set with --calibration DIR")
    if calibration is not None and not calibrates:
        raise BadInput("--calibration requires --fp16 or --int8", "add one of them")
    if tiles is not None and calibration is None:
        raise BadInput("--tiles requires --calibration", "add it")
    if budget is not None and not int8:
        raise BadInput("--budget requires --int8", "add it")
    if method not in methods:
        raise BadInput(f"{method!r} is not a calibration method", suggest(method, methods))


def _calibration_images(
    path: Path | None, labels: str | None, split: float | None
) -> "AbstractContextManager[Dataset | None]":
    from msal_deploy.data import open_dataset

    return nullcontext() if path is None else open_dataset(path, labels, split)


def _check_calibration(dataset: "Dataset", recipe: "Recipe", tiles: int | None, *, scored: bool) -> None:
    """Read all images and labels that calibration needs: export takes minutes before it comes to them."""
    from msal_deploy.data import check_labels, warn_of_labels
    from msal_deploy.precision import choose_tiles

    _, validation, *_ = choose_tiles(dataset.train, dataset.test, recipe.train.validation, tiles)
    if scored:
        check_labels(validation, partial(typer.echo, err=True))
    else:
        warn_of_labels(dataset.train, partial(typer.echo, err=True))


def _add(
    folder: Path,
    dataset: "Dataset",
    fp16: bool,
    int8: bool,
    tiles: int | None,
    method: Any,
    budget: float | None,
    trial_log: Path,
) -> "PrecisionReport":
    from msal_deploy.precision import add_precisions

    return add_precisions(
        folder,
        dataset.train,
        dataset.test,
        fp16=fp16,
        int8=int8,
        tiles=tiles,
        method=method,
        budget=budget,
        trial_log=trial_log,
        progress=True,
    )


def _print_precision(precision: "PrecisionReport") -> None:
    from msal_deploy.metrics import signed

    if fp16 := precision.fp16:
        kept = f"{len(fp16.kept_fp32)} nodes kept in FP32" if fp16.kept_fp32 else "all nodes in FP16's range"
        typer.echo(
            f"FP16: {kept}; largest value {fp16.largest_value:.4g}; max |Δp| to FP32 {fp16.max_abs_delta:.1e} on tiles"
        )
    if int8 := precision.int8:
        typer.echo(
            f"INT8: {int8.share_of_macs:.1%} of the multiply-accumulates, calibrated ({precision.method}) on "
            f"{precision.tiles} tiles of {precision.images} training images"
        )
    if int8 and (search := int8.search):
        trial = search.trials[search.chosen]
        typer.echo(
            f"      ΔDice on {search.patches} held-out patches {signed(trial.delta_dice.mean)}, lower bound "
            f"{signed(trial.delta_dice.lower)} (budget −{search.budget:g}); {len(trial.float_nodes)} nodes in float"
        )
    if int8 and int8.sensitivity:
        dices = [draw.dice for draw in int8.sensitivity]
        typer.echo(f"      Dice with {len(dices)} disjoint calibration sets: {min(dices):.4f} to {max(dices):.4f}")
