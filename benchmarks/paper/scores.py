"""Trains a row and scores its exported graph on the test patches."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import torch
from agreement import Agreement, ShapeSet, check_agreement
from rich.console import Console
from rich.progress import track
from rows import Row

from msal_deploy import metrics
from msal_deploy.bench import describe_machine
from msal_deploy.bundle import Bundle
from msal_deploy.checkpoint import load_checkpoint
from msal_deploy.data import Dataset, Patch, label_convention
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256, write_json
from msal_deploy.hardware import describe_processor
from msal_deploy.metrics import Confusion, averages, confusion
from msal_deploy.recipe import NetworkRecipe, Recipe, TrainRecipe
from msal_deploy.runtimes import open_engine
from msal_deploy.train import LAST, TrainReport, train
from msal_deploy.zoo import STARTS_FROM_RESNET

ENGINE = "onnxruntime:fp32"


class Training(msgspec.Struct, frozen=True):
    """How a row was trained.

    Attributes:
        best_epoch: Epoch of the checkpoint.
        validation_dice: Dice of that epoch on the validation images.
        seconds: Duration of all training steps.
        training_images: Number of images without the validation images.
        validation_stems: Names of the validation images.
        checkpoint_sha256: SHA-256 of the checkpoint.
    """

    best_epoch: int
    validation_dice: float
    seconds: float
    training_images: int
    validation_stems: tuple[str, ...]
    checkpoint_sha256: str


class PatchScore(msgspec.Struct, frozen=True):
    """The pixel counts of one test patch."""

    stem: str
    corner: str
    counts: Confusion


class RowScore(msgspec.Struct, frozen=True):
    """The scores of a trained row on the test patches.

    Attributes:
        data: Name of the folder or zip with the training and test images.
        agreement: The comparison with PyTorch; the key ``proof`` in the JSON.
        scores: For each metric the mean over patches (``…_mean``, as in the paper) and the score of the pooled pixel
            counts (``…_pooled``).
        environment: The machine, with all its GPUs.
        trained_on: Name of the GPU or processor that finished the training.
    """

    key: str
    recipe: Recipe
    data: str
    training: Training
    agreement: Agreement = msgspec.field(name="proof")
    engine: str
    threshold: float
    label_convention: str
    images: int
    scores: dict[str, float]
    patches: tuple[PatchScore, ...]
    environment: dict[str, Any]
    trained_on: str = "an unknown device"


def score_file(folder: Path, row: Row) -> Path:
    """Return the path of a row's score."""
    return folder / f"{row.key}.json"


def load_score(folder: Path, row: Row) -> RowScore | None:
    """Return the score of a row, or None if it was not trained.

    Raises:
        BadInput: The file has another format or is the score of another network.
    """
    path = score_file(folder, row)
    if not path.exists():
        return None
    try:
        score = msgspec.json.decode(path.read_bytes(), type=RowScore)
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is not a score ({error})", "remove it and train the row again") from error
    if without_weights(score.recipe.network) != without_weights(row.network):
        raise BadInput(f"{path} is the score of another network", "remove it and train the row again")
    return score


def schedule_of(scores: Sequence[RowScore]) -> TrainRecipe | None:
    """Return the training schedule of all `scores`, or None if there are no scores.

    Raises:
        BadInput: The scores are from different schedules or data sets, so they are not comparable.
    """
    by_schedule = {(score.recipe.train, score.data, len(score.patches)): score.key for score in scores}
    if len(by_schedule) > 1:
        keys = " and ".join(list(by_schedule.values())[:2])
        raise BadInput(f"{keys} have different schedules or data sets", "train them with the same recipe and data")
    return next(iter(by_schedule))[0] if by_schedule else None


def recipe_of(row: Row, recipe: Recipe) -> Recipe:
    """Return `recipe` with the network of a row. Networks with a ResNet encoder keep the recipe's initial weights."""
    weights = recipe.network.weights if row.network.model in STARTS_FROM_RESNET else "random"
    return msgspec.structs.replace(recipe, network=msgspec.structs.replace(row.network, weights=weights))


def without_weights(network: NetworkRecipe) -> NetworkRecipe:
    """Return `network` with random initial weights, to compare architectures."""
    return msgspec.structs.replace(network, weights="random")


def run(
    row: Row,
    recipe: Recipe,
    dataset: Dataset,
    patches: Sequence[Patch],
    out: Path,
    *,
    shapes: ShapeSet,
    licence: str,
    accelerator: str,
) -> RowScore:
    """Train a row or resume its training, export it, score its graph, and write the score to `out`."""
    folder = out / row.key
    report = train(
        dataset.train,
        recipe,
        folder,
        resume=(folder / LAST).exists(),
        licence=licence,
        accelerator=accelerator,
        progress=True,
    )
    with TemporaryDirectory(prefix="msal-deploy-") as temporary:
        bundle_folder = Path(temporary) / "bundle"
        agreement = check_agreement(load_checkpoint(report.checkpoint), bundle_folder, shapes)
        bundle = Bundle(bundle_folder)
        counts = confusions(bundle, patches)
    score = RowScore(
        key=row.key,
        recipe=recipe,
        data=dataset.root.resolve().name,
        training=_training(report, len(dataset.train)),
        agreement=agreement,
        engine=ENGINE,
        threshold=bundle.spec.threshold,
        label_convention=label_convention(dataset.test),
        images=len({patch.stem for patch in patches}),
        scores=summary(counts),
        patches=tuple(PatchScore(patch.stem, patch.corner, c) for patch, c in zip(patches, counts, strict=True)),
        environment=describe_machine(),
        trained_on=device_name(accelerator),
    )
    write_json(score_file(out, row), msgspec.to_builtins(score))
    return score


def device_name(accelerator: str) -> str:
    """Return the name of the GPU or processor that `msal_deploy.train.train` uses for `accelerator`."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    processor, _ = describe_processor()
    uses_mps = accelerator != "cpu" and torch.backends.mps.is_available()
    return f"{processor} (MPS)" if uses_mps else processor


def confusions(bundle: Bundle, patches: Sequence[Patch]) -> list[Confusion]:
    """Return the pixel counts of each patch, predicted by the exported graph."""
    with open_engine(bundle, ENGINE) as engine:
        return [
            confusion(patch.mask, engine(patch.image[np.newaxis])[0, 0] >= bundle.spec.threshold)
            for patch in track(patches, "test patches", console=Console(stderr=True))
        ]


def summary(counts: Sequence[Confusion]) -> dict[str, float]:
    """Return both averages of each entry of `msal_deploy.metrics.METRICS`: ``<name>_mean`` and ``<name>_pooled``."""
    return {
        f"{metric.name}_{average}": value
        for metric in metrics.METRICS
        for average, value in averages(metric.score, counts).items()
    }


def _training(report: TrainReport, images: int) -> Training:
    return Training(
        best_epoch=report.best.epoch,
        validation_dice=report.best.validation_dice or 0.0,
        seconds=sum(epoch.seconds for epoch in report.history),
        training_images=images - len(report.validation_stems),
        validation_stems=report.validation_stems,
        checkpoint_sha256=sha256(report.checkpoint),
    )
