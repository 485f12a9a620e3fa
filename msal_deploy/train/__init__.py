"""Training: `train` fits a network by a recipe and keeps the weights with the best validation Dice.

===============  =========================================================================
`run`            `train`: checks its arguments and finds the devices, with Lightning Fabric
`trainer`        the training loop
`patch_dataset`  `PatchDataset`: the training images, cut into augmented patches
`augment`        random flips, rotations, zoom, and changes of stain and scanner
`losses`         `segmentation_loss`
`optim`          optimizer, learning rate, moving average of the weights
`validation`     scores of the held-out images, by data set and stain density
`resume`         what a resumed run may change, and its tensors
`state`          the files of a run folder: checkpoint, resume state, history
===============  =========================================================================
"""

from msal_deploy.train.run import train
from msal_deploy.train.state import BEST, LAST, Epoch, load_state
from msal_deploy.train.trainer import TrainReport

__all__ = ["BEST", "LAST", "Epoch", "TrainReport", "load_state", "train"]
