"""``msal-deploy run``: every stage, one after the other."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msal_deploy.cli.options import Encoder, Engines, Epochs, Json, choose_recipe
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from msal_deploy.bench import BenchReport
    from msal_deploy.bundle import Bundle
    from msal_deploy.data import Dataset, Patch
    from msal_deploy.precision import PrecisionReport
    from msal_deploy.recipe import Recipe
    from msal_deploy.report import Overlay
    from msal_deploy.train import Epoch
    from msal_deploy.validate import ValidationReport

SYNTHETIC = (
    "a synthetic set drawn by msal-deploy (CC0): it shows that the toolchain works, not how well nuclei are found"
)


def run(
    data: Annotated[
        Path | None, typer.Option("--data", help="A MoNuSeg folder or zip. Without it, a synthetic set is drawn.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", "-c", help="A checkpoint, or weights by name. Default: msal-net-r34, shipped."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("msal-deploy-run"),
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="Train this recipe first: paper, fast, demo, or a TOML file.")
    ] = None,
    encoder: Encoder = None,
    epochs: Epochs = None,
    fp16: Annotated[bool, typer.Option(help="Make and judge the FP16 graph too.")] = True,
    int8: Annotated[bool, typer.Option(help="Make and judge the INT8 graph too.")] = True,
    engine: Engines = None,
    budget: Annotated[float, typer.Option(min=0, help="The loss of mean Dice that is allowed.")] = 0.002,
    seconds: Annotated[float, typer.Option(help="Length of a time window of the bench.")] = 3.0,
    json: Json = None,
) -> None:
    """Do it all: data, training, export, FP16 and INT8, parity on the test patches, latency, and report.html.

    With no options it draws a synthetic set and uses the weights that come with the package. FP16 and INT8 are
    calibrated on the set's training images, and left out where it has none.

    Example: msal-deploy run --data monuseg --checkpoint runs/r34/best.safetensors --out runs/r34-report
    """
    from rich.console import Console

    import msal_deploy.export  # noqa: F401  (needs torch: where it is missing, that is said before any work)
    from msal_deploy.bundle import Bundle
    from msal_deploy.data import label_convention, open_dataset, patches_of
    from msal_deploy.files import write_json
    from msal_deploy.report import accuracy_latency, accuracy_latency_table
    from msal_deploy.runtimes import available_engines
    from msal_deploy.weights import DEFAULT, find_weights

    trains = checkpoint is None and recipe is not None
    if not trains and (encoder or epochs):
        raise BadInput("--encoder and --epochs change a training, and nothing is trained; name a --recipe")
    weights = None if trains else find_weights(checkpoint or DEFAULT)
    history: tuple[Epoch, ...] = ()
    source = f"the test images of {data.name}" if data else SYNTHETIC
    with open_dataset(data or _synthesize(out / "data")) as dataset:
        patches, convention = patches_of(dataset.test), label_convention(dataset.test)
        if weights is None:
            weights, history = _train(dataset, choose_recipe(str(recipe), encoder, epochs), out / "training", data)
            recipe = None  # a checkpoint of ours knows its own
        precision = _export(weights, recipe, out / "bundle", dataset, fp16, int8, budget)
    bundle = Bundle(out / "bundle")
    validation = _validate(bundle, engine or available_engines(bundle), patches, budget, convention)
    timings = _bench(bundle, engine or available_engines(bundle, timed=True), seconds)
    write_json(out / "validation.json", validation.to_json())
    write_json(out / "bench.json", timings.to_json())
    Console().print(accuracy_latency_table(validation.to_json(), timings.to_json()))
    found = precision.to_json() if precision else None
    _report(out / "report.html", bundle, validation, timings, found, history, patches, source)
    if json:
        both = {"validate": validation.to_json(), "bench": timings.to_json()}
        write_json(json, {**both, "precision": found, "accuracy_latency": accuracy_latency(*both.values())})
    typer.echo(f"Report: {out / 'report.html'}")
    validation.require_passed()


def _say(stage: str) -> None:
    from rich.console import Console

    Console(stderr=True).rule(stage, align="left")


def _synthesize(folder: Path) -> Path:
    from msal_deploy.data import synthesize

    _say("Data: drawing a synthetic set")
    if not (folder / "SHA256SUMS").exists():
        synthesize(folder)
    return folder


def _train(dataset: "Dataset", recipe: "Recipe", folder: Path, data: Path | None) -> tuple[Path, tuple["Epoch", ...]]:
    from msal_deploy.train import LAST, train

    _say(f"Training: recipe {recipe.name}, {recipe.train.epochs} epochs")
    licence = "not stated" if data else "CC0-1.0"
    # Run again after an interruption, it goes on where it was; finished, it only says what came out.
    resume = (folder / LAST).exists()
    report = train(dataset.train, recipe, folder, resume=resume, licence=licence, progress=True)
    return report.checkpoint, report.history


def _export(
    checkpoint: Path, recipe: str | None, folder: Path, dataset: "Dataset", fp16: bool, int8: bool, budget: float
) -> "PrecisionReport | None":
    from msal_deploy.checkpoint import load_checkpoint
    from msal_deploy.data import validation_split
    from msal_deploy.export import export
    from msal_deploy.precision import PrecisionReport, add_precisions
    from msal_deploy.recipe import Recipe

    _say("Export: ONNX, and the proof that it computes the same")
    added: list[PrecisionReport] = []
    weights = load_checkpoint(checkpoint, Recipe.load(recipe) if recipe else None)

    def finish(bundle: Path) -> None:
        if not (fp16 or int8) or len(dataset.train) < 2:
            return
        _say("Precision: FP16 and INT8, calibrated on training images")
        _, held_out = validation_split(dataset.train, weights.recipe.train.validation)
        # A confidence bound takes two images at least; with fewer, everything is quantised and the test judges.
        allowed = budget if len(held_out) > 1 else None
        train, test = dataset.train, dataset.test
        added.append(add_precisions(bundle, train, test, fp16=fp16, int8=int8, budget=allowed, progress=True))

    export(weights, folder, finish=finish, progress=True)
    return added[0] if added else None


def _validate(
    bundle: "Bundle", engines: list[str], patches: "tuple[Patch, ...]", budget: float, convention: str
) -> "ValidationReport":
    from rich.console import Console

    from msal_deploy.validate import validate

    _say(f"Parity on {len(patches)} test patches")
    report = validate(bundle, engines, patches, budget=budget, label_convention=convention, progress=True)
    Console().print(report.table())
    return report


def _bench(bundle: "Bundle", engines: list[str], seconds: float) -> "BenchReport":
    from rich.console import Console

    from msal_deploy.bench import bench

    _say("Latency")
    report = bench(bundle, engines, seconds=seconds, progress=True)
    Console().print(report.table())
    return report


def _report(
    path: Path,
    bundle: "Bundle",
    validation: "ValidationReport",
    timings: "BenchReport",
    precision: dict[str, Any] | None,
    history: tuple["Epoch", ...],
    patches: "tuple[Patch, ...]",
    source: str,
) -> None:
    import msgspec

    from msal_deploy.report import write_report

    write_report(
        path,
        title="Parity and latency",
        manifest=msgspec.to_builtins(bundle.manifest),
        validation=validation.to_json(),
        bench=timings.to_json(),
        precision=precision,
        training=msgspec.to_builtins(history) or None,
        overlays=_overlays(validation, patches),
        data=source,
        command=shlex.join(["msal-deploy", *sys.argv[1:]]),
    )


def _overlays(validation: "ValidationReport", patches: "tuple[Patch, ...]") -> "list[Overlay]":
    from msal_deploy.metrics import dice
    from msal_deploy.report import Overlay

    score = validation.engines[validation.judged]
    return [
        Overlay(
            stem=patches[index].stem,
            corner=patches[index].corner,
            rank=rank,
            dice=dice(score.confusions[index]),
            image=patches[index].image,
            truth=patches[index].mask,
            prediction=score.predictions[index],
            engine=validation.judged,
        )
        for rank, index in validation.pick().items()
    ]
