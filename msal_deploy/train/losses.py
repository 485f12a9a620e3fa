"""The training loss."""

import torch
from torch import Tensor
from torch.nn import functional as F

from msal_deploy.recipe import TrainRecipe


def segmentation_loss(logits: Tensor, masks: Tensor, kind: str) -> Tensor:
    """Return the loss of a batch.

    Args:
        logits: float[N,1,H,W], before the sigmoid.
        masks: float[N,1,H,W], 1 in nuclei and 0 elsewhere.
        kind: ``bce`` for the mean binary cross-entropy; ``bce+dice`` adds 1 − soft Dice, computed over the batch.
    """
    loss = F.binary_cross_entropy_with_logits(logits, masks)
    if kind == "bce":
        return loss
    probability = logits.sigmoid()
    overlap = 2 * (probability * masks).sum() + 1
    return loss + 1 - overlap / (probability.sum() + masks.sum() + 1)


def taught_loss(logits: Tensor, masks: Tensor, taught: Tensor, recipe: TrainRecipe) -> Tensor:
    """Return the loss of a batch with a teacher: labels and teacher, weighted (Hinton et al., 2015).

    >>> logits, masks = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    >>> f"{taught_loss(logits, masks, masks / 2, TrainRecipe(teacher_weight=0.25)):.4f}"  # ln 2 for both
    '0.6931'

    Args:
        logits: float[N,1,H,W], before the sigmoid.
        masks: float[N,1,H,W], 1 in nuclei and 0 elsewhere.
        taught: float[N,1,H,W], the teacher's probabilities.
        recipe: ``loss`` for the labels, and ``teacher_weight``. The teacher's part is the binary cross-entropy.
    """
    labels = segmentation_loss(logits, masks, recipe.loss)
    return torch.lerp(labels, F.binary_cross_entropy_with_logits(logits, taught), recipe.teacher_weight)
