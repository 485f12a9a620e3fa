"""``msal-deploy train``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import Encoder, Epochs, Json, RecipeName, choose_recipe


def train(
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="A folder or zip with a copy of MoNuSeg, in any common layout.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder to write.", show_default=False)],
    recipe: RecipeName = None,
    model: Annotated[str | None, typer.Option(help="Network to train instead of the recipe's, such as ce-net.")] = None,
    encoder: Encoder = None,
    epochs: Epochs = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Random seed, instead of the recipe's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training run in --out.")] = False,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Number of devices, one process each (DDP).")] = 1,
    licence: Annotated[
        str,
        typer.Option(
            "--licence", "--license", help="SPDX identifier of the weights' licence; it depends on the training data."
        ),
    ] = "not stated",
    json: Json = None,
) -> None:
    """Train MSAL-Net on the training images and keep the weights with the best validation Dice.

    Training can be stopped at any time; --resume continues it and gives the same weights.

    Example: msal-deploy train --data monuseg --out runs/r34 --recipe paper --licence CC-BY-NC-SA-4.0
    """
    from msal_deploy.data import open_dataset
    from msal_deploy.files import write_json
    from msal_deploy.train import load_state
    from msal_deploy.train import train as run_training

    chosen_recipe = (
        load_state(out).recipe
        if resume and recipe is None
        else choose_recipe(recipe or "paper", encoder, epochs, seed, model)
    )
    with open_dataset(data) as dataset:
        report = run_training(
            dataset.train,
            chosen_recipe,
            out,
            resume=resume,
            licence=licence,
            accelerator=accelerator,
            devices=devices,
            progress=True,
        )
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return  # with --devices, only the first process reports
    typer.echo(f"{report.checkpoint}: validation Dice {report.best.validation_dice:.4f} at epoch {report.best.epoch}")
    typer.echo(f"Next: msal-deploy export {report.checkpoint} --out BUNDLE")
    if json:
        write_json(json, report.to_json())
