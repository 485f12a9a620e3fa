"""The training loss."""

from torch import Tensor
from torch.nn import functional as F


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
