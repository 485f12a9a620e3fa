"""Optimizer, learning rate, and the moving average of the weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from msal_deploy.recipe import TrainRecipe

Tensors = tuple[Tensor, ...] | list[Tensor]


def make_optimizer(network: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer: Adam with L2 regularisation, or AdamW with decoupled weight decay."""
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(network.parameters(), lr=recipe.rate, weight_decay=recipe.decay)


def averaging(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return the update of an exponential moving average, for torch's `AveragedModel`.

    The decay starts low and rises to `decay`, so that the average quickly forgets the random initial weights.
    """

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        step_decay = min(decay, (1 + int(steps)) / (10 + int(steps)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - step_decay)
        else:
            torch._foreach_copy_(averaged, current)

    return update


def rate_at(recipe: TrainRecipe, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step. It depends on the step only, so resuming needs no scheduler state."""
    warmup, total = recipe.warmup * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warmup:
        return recipe.rate * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.rate
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
