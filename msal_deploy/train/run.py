"""The entry of training: checks its arguments, finds the devices through Lightning Fabric, and starts the loop."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

try:
    from lightning_fabric import Fabric
except ModuleNotFoundError:  # the same package inside the `lightning` distribution
    from lightning.fabric import Fabric  # type: ignore[no-redef]

from msal_deploy.checkpoint import UNKNOWN_LICENCE, Checkpoint
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.files import StrPath, output_lock
from msal_deploy.hardware import available_cores
from msal_deploy.recipe import Precision, Recipe
from msal_deploy.runtimes import Engine
from msal_deploy.train.patch_dataset import check_mixture
from msal_deploy.train.resume import resumed
from msal_deploy.train.start import check_start, origin, with_teacher
from msal_deploy.train.state import BEST, LAST, State
from msal_deploy.train.trainer import Images, Trainer, TrainReport
from msal_deploy.weight_files import first_line


def train(
    images: Images | Mapping[str, Images],
    recipe: Recipe,
    out: StrPath,
    *,
    unseen: Mapping[str, Images] = {},
    start: Checkpoint | None = None,
    teacher: Engine | None = None,
    resume: bool = False,
    licence: str = UNKNOWN_LICENCE,
    accelerator: str = "auto",
    devices: int = 1,
    workers: int | None = None,
    progress: bool = False,
) -> TrainReport:
    """Train a network and keep the weights with the best validation Dice::

        with open_dataset(Path("monuseg")) as dataset:
            report = train(dataset.train, Recipe.load("fast"), Path("runs/r34"))
        print(report.best.validation_dice, report.checkpoint)

    Args:
        images: Training images, or those of several data sets by name; the fraction ``recipe.train.validation`` of each
            set is held out. With several sets, the best weights are those with the best *worst* set.
        recipe: What to train, and how.
        out: The run folder (see `msal_deploy.train.state`).
        unseen: Data sets that are only validated, by name: they take part in the choice of the weights.
        start: The checkpoint to continue from (fine-tuning), instead of the initial weights of the recipe.
        teacher: An open engine whose probabilities are learnt, too, as ``recipe.train.teacher_weight`` says.
        resume: Continue the run in `out`, with its licence. The final weights equal those of an uninterrupted run:
            exactly, on a CPU with the same number of threads. The recipe may have more epochs than before.
        licence: SPDX identifier of the weights' licence, which depends on the training data.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: Number of devices, with one process each (DDP).
        workers: Number of processes that cut and augment patches; None for none on a CPU, and for the available cores,
            shared among `devices`, on a GPU. The patches do not depend on it.
        progress: Show a progress bar and one line per validated epoch on stderr.

    Raises:
        BadInput: `out` holds a run and `resume` is not set, or the reverse; or the run has another recipe, licence or
            other images; or another command trains in `out`; or the data set, the checkpoint, the accelerator or the
            precision cannot be used.
        GateFailed: The loss is not finite.
        MissingRequirement: The accelerator is missing, or its memory is too small for the batch.
    """
    out = Path(out)
    sets: Mapping[str, Images] = images if isinstance(images, Mapping) else {"images": images}
    check_mixture(recipe.train, sets)
    if both := sorted(set(sets) & set(unseen)):
        raise BadInput(f"The data set {both[0]} is both trained on and unseen", "give it once")
    stems = (*_stems(sets), *(f"unseen {stem}" for stem in _stems(unseen)))
    with output_lock(out):
        say = partial(print, file=sys.stderr) if progress else lambda _: None
        state = resumed(out, recipe, stems, licence, say) if resume else _fresh(out, recipe, stems, licence)
        if start is not None and not resume:
            check_start(start, recipe)
            state = msgspec.structs.replace(state, notes=origin(start))
        state = with_teacher(state, teacher, resume=resume)
        fabric = _fabric(accelerator, devices, recipe.train.precision)
        fabric.launch()
        with _fits(recipe.train.batch, fabric.device):
            trainer = Trainer(fabric, sets, unseen, state, start, teacher, out, progress)
            return trainer.run(_workers(workers, fabric.device, devices))


@contextmanager
def _fits(batch: int, device: torch.device) -> Iterator[None]:
    """Explain that the memory of the device is too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        cause = f"A batch of {batch} does not fit into the memory of {device}"
        raise MissingRequirement(cause, "lower train.batch in the recipe") from error


def _workers(workers: int | None, device: torch.device, devices: int) -> int:
    if workers is not None:
        return workers
    return 0 if device.type == "cpu" else max(1, available_cores() // devices - 1)


def _fabric(accelerator: str, devices: int, precision: Precision) -> Any:
    strategy = "ddp" if devices > 1 else "auto"
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision, strategy=strategy)
    except ValueError as error:
        cause = f"--accelerator {accelerator} with --devices {devices} is not valid: {first_line(error)}"
        raise BadInput(cause, "use auto, cpu, cuda or mps") from error
    except RuntimeError as error:
        cause = f"--accelerator {accelerator} is not available for --devices {devices}: {first_line(error)}"
        raise MissingRequirement(cause, "use --accelerator cpu") from error
    if precision == "16-mixed" and fabric.device.type == "cpu":
        # Fabric would silently use bf16.
        raise BadInput("16-mixed is not supported on a CPU", "set train.precision in the recipe")
    return fabric


def _stems(sets: Mapping[str, Images]) -> tuple[str, ...]:
    return tuple(f"{name}/{image.stem}" for name, images in sets.items() for image in images)


def _fresh(out: Path, recipe: Recipe, stems: tuple[str, ...], licence: str) -> State:
    if (out / LAST).exists():
        raise BadInput(f"{out} already holds a training run", "continue it with --resume, or choose another folder")
    if (out / BEST).exists():
        raise BadInput(f"{out / BEST} exists and training would replace it", "choose another folder")
    return State(recipe, stems, (), {}, licence=licence)
