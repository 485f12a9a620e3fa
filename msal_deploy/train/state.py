"""What a training leaves in its run folder, and how it is picked up again.

::

    best.safetensors   the weights of the best validation Dice: the result
    last.pt            everything a resumed training needs to go on exactly
    history.csv        one row an epoch
    curves.png         loss and validation Dice
    tensorboard/       the same for TensorBoard
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from msal_deploy.checkpoint import first_line
from msal_deploy.errors import BadInput
from msal_deploy.files import atomic_file
from msal_deploy.recipe import Recipe

BEST, LAST = "best.safetensors", "last.pt"


class Epoch(msgspec.Struct, frozen=True):
    """One row of the history; the validation scores are None in epochs that were not validated."""

    epoch: int
    train_loss: float
    rate: float
    seconds: float
    validation_dice: float | None = None
    validation_iou: float | None = None


class State(msgspec.Struct, frozen=True):
    """A training at the end of an epoch. `tensors` holds the state dicts of network, average and optimizer."""

    recipe: Recipe
    stems: tuple[str, ...]
    history: tuple[Epoch, ...]
    tensors: dict[str, Any]

    @property
    def best_dice(self) -> float:
        """The best validation Dice so far, −1 before the first validation."""
        return max((row.validation_dice for row in self.history if row.validation_dice is not None), default=-1.0)


def save_state(folder: Path, state: State) -> None:
    """Write the resume state, the history and its curves."""
    plain = msgspec.to_builtins((state.recipe, state.stems, state.history))
    with atomic_file(folder / LAST) as temporary:
        torch.save({"plain": msgspec.json.encode(plain).decode(), "tensors": state.tensors}, temporary)
    _write_csv(folder / "history.csv", state.history)
    plot_curves(folder / "curves.png", state.history)


def load_state(folder: Path) -> State:
    """Read what `save_state` wrote.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    path = folder / LAST
    if not path.is_file():
        raise BadInput(f"{folder} holds no training to resume (no {LAST}); leave out --resume to start one")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        recipe, stems, history = msgspec.json.decode(
            content["plain"], type=tuple[Recipe, tuple[str, ...], tuple[Epoch, ...]]
        )
        return State(recipe, stems, history, content["tensors"])
    except Exception as error:  # whatever a damaged pickle may raise
        raise BadInput(f"{path} is damaged ({first_line(error)}); start again in another folder") from error


def _write_csv(path: Path, history: Sequence[Epoch]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=[field.name for field in msgspec.structs.fields(Epoch)])
        writer.writeheader()
        writer.writerows(msgspec.to_builtins(list(history)))


def plot_curves(path: Path, history: Sequence[Epoch]) -> None:
    """Draw the loss and the validation Dice over the epochs as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, dice = figure.subplots(1, 2)
    loss.plot([row.epoch for row in history], [row.train_loss for row in history], color="#3b6ea5")
    loss.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    scored = [row for row in history if row.validation_dice is not None]
    dice.plot([row.epoch for row in scored], [row.validation_dice for row in scored], color="#3b6ea5", marker=".")
    if scored:
        best = max(scored, key=lambda row: row.validation_dice or 0)
        dice.axhline(best.validation_dice or 0, color="#999999", linewidth=0.8, linestyle="--")
        dice.set_title(f"best {best.validation_dice:.4f} at epoch {best.epoch}", fontsize="medium")
    dice.set(xlabel="epoch", ylabel="validation Dice (mean over patches)")
    for axes in (loss, dice):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
