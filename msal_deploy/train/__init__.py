"""Training: `train` with a recipe; `samples` and `augment` feed it, `optimise` says what a step
minimises, `state` keeps what it leaves behind."""

from msal_deploy.train.run import TrainReport, train
from msal_deploy.train.state import BEST, LAST, Epoch, load_state

__all__ = ["BEST", "LAST", "Epoch", "TrainReport", "load_state", "train"]
