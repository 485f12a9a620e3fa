"""What a resumed run may change: it may have more epochs. Any other difference is refused, named with both values."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from msal_deploy.checkpoint import UNKNOWN_LICENCE
from msal_deploy.errors import BadInput
from msal_deploy.recipe import Recipe
from msal_deploy.train.state import BEST, State, damaged, load_state
from msal_deploy.weight_files import first_line

OWN_VALUE = "leave the option out, or choose another folder"


def resumed(out: Path, recipe: Recipe, stems: tuple[str, ...], licence: str, say: Callable[[str], None]) -> State:
    """Return the state of the run in `out`, with the number of epochs of `recipe`.

    Args:
        out: The run folder.
        recipe: What to train now.
        stems: Data set and stem of all images.
        licence: That of the weights, or ``not stated`` for that of the run.
        say: Gets one sentence on how the learning rate goes on if there are more epochs than before.

    Raises:
        BadInput: `out` is not a run or is damaged, or the recipe, the images or the licence are not those of the run.
    """
    state = load_state(out)
    if not state.tensors:
        raise damaged(out, "it has no tensors")
    _check_recipe(out, state, recipe)
    _check_images(out, state.stems, stems)
    if licence not in (UNKNOWN_LICENCE, state.licence):
        raise BadInput(f"The licence of {out} is {state.licence!r}, not {licence!r}", OWN_VALUE)
    if any(row.validation_dice is not None for row in state.history) and not (out / BEST).is_file():
        raise BadInput(f"{out / BEST} is missing", "put it back, or start again in another folder")
    if recipe.train.epochs > state.recipe.train.epochs:
        say(_schedule(state, recipe))
    return msgspec.structs.replace(state, recipe=recipe)


def _check_recipe(out: Path, state: State, recipe: Recipe) -> None:
    for field, stored, given in _differences(state.recipe, recipe):
        if field == "train.epochs" and given > stored:
            continue
        if field == "train.epochs":
            cause = f"{out} trains for {stored} epochs ({len(state.history)} done), which is more than {given}"
            raise BadInput(cause, "resume with as many or more, or choose another folder")
        raise BadInput(f"{out} was started with {field} = {stored!r}, not {given!r}", OWN_VALUE)


def _differences(stored: Any, given: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted name of each field that differs, and both values; the recipe's own name last."""
    fields = sorted(stored.__struct_fields__, key=lambda field: field == "name")
    for field in fields:
        before, after = getattr(stored, field), getattr(given, field)
        if isinstance(before, msgspec.Struct):
            yield from _differences(before, after, f"{path}{field}.")
        elif before != after:
            yield f"{path}{field}", before, after


def _check_images(out: Path, stored: tuple[str, ...], given: tuple[str, ...]) -> None:
    if stored == given:
        return
    gone, new = ([stem for stem in one if stem not in other] for one, other in ((stored, given), (given, stored)))
    example = f"without {gone[0]}" if gone else f"with {new[0]}" if new else "in another order"
    cause = f"{out} was trained on other images: {len(stored)}, not {len(given)}, and these are {example}"
    raise BadInput(cause, "resume with those data sets and names, or choose another folder")


def _schedule(state: State, recipe: Recipe) -> str:
    before, after, first = state.recipe.train.epochs, recipe.train.epochs, len(state.history) + 1
    if recipe.train.schedule == "constant":
        return f"Training {after} epochs instead of {before}, at the constant learning rate {recipe.train.rate:g}"
    return (
        f"Training {after} epochs instead of {before}: from epoch {first} on, the learning rate follows the cosine of "
        f"{after} epochs, so the weights differ from those of {after} epochs in one run"
    )


def restore(
    out: Path, tensors: dict[str, Any], network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Load the tensors of a resume state.

    Raises:
        BadInput: They are not those of this network and optimizer, or are not finite.
    """
    try:
        network.load_state_dict(tensors["network"])
        average.load_state_dict(tensors["average"])
        optimizer.load_state_dict(tensors["optimizer"])
        values = [*network.state_dict().values(), *average.state_dict().values(), *_moments(optimizer)]
        finite = all(bool(value.isfinite().all()) for value in values)
    except Exception as error:  # a dictionary of anything may be there
        raise damaged(out, f"its tensors do not fit the run: {first_line(error)}") from error
    if not finite:
        raise damaged(out, "its tensors are not finite")


def _moments(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield the optimizer's tensors, whose shapes torch does not check.

    Raises:
        ValueError: One has another shape than its parameter.
    """
    for parameter, moments in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if moments[name].shape != parameter.shape:
                raise ValueError(f"{name} has shape {list(moments[name].shape)}, not {list(parameter.shape)}")
            yield moments[name]
