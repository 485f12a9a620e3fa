"""What a step of training minimises, and how: loss, optimizer, learning rate, average of the weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msal_deploy.recipe import TrainRecipe

Tensors = tuple[Tensor, ...] | list[Tensor]


def make_optimizer(network: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """Return Adam with L2 or AdamW with decoupled decay, as `recipe` says."""
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(network.parameters(), lr=recipe.rate, weight_decay=recipe.decay)


def averaging(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """An exponential moving average whose decay rises to `decay`, so that it forgets the random start quickly."""

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        now = min(decay, (1 + int(steps)) / (10 + int(steps)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - now)
        else:
            torch._foreach_copy_(averaged, current)

    return update


def rate_at(recipe: TrainRecipe, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step: a function of the step alone, so resuming needs no scheduler state."""
    warmup, total = recipe.warmup * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warmup:
        return recipe.rate * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.rate
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def segmentation_loss(logits: Tensor, masks: Tensor, kind: str) -> Tensor:
    """Binary cross-entropy of float[N,1,H,W] logits against 0/1 masks; ``bce+dice`` adds 1 − soft Dice of the batch."""
    loss = F.binary_cross_entropy_with_logits(logits, masks)
    if kind == "bce":
        return loss
    probability = logits.sigmoid()
    overlap = 2 * (probability * masks).sum() + 1
    return loss + 1 - overlap / (probability.sum() + masks.sum() + 1)
