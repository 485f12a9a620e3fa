"""The training loop: epochs, validation of every view, and what is written after each."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter

from msal_deploy.checkpoint import Checkpoint, pretrained_resnet, save_checkpoint
from msal_deploy.data import AnnotatedImage, validation_split
from msal_deploy.errors import GateFailed
from msal_deploy.network import Normalise
from msal_deploy.recipe import Recipe
from msal_deploy.runtimes import Engine
from msal_deploy.spec import ModelSpec
from msal_deploy.train.losses import segmentation_loss, taught_loss
from msal_deploy.train.optim import averaging, make_optimizer, rate_at
from msal_deploy.train.patch_dataset import Batch, PatchDataset
from msal_deploy.train.resume import restore
from msal_deploy.train.start import start_network
from msal_deploy.train.state import BEST, Epoch, State, save_state
from msal_deploy.train.validation import make_views, require_nuclei, score_view
from msal_deploy.zoo import build_network

LOSS_EVERY = 20  # steps between two readings of the loss on a GPU

Images = Sequence[AnnotatedImage]


class TrainReport(msgspec.Struct, frozen=True):
    """The result of a training run.

    Attributes:
        checkpoint: The weights with the best validation Dice; with several data sets, of the worst one.
        recipe: The recipe that was trained.
        history: One row per epoch.
        validation_stems: Stems of the held-out images.
    """

    checkpoint: Path
    recipe: Recipe
    history: tuple[Epoch, ...]
    validation_stems: tuple[str, ...]

    @property
    def best(self) -> Epoch:
        """The epoch whose weights are in `checkpoint`."""
        return max(self.history, key=lambda row: -1.0 if row.validation_dice is None else row.validation_dice)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "recipe": msgspec.to_builtins(self.recipe),
            "best": msgspec.to_builtins(self.best),
            "validation_stems": list(self.validation_stems),
            "history": msgspec.to_builtins(self.history),
        }


class Trainer:
    """The state of one training run that all epochs share."""

    def __init__(
        self,
        fabric: Any,
        sets: Mapping[str, Images],
        unseen: Mapping[str, Images],
        state: State,
        start: Checkpoint | None,
        teacher: Engine | None,
        out: Path,
        progress: bool,
    ) -> None:
        self.fabric, self.state, self.start, self.teacher, self.out = fabric, state, start, teacher, out
        self.recipe = state.recipe.train
        splits = {name: validation_split(images, self.recipe.validation) for name, images in sets.items()}
        self.validation = {name: held_out for name, (_, held_out) in splits.items()} | dict(unseen)
        training = {name: images for name, (images, _) in splits.items()}
        self.dataset = PatchDataset(training, self.recipe, fabric.global_rank, fabric.world_size)
        self.views = make_views(self.validation, self.recipe.densities)
        require_nuclei(self.views)
        self.normalise = Normalise(ModelSpec()).to(fabric.device)
        self.bar = _bar(disable=not (progress and fabric.is_global_zero))
        self._build()

    def _build(self) -> None:
        torch.manual_seed(self.recipe.seed)
        # Patches have a few sizes only, so trying cuDNN's algorithms for each size pays off.
        torch.backends.cudnn.benchmark = self.fabric.device.type == "cuda"
        network = self.state.recipe.network
        # A resumed or continued network gets its weights from a file, so nothing is downloaded.
        resnet = None if self.state.tensors or self.start else pretrained_resnet(network)
        self.network = start_network(self.start, network) if self.start else build_network(network, resnet)
        self.network.to(self.fabric.device).to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.network, multi_avg_fn=averaging(self.recipe.ema), use_buffers=True)
        self.optimizer = make_optimizer(self.network, self.recipe)
        if self.state.tensors:
            restore(self.out, self.state.tensors, self.network, self.average, self.optimizer)
        self.module, self.optimizer = self.fabric.setup(self.network, self.optimizer)

    def run(self, workers: int) -> TrainReport:
        """Train the remaining epochs, with batches from that many processes."""
        first = len(self.state.history) + 1
        if first == 1 and self.fabric.is_global_zero:  # so that it can be resumed at once
            save_state(self.out, msgspec.structs.replace(self.state, tensors=self._tensors()))
        on_gpu = self.fabric.device.type == "cuda"
        batches = self.dataset.batches(first, self.recipe.epochs, workers=workers, pin=on_gpu)
        with self._summary(first) as summary, self.bar:
            self.task = self.bar.add_task("training", total=self.recipe.epochs * self.dataset.steps())
            self.bar.advance(self.task, (first - 1) * self.dataset.steps())
            for number in range(first, self.recipe.epochs + 1):
                self._epoch(number, batches, summary)
        stems = tuple(image.stem for images in self.validation.values() for image in images)
        return TrainReport(self.out / BEST, self.state.recipe, self.state.history, stems)

    def _summary(self, first: int) -> AbstractContextManager[Any]:
        if not self.fabric.is_global_zero:
            return nullcontext()
        # The killed process may have written rows of the resumed epoch: TensorBoard drops them.
        return SummaryWriter(str(self.out / "tensorboard"), purge_step=first)

    def _epoch(self, number: int, batches: Iterator[Batch], summary: Any) -> None:
        started = time.perf_counter()
        loss, rate = self._train_epoch(number, batches)
        row = Epoch(number, loss, rate, time.perf_counter() - started)
        last = number == self.recipe.epochs
        if self.fabric.is_global_zero:
            if last or number % self.recipe.validate_every == 0:
                row = self._validated(row)
                scores = "  ".join(f"{score.view} {score.dice:.4f}" for score in row.views)
                self.bar.console.print(f"{self._status(number, loss)}  Dice {scores}", highlight=False)
            _log(summary, row)
        row = self.fabric.broadcast(row)  # only the first process validates
        self.state = msgspec.structs.replace(self.state, history=(*self.state.history, row), tensors={})
        if self.fabric.is_global_zero and (last or number % self.recipe.checkpoint_every == 0):
            save_state(self.out, msgspec.structs.replace(self.state, tensors=self._tensors()))
        self.fabric.barrier()

    def _train_epoch(self, number: int, batches: Iterator[Batch]) -> tuple[float, float]:
        self.module.train()
        steps, rate = self.dataset.steps(), 0.0
        total_loss = torch.zeros((), device=self.fabric.device)
        for step, (images, masks) in enumerate(islice(batches, steps)):
            rate = rate_at(self.recipe, (number - 1) * steps + step, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            total_loss += self._step(images, masks)
            # Reading the loss waits for the GPU, so it is not read at every step.
            if (step + 1) % LOSS_EVERY == 0 or step + 1 == steps or self.fabric.device.type == "cpu":
                description = self._status(number, _finite(total_loss) / (step + 1))
                self.bar.update(self.task, completed=(number - 1) * steps + step + 1, description=description)
        return float(total_loss) / steps, rate

    def _step(self, images: Tensor, masks: Tensor) -> Tensor:
        device = self.fabric.device
        images, masks = images.to(device, non_blocking=True), masks.to(device, non_blocking=True).float()
        self.optimizer.zero_grad()
        x = self.normalise(images.float()).contiguous(memory_format=torch.channels_last)
        loss = self._loss(self.module(x).float(), images, masks)
        self.fabric.backward(loss)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return loss.detach()

    def _loss(self, logits: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        if self.teacher is None:
            return segmentation_loss(logits, masks, self.recipe.loss)
        probability = self.teacher(images.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        return taught_loss(logits, masks, torch.from_numpy(probability).to(logits.device), self.recipe)

    def _status(self, number: int, loss: float) -> str:
        best = self.state.best_dice
        return f"epoch {number}/{self.recipe.epochs}  loss {loss:.4f}" + (
            f"  best Dice {best:.4f}" if best >= 0 else ""
        )

    def _validated(self, row: Epoch) -> Epoch:
        """Score the averaged weights on each view, and save them if their worst view is the best so far."""
        network = self.average.module.eval()
        scorer = nn.Sequential(self.normalise, network)
        views = tuple(score_view(scorer, view, self.fabric.device) for view in self.views)
        worst_dice, worst_iou = min(view.dice for view in views), min(view.iou for view in views)
        row = msgspec.structs.replace(row, validation_dice=worst_dice, validation_iou=worst_iou, views=views)
        if worst_dice > self.state.best_dice:
            shares = ", ".join(f"{name} ({len(images)})" for name, images in self.dataset.images_of.items())
            scores = {"epoch": str(row.epoch), "validation_dice": f"{worst_dice:.6f}"}
            notes = scores | {"training images": shares} | self.state.notes
            save_checkpoint(
                self.out / BEST, Checkpoint(network.state_dict(), self.state.recipe, self.state.licence, notes)
            )
        return row

    def _tensors(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }


def _finite(total_loss: Tensor) -> float:
    value = float(total_loss)
    if not math.isfinite(value):
        raise GateFailed("The training loss is not finite", "lower train.rate in the recipe")
    return value


def _bar(disable: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # Average the speed over the last hour, so that the estimate includes the pauses for validation.
    return Progress(*columns, console=Console(stderr=True), disable=disable, speed_estimate_period=3600)


def _log(summary: Any, row: Epoch) -> None:
    values = msgspec.to_builtins(row) | {f"dice/{score.view}": score.dice for score in row.views}
    for name, value in values.items():
        if value is not None and name not in ("epoch", "views"):
            summary.add_scalar(name, value, row.epoch)
