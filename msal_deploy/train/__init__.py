"""Training: `train` fits a network by a recipe and keeps the weights with the best validation Dice.

===============  =========================================================================
`run`            `train`: the training loop, on the devices that Lightning Fabric finds
`patch_dataset`  `PatchDataset`: the training images, cut into augmented patches
`augment`        random flips, rotations, zoom, and changes of stain and scanner
`losses`         `segmentation_loss`
`optim`          optimizer, learning rate, moving average of the weights
`validation`     scores of the held-out images, by data set and stain density
`state`          the files of a run folder: checkpoint, resume state, history
===============  =========================================================================
"""

from msal_deploy.train.run import TrainReport, train
from msal_deploy.train.state import BEST, LAST, Epoch, load_state

__all__ = ["BEST", "LAST", "Epoch", "TrainReport", "load_state", "train"]
