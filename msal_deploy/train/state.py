"""The files of a run folder, from which a training run can be resumed.

::

    best.safetensors   the result: the weights with the best validation Dice
    last.pt            the resume state
    history.csv        one row per epoch
    curves.png         loss and validation Dice over the epochs
    tensorboard/       the same for TensorBoard
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from msal_deploy.checkpoint import UNKNOWN_LICENCE
from msal_deploy.errors import BadInput
from msal_deploy.files import atomic_file
from msal_deploy.recipe import Recipe
from msal_deploy.train.validation import ViewScore
from msal_deploy.weight_files import first_line, read_weights

BEST, LAST = "best.safetensors", "last.pt"


class Epoch(msgspec.Struct, frozen=True):
    """One row of the history.

    Attributes:
        epoch: Number of the epoch, from 1.
        train_loss: Mean loss of the epoch's steps.
        rate: Learning rate of the last step.
        seconds: Duration of the training steps in seconds.
        validation_dice: Mean Dice over the patches of the worst view, or None if the epoch was not validated.
        validation_iou: The lowest mean IoU of the views, or None.
        views: Scores of each view: each data set, under each stain density.
    """

    epoch: int
    train_loss: float
    rate: float
    seconds: float
    validation_dice: float | None = None
    validation_iou: float | None = None
    views: tuple[ViewScore, ...] = ()


class State(msgspec.Struct, frozen=True):
    """A training run at the end of an epoch.

    Attributes:
        recipe: The recipe being trained.
        stems: Data set and stem of all images, including the held-out ones and those of unseen sets.
        history: One row per completed epoch.
        tensors: State dicts of network, average and optimizer; empty before the first epoch.
        notes: The checkpoint that the run started from, for the notes of its own checkpoint; empty if there is none.
        licence: SPDX identifier of the weights' licence.
    """

    recipe: Recipe
    stems: tuple[str, ...]
    history: tuple[Epoch, ...]
    tensors: dict[str, Any]
    notes: dict[str, str] = {}
    licence: str = UNKNOWN_LICENCE

    @property
    def best_dice(self) -> float:
        """The best validation Dice so far, or −1 before the first validation."""
        return max((row.validation_dice for row in self.history if row.validation_dice is not None), default=-1.0)


def save_state(folder: Path, state: State) -> None:
    """Write the resume state, the history and the curves into the run folder."""
    plain = msgspec.to_builtins((state.recipe, state.stems, state.history))
    with atomic_file(folder / LAST) as temporary:
        texts = {"plain": msgspec.json.encode(plain).decode(), "notes": state.notes, "licence": state.licence}
        torch.save({**texts, "tensors": state.tensors}, temporary)
    _write_csv(folder / "history.csv", state.history)
    plot_curves(folder / "curves.png", state.history)


def load_state(folder: Path) -> State:
    """Read the resume state that `save_state` wrote::

        load_state(Path("runs/r34")).best_dice

    Raises:
        BadInput: The folder has no resume state, or it is damaged.
    """
    path = folder / LAST
    if not path.exists():
        raise BadInput(f"{folder} is not a training run to resume (no {LAST})", "start one without --resume")
    content = read_weights(path).content
    try:
        recipe, stems, history = msgspec.json.decode(
            content["plain"], type=tuple[Recipe, tuple[str, ...], tuple[Epoch, ...]]
        )
        tensors = msgspec.convert(content["tensors"], dict[str, Any])
        notes = msgspec.convert(content.get("notes", {}), dict[str, str])
        licence = msgspec.convert(content.get("licence", UNKNOWN_LICENCE), str)
        return State(recipe, stems, history, tensors, notes, licence)
    except Exception as error:  # a damaged pickle may hold anything
        raise damaged(folder, first_line(error)) from error


def damaged(folder: Path, reason: str) -> BadInput:
    """Return the error for a resume state that cannot be used."""
    return BadInput(f"{folder / LAST} is damaged ({reason})", "start again in another folder")


def _write_csv(path: Path, history: Sequence[Epoch]) -> None:
    """Write one row per epoch, with a column for the Dice of each view and one for its worst image."""
    names = list(dict.fromkeys(score.view for row in history for score in row.views))
    fields = [field.name for field in msgspec.structs.fields(Epoch) if field.name != "views"]
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        columns = [column for name in names for column in (f"dice {name}", f"worst image {name}")]
        writer = csv.DictWriter(stream, fieldnames=[*fields, *columns])
        writer.writeheader()
        writer.writerows(_csv_row(row) for row in history)


def _csv_row(row: Epoch) -> dict[str, Any]:
    scores = {f"dice {score.view}": score.dice for score in row.views}
    worst = {f"worst image {score.view}": score.worst_dice for score in row.views}
    return {key: value for key, value in msgspec.to_builtins(row).items() if key != "views"} | scores | worst


def plot_curves(path: Path, history: Sequence[Epoch]) -> None:
    """Plot the loss and the validation Dice over the epochs into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, dice = figure.subplots(1, 2)
    loss.plot([row.epoch for row in history], [row.train_loss for row in history], color="#3b6ea5")
    loss.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    scored = [row for row in history if row.validation_dice is not None]
    names = list(dict.fromkeys(score.view for row in scored for score in row.views))
    if len(names) > 1:
        for name in names:
            points = [(row.epoch, score.dice) for row in scored for score in row.views if score.view == name]
            dice.plot(*zip(*points, strict=True), linewidth=0.8, label=name)
        dice.legend(fontsize="x-small", frameon=False)
    dice.plot([row.epoch for row in scored], [row.validation_dice for row in scored], color="#3b6ea5", marker=".")
    if scored:
        best = max(scored, key=lambda row: row.validation_dice or 0)
        dice.axhline(best.validation_dice or 0, color="#999999", linewidth=0.8, linestyle="--")
        dice.set_title(f"best {best.validation_dice:.4f} at epoch {best.epoch}", fontsize="medium")
    which = "validation Dice of the worst view" if len(names) > 1 else "validation Dice (mean over patches)"
    dice.set(xlabel="epoch", ylabel=which)
    for axes in (loss, dice):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
