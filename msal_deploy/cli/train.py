"""``msal-deploy train``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from msal_deploy.cli.options import Encoder, Epochs, Json, RecipeName, choose_recipe


def train(
    data: Annotated[
        Path, typer.Option("--data", help="A MoNuSeg folder or zip, in any of its layouts.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder to write.", show_default=False)],
    recipe: RecipeName = None,
    model: Annotated[str | None, typer.Option(help="Another network, such as ce-net, instead of the recipe's.")] = None,
    encoder: Encoder = None,
    epochs: Epochs = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the training in --out was stopped.")] = False,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes, one a device (DDP).")] = 1,
    licence: Annotated[
        str, typer.Option(help="SPDX licence of the weights, which the training data decides.")
    ] = "not stated",
    json: Json = None,
) -> None:
    """Train MSAL-Net on the training images and keep the weights of the best validation Dice.

    Stop it at any time; --resume goes on, and ends with the same weights.

    Example: msal-deploy train --data monuseg --out runs/r34 --recipe paper --licence CC-BY-NC-SA-4.0
    """
    from msal_deploy.data import open_dataset
    from msal_deploy.files import write_json
    from msal_deploy.train import load_state
    from msal_deploy.train import train as run_training

    chosen = (
        load_state(out).recipe
        if resume and recipe is None
        else choose_recipe(recipe or "paper", encoder, epochs, seed, model)
    )
    with open_dataset(data) as dataset:
        report = run_training(
            dataset.train,
            chosen,
            out,
            resume=resume,
            licence=licence,
            accelerator=accelerator,
            devices=devices,
            progress=True,
        )
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return  # one of the other processes of --devices
    typer.echo(f"{report.checkpoint}: validation Dice {report.best.validation_dice:.4f} at epoch {report.best.epoch}")
    typer.echo(f"Next: msal-deploy export {report.checkpoint} --out BUNDLE")
    if json:
        write_json(json, report.to_json())
