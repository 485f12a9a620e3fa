"""``msal-deploy train``."""

import os
import shlex
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msal_deploy.cli.options import (
    Encoder,
    Epochs,
    Json,
    LabelFolder,
    RecipeName,
    Split,
    choose_recipe,
    finite,
    read_checkpoint,
)
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from msal_deploy.checkpoint import Checkpoint
    from msal_deploy.recipe import Recipe
    from msal_deploy.runtimes import Engine


def train(
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="A folder or zip with images and labels, such as MoNuSeg; repeatable. NAME=PATH names the data set.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder to write.", show_default=False)],
    recipe: RecipeName = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Fine-tune this checkpoint, or the shipped weights of this name. Default recipe: its own."
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="A bundle whose network is imitated, beside the labels (distillation), as in the recipe light.",
            show_default=False,
        ),
    ] = None,
    unseen: Annotated[
        list[str] | None,
        typer.Option(
            "--unseen", help="A data set that is only validated, as PATH or NAME=PATH; repeatable.", show_default=False
        ),
    ] = None,
    labels: LabelFolder = None,
    split: Split = None,
    model: Annotated[str | None, typer.Option(help="Network to train instead of the recipe's, such as ce-net.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Encoder instead of the recipe's: resnet18, resnet34, resnet50 or resnet101.")
    ] = None,
    encoder: Encoder = None,
    epochs: Epochs = None,
    rate: Annotated[
        float | None, typer.Option(min=1e-9, max=1.0, callback=finite, help="Learning rate, instead of the recipe's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Random seed, instead of the recipe's.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training run in --out; it may have more --epochs.")
    ] = False,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, max=1024, help="Number of devices, one process each (DDP).")] = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1024,
            help="Processes that prepare patches. Default: none on a CPU, one per free core on a GPU.",
            show_default=False,
        ),
    ] = None,
    licence: Annotated[
        str,
        typer.Option(
            "--licence", "--license", help="SPDX identifier of the weights' licence; it depends on the training data."
        ),
    ] = "not stated",
    json: Json = None,
) -> None:
    """Train MSAL-Net on the training images and keep the weights with the best validation Dice.

    With several data sets, the recipe's mixture weights them by name, and the weights with the best worst set are kept.
    Training can be stopped at any time; --resume continues it and gives the same weights.

    Example: msal-deploy train --data monuseg --out runs/r34 --recipe paper --licence CC-BY-NC-SA-4.0

    Example: msal-deploy train --data lab=my-images --from msal-net-r34 --recipe fast --rate 1e-4 --out runs/lab

    Example: msal-deploy train --data lab=my-images --recipe light --from msal-net-r18 --teacher bundle --out runs/light
    """
    from msal_deploy.data import open_training_sets
    from msal_deploy.files import output_folder, write_json
    from msal_deploy.train import train as run_training

    if resume and start:
        raise BadInput("--from starts a run, and --resume continues one", "leave one of them out")
    output_folder(out)
    checkpoint = _checkpoint(start, recipe, model, backbone) if start else None
    options = (encoder, epochs, seed, model, backbone, rate)
    chosen_recipe = _recipe(recipe, checkpoint, out if resume else None, data, *options)
    both = [*data, *(unseen or ())]
    with (
        open_training_sets(both, partial(typer.echo, err=True), labels, split) as sets,
        _teacher(teacher, accelerator) as engine,
    ):
        names = list(sets)
        report = run_training(
            {name: sets[name] for name in names[: len(data)]},
            chosen_recipe,
            out,
            unseen={name: sets[name] for name in names[len(data) :]},
            start=checkpoint,
            teacher=engine,
            resume=resume,
            licence=licence,
            accelerator=accelerator,
            devices=devices,
            workers=workers,
            progress=True,
        )
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return  # with --devices, only the first process reports
    if json:
        write_json(json, report.to_json())
    typer.echo(f"{report.checkpoint}: validation Dice {report.best.validation_dice:.4f} at epoch {report.best.epoch}")
    typer.echo(f"Next: msal-deploy export {shlex.quote(str(report.checkpoint))} --out BUNDLE")


def _teacher(bundle: Path | None, accelerator: str) -> "AbstractContextManager[Engine | None]":
    """Open the fastest engine of a bundle: PyTorch on a GPU, else that of the CPU."""
    if bundle is None:
        return nullcontext()
    from msal_deploy.hardware import query_driver
    from msal_deploy.runtimes import open_engine

    on_gpu = accelerator != "cpu" and query_driver().gpus
    return open_engine(bundle, "torch:bf16" if on_gpu else None)


def _checkpoint(name_or_path: str, recipe: str | None, model: str | None, backbone: str | None) -> "Checkpoint":
    from msal_deploy.checkpoint import own_recipe
    from msal_deploy.weights import find_weights

    path = find_weights(name_or_path)
    # A checkpoint names its network; the weights of another program do not.
    named = (recipe or model or backbone) and own_recipe(path) is None
    return read_checkpoint(path, choose_recipe(recipe or "paper", model=model, backbone=backbone) if named else None)


def _recipe(
    name: str | None,
    start: "Checkpoint | None",
    resumed: Path | None,
    data: list[str],
    encoder: str | None,
    epochs: int | None,
    seed: int | None,
    model: str | None,
    backbone: str | None,
    rate: float | None,
) -> "Recipe":
    from msal_deploy.train import load_state

    base: str | Recipe
    if name is not None:
        base = name
    elif resumed is not None:
        base = load_state(resumed).recipe  # `train` refuses options that change it, except for more epochs
    else:
        base = _without_other_sets(start.recipe, data) if start is not None else "paper"
    return choose_recipe(base, encoder, epochs, seed, model, backbone, rate)


def _without_other_sets(recipe: "Recipe", data: list[str]) -> "Recipe":
    """Return the recipe of a checkpoint; its mixture is dropped unless `data` are the sets that it names."""
    from msgspec.structs import replace

    from msal_deploy.data.training_sets import split_name

    if set(recipe.train.mixture) == {split_name(source)[0] for source in data}:
        return recipe
    return replace(recipe, train=replace(recipe.train, mixture={}))
