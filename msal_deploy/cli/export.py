"""``msal-deploy export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msal_deploy.cli.options import Json, RecipeName, choose_recipe
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from msal_deploy.precision import PrecisionReport


def export(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The bundle to write; an older one is replaced.", show_default=False)
    ],
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint of train, weights by name, or a state dict (.pt, .pth) with --recipe or --model. "
            "Default: msal-net-r34, which comes with the package.",
            show_default=False,
        ),
    ] = None,
    recipe: RecipeName = None,
    model: Annotated[
        str | None, typer.Option(help="Another network, such as ce-net; untrained where no checkpoint is named.")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Also write the FP16 graph. Needs --calibration.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also write the INT8 graph. Needs --calibration.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A MoNuSeg folder or zip; only its training images are drawn from.", show_default=False),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="The loss of mean Dice that INT8 may cost on held-out training images; nodes go back to float until "
            "it is kept. Without it everything is quantised.",
        ),
    ] = None,
    tiles: Annotated[
        int | None, typer.Option(min=1, help="Calibration tiles, of 256 px. Default: 40, or all there are.")
    ] = None,
    method: Annotated[str, typer.Option(help="How ranges are found: minmax, entropy or percentile.")] = "minmax",
    json: Json = None,
) -> None:
    """Write a bundle: the ONNX graphs, golden tensors, and a manifest with the hash chain.

    A graph takes uint8 RGB images and gives probabilities. FP32 is compared with torch at nine shapes first, and
    nothing is written where they differ. A search for a budget goes on where it was stopped.

    Example: msal-deploy export --out bundle --fp16 --int8 --calibration monuseg --budget 0.002
    """
    from msal_deploy.checkpoint import load_checkpoint, untrained
    from msal_deploy.export import export as write_bundle
    from msal_deploy.files import write_json
    from msal_deploy.weights import DEFAULT, find_weights

    _check_options(fp16 or int8, int8, calibration, budget, method)
    chosen = choose_recipe(recipe or "paper", model=model) if recipe or model else None
    if checkpoint is None and chosen is not None:
        weights = untrained(chosen)
        typer.echo(f"{chosen.network.model} is not trained: this graph is for timing and integration only.", err=True)
    else:
        weights = load_checkpoint(find_weights(checkpoint or DEFAULT), chosen)
    added: list[PrecisionReport] = []
    memory = out.with_name(f".{out.name}.search.jsonl")

    def finish(folder: Path) -> None:
        if calibration is not None:
            added.append(_add(folder, calibration, fp16, int8, tiles, method, budget, memory))

    report = write_bundle(weights, out, finish=finish, progress=True)
    memory.unlink(missing_ok=True)
    typer.echo(
        f"{out}: opset {report.opset}, {report.nodes} nodes; max |Δp| torch to ONNX Runtime {report.worst:.1e} "
        f"over {len(report.checks)} shapes"
    )
    for precision in added:
        _tell(precision)
    typer.echo(f"Next: msal-deploy validate {out} --data DIR")
    if json:
        write_json(json, report.to_json() | {"precision": added[0].to_json() if added else None})


def _check_options(asked: bool, int8: bool, calibration: Path | None, budget: float | None, method: str) -> None:
    from msal_deploy.errors import suggest

    methods = ("minmax", "entropy", "percentile")
    if asked and calibration is None:
        raise BadInput("--fp16 and --int8 measure activations first; name a data set with --calibration DIR")
    if calibration is not None and not asked:
        raise BadInput("--calibration serves --fp16 and --int8; give one of them")
    if budget is not None and not int8:
        raise BadInput("--budget is for what INT8 may cost; give --int8 too")
    if method not in methods:
        raise BadInput(f"No calibration method is called {method!r}; {suggest(method, methods)}")


def _add(
    folder: Path,
    calibration: Path,
    fp16: bool,
    int8: bool,
    tiles: int | None,
    method: Any,
    budget: float | None,
    memory: Path,
) -> "PrecisionReport":
    from msal_deploy.data import open_dataset
    from msal_deploy.precision import add_precisions

    with open_dataset(calibration) as dataset:
        return add_precisions(
            folder,
            dataset.train,
            dataset.test,
            fp16=fp16,
            int8=int8,
            tiles=tiles,
            method=method,
            budget=budget,
            trial_log=memory,
            progress=True,
        )


def _tell(precision: "PrecisionReport") -> None:
    from msal_deploy.metrics import signed

    if fp16 := precision.fp16:
        kept = f"{len(fp16.kept_fp32)} nodes kept in FP32" if fp16.kept_fp32 else "no node near FP16's end"
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
        typer.echo(f"      Dice over {len(dices)} disjoint calibration draws: {min(dices):.4f} to {max(dices):.4f}")
