"""The training loop, on whatever devices Lightning Fabric finds."""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter

try:
    from lightning_fabric import Fabric
except ModuleNotFoundError:  # the same package inside the `lightning` distribution
    from lightning.fabric import Fabric  # type: ignore[no-redef]

from msal_deploy.checkpoint import UNKNOWN_LICENCE, Checkpoint, first_line, pretrained_resnet, save_checkpoint
from msal_deploy.data import AnnotatedImage, Patch, corner_patches, image_size, validation_split
from msal_deploy.errors import BadInput, GateFailed, MissingRequirement
from msal_deploy.files import StrPath
from msal_deploy.metrics import confusion, dice, iou
from msal_deploy.network import Normalise
from msal_deploy.recipe import Precision, Recipe
from msal_deploy.spec import ModelSpec
from msal_deploy.train.optim import averaging, make_optimizer, rate_at, segmentation_loss
from msal_deploy.train.patch_dataset import PatchDataset, as_tensors
from msal_deploy.train.state import BEST, LAST, Epoch, State, load_state, save_state
from msal_deploy.zoo import build_network


class TrainReport(msgspec.Struct, frozen=True):
    """What a training came to."""

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


def train(
    cases: Sequence[AnnotatedImage],
    recipe: Recipe,
    out: StrPath,
    *,
    resume: bool = False,
    licence: str = UNKNOWN_LICENCE,
    accelerator: str = "auto",
    devices: int = 1,
    progress: bool = False,
) -> TrainReport:
    """Train a network and keep the weights of the best validation Dice.

    Args:
        cases: training images; ``recipe.train.validation`` of them are held out.
        out: the run folder (see `msal_deploy.train.state`).
        resume: go on where the run in `out` was stopped or killed. The weights come out as if it had not been:
            exactly on a CPU with the same number of threads.
        licence: SPDX identifier of the licence that the training data puts on the weights.
        progress: show a bar with the time left, and a line for every validated epoch, on stderr.

    Raises:
        BadInput: `out` holds a training and `resume` is not set, or the reverse, or another recipe or data set.
        GateFailed: the loss is no longer a finite number.
        MissingRequirement: the device's memory is too small for the batch.
    """
    out = Path(out)
    state = _resumed(out, recipe, cases) if resume else _fresh(out, recipe, cases)
    fabric = _fabric(accelerator, devices, recipe.train.precision)
    fabric.launch()
    try:
        return _Trainer(fabric, cases, state, out, licence, progress).run()
    except torch.OutOfMemoryError as error:
        raise MissingRequirement(
            f"A batch of {recipe.train.batch} does not fit into the memory of {fabric.device}; "
            "lower train.batch in the recipe"
        ) from error


def _fabric(accelerator: str, devices: int, precision: Precision) -> Any:
    strategy = "ddp" if devices > 1 else "auto"
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision, strategy=strategy)
    except ValueError as error:
        raise BadInput(
            f"--accelerator {accelerator} with {devices} devices is not possible: {first_line(error)}"
        ) from error
    except RuntimeError as error:
        raise MissingRequirement(
            f"There is no {accelerator} for {devices} devices here: {first_line(error)}"
        ) from error
    if precision == "16-mixed" and fabric.device.type == "cpu":
        raise BadInput("16-mixed needs a GPU, and a CPU would silently take bf16; set train.precision in the recipe")
    return fabric


def _fresh(out: Path, recipe: Recipe, cases: Sequence[AnnotatedImage]) -> State:
    if (out / LAST).exists():
        raise BadInput(f"{out} already holds a training; go on with --resume, or choose another folder")
    return State(recipe, tuple(case.stem for case in cases), (), {})


def _resumed(out: Path, recipe: Recipe, cases: Sequence[AnnotatedImage]) -> State:
    state = load_state(out)
    if state.recipe != recipe:
        raise BadInput(
            f"{out} was trained with another recipe ({state.recipe.name!r}); go on with that, or choose another folder"
        )
    if state.stems != tuple(case.stem for case in cases):
        raise BadInput(f"{out} was trained on other images; go on with those, or choose another folder")
    return state


class _Trainer:
    """One training: what `train` needs in every epoch."""

    def __init__(
        self, fabric: Any, cases: Sequence[AnnotatedImage], state: State, out: Path, licence: str, progress: bool
    ) -> None:
        self.fabric, self.state, self.out, self.licence = fabric, state, out, licence
        self.recipe = state.recipe.train
        training, self.validation = validation_split(cases, self.recipe.validation)
        self.samples = PatchDataset(training, self.recipe, fabric.device, fabric.global_rank, fabric.world_size)
        self.patches = [patch for case in self.validation for patch in _validation_patches(case)]
        self.normalise = Normalise(ModelSpec()).to(fabric.device)
        self.bar = _bar(disable=not (progress and fabric.is_global_zero))
        self._build()

    def _build(self) -> None:
        torch.manual_seed(self.recipe.seed)
        # A resumed network gets its weights from the state: nothing is downloaded again.
        resnet = None if self.state.tensors else pretrained_resnet(self.state.recipe.network)
        self.network = build_network(self.state.recipe.network, resnet).to(self.fabric.device)
        self.network.to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.network, multi_avg_fn=averaging(self.recipe.ema), use_buffers=True)
        self.optimizer = make_optimizer(self.network, self.recipe)
        if self.state.tensors:
            self.network.load_state_dict(self.state.tensors["network"])
            self.average.load_state_dict(self.state.tensors["average"])
            self.optimizer.load_state_dict(self.state.tensors["optimizer"])
        self.module, self.optimizer = self.fabric.setup(self.network, self.optimizer)

    def run(self) -> TrainReport:
        first = len(self.state.history) + 1
        with self._summary(first) as summary, self.bar:
            self.task = self.bar.add_task("training", total=self.recipe.epochs * self.samples.steps())
            self.bar.advance(self.task, (first - 1) * self.samples.steps())
            for number in range(first, self.recipe.epochs + 1):
                self._epoch(number, summary)
        stems = tuple(case.stem for case in self.validation)
        return TrainReport(self.out / BEST, self.state.recipe, self.state.history, stems)

    def _summary(self, first: int) -> AbstractContextManager[Any]:
        if not self.fabric.is_global_zero:
            return nullcontext()
        # Rows from the resumed epoch on were written by a process that was killed: TensorBoard drops them.
        return SummaryWriter(str(self.out / "tensorboard"), purge_step=first)

    def _epoch(self, number: int, summary: Any) -> None:
        started = time.perf_counter()
        loss, rate = self._train_epoch(number)
        row = Epoch(number, loss, rate, time.perf_counter() - started)
        last = number == self.recipe.epochs
        if self.fabric.is_global_zero:
            if last or number % self.recipe.validate_every == 0:
                row = self._validated(row)
                self.bar.console.print(f"{self._status(number, loss)}  Dice {row.validation_dice:.4f}", highlight=False)
            _log(summary, row)
        row = self.fabric.broadcast(row)  # only the first process validates
        self.state = State(self.state.recipe, self.state.stems, (*self.state.history, row), {})
        if self.fabric.is_global_zero and (last or number % self.recipe.checkpoint_every == 0):
            save_state(self.out, msgspec.structs.replace(self.state, tensors=self._tensors()))
        self.fabric.barrier()

    def _train_epoch(self, number: int) -> tuple[float, float]:
        self.module.train()
        steps, total_loss, rate = self.samples.steps(), 0.0, 0.0
        for step, (images, masks) in enumerate(self.samples.epoch(number)):
            done = (number - 1) * steps + step
            rate = rate_at(self.recipe, done, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            total_loss += self._step(images, masks)
            self.bar.update(self.task, advance=1, description=self._status(number, total_loss / (step + 1)))
        return total_loss / steps, rate

    def _step(self, images: Tensor, masks: Tensor) -> float:
        self.optimizer.zero_grad()
        x = self.normalise(images.float()).contiguous(memory_format=torch.channels_last)
        loss = segmentation_loss(self.module(x).float(), masks, self.recipe.loss)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise GateFailed("The training loss is no longer a finite number; lower train.rate in the recipe")
        self.fabric.backward(loss)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return value

    def _status(self, number: int, loss: float) -> str:
        best = self.state.best_dice
        return f"epoch {number}/{self.recipe.epochs}  loss {loss:.4f}" + (
            f"  best Dice {best:.4f}" if best >= 0 else ""
        )

    @torch.no_grad()
    def _validated(self, row: Epoch) -> Epoch:
        """Score the held-out patches with the averaged weights, and keep these where they are the best so far."""
        network = self.average.module.eval()
        counts = []
        for patch in self.patches:
            image, _ = as_tensors(patch.image, patch.mask, self.fabric.device)
            x = self.normalise(image.as_subclass(Tensor)[None].float()).contiguous(memory_format=torch.channels_last)
            counts.append(confusion(patch.mask, (network(x)[0, 0] >= 0).cpu().numpy()))
        scores = [sum(map(score, counts)) / len(counts) for score in (dice, iou)]
        row = msgspec.structs.replace(row, validation_dice=scores[0], validation_iou=scores[1])
        if scores[0] > self.state.best_dice:
            notes = {"epoch": str(row.epoch), "validation_dice": f"{scores[0]:.6f}"}
            save_checkpoint(self.out / BEST, Checkpoint(network.state_dict(), self.state.recipe, self.licence, notes))
        return row

    def _tensors(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }


def _validation_patches(case: AnnotatedImage) -> tuple[Patch, ...]:
    # The test's 512 px where the image has them.
    side = min(512, *(extent // 32 * 32 for extent in image_size(case.image_path)))
    if side == 0:
        raise BadInput(f"{case.image_path} is smaller than 32 px; remove it")
    return corner_patches(case, side)


def _bar(disable: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # Speed over the last hour, so that the pauses of validation are in the estimate.
    return Progress(*columns, console=Console(stderr=True), disable=disable, speed_estimate_period=3600)


def _log(summary: Any, row: Epoch) -> None:
    for name, value in msgspec.to_builtins(row).items():
        if value is not None and name != "epoch":
            summary.add_scalar(name, value, row.epoch)
