"""Training a row, and scoring its exported graph on the test patches."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from parity import Parity, Proof, prove
from rich.console import Console
from rich.progress import track
from rows import Row

from msal_deploy.bench import describe_machine
from msal_deploy.bundle import Bundle
from msal_deploy.checkpoint import load_checkpoint
from msal_deploy.data import Dataset, Patch, label_convention
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256, write_json
from msal_deploy.metrics import Confusion, confusion, dice, iou, pooled, precision, recall
from msal_deploy.recipe import NetworkRecipe, Recipe, TrainRecipe
from msal_deploy.runtimes import open_engine
from msal_deploy.train import LAST, TrainReport, train
from msal_deploy.zoo import STARTS_FROM_RESNET

ENGINE = "onnxruntime:fp32"
METRICS = {"pixel_dice": dice, "pixel_iou": iou, "precision": precision, "recall": recall}


class Training(msgspec.Struct, frozen=True):
    """How a row was trained: epochs, the one that was kept, and the seconds that the training steps took."""

    best_epoch: int
    validation_dice: float
    seconds: float
    training_images: int
    validation_stems: tuple[str, ...]
    checkpoint_sha256: str


class PatchScore(msgspec.Struct, frozen=True):
    """The pixels of one test patch."""

    stem: str
    corner: str
    counts: Confusion


class RowScore(msgspec.Struct, frozen=True):
    """How a trained row did on the test patches.

    Attributes:
        data: name of the folder or zip that was trained and tested on.
        scores: each metric as the mean over patches (``…_mean``, the paper's) and of the pooled pixels.
    """

    key: str
    recipe: Recipe
    data: str
    training: Training
    proof: Proof
    engine: str
    threshold: float
    label_convention: str
    images: int
    scores: dict[str, float]
    patches: tuple[PatchScore, ...]
    environment: dict[str, Any]


def score_file(folder: Path, row: Row) -> Path:
    """Return where the score of a row is kept."""
    return folder / f"{row.key}.json"


def load_score(folder: Path, row: Row) -> RowScore | None:
    """Return the score of a row, or None where it has not been run.

    Raises:
        BadInput: the file is no score, or another network's.
    """
    path = score_file(folder, row)
    if not path.exists():
        return None
    try:
        score = msgspec.json.decode(path.read_bytes(), type=RowScore)
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is no score ({error}); remove it and train the row again") from error
    if unweighted(score.recipe.network) != unweighted(row.network):
        raise BadInput(f"{path} is the score of another network; remove it and train the row again")
    return score


def schedule_of(scores: Sequence[RowScore]) -> TrainRecipe | None:
    """Return the one schedule that all `scores` come from, None where there is no score.

    Raises:
        BadInput: there is more than one schedule or data set, so that rows cannot be compared.
    """
    by_schedule = {(score.recipe.train, score.data, len(score.patches)): score.key for score in scores}
    if len(by_schedule) > 1:
        keys = " and ".join(list(by_schedule.values())[:2])
        raise BadInput(f"{keys} were trained by different schedules or on different data; train them alike")
    return next(iter(by_schedule))[0] if by_schedule else None


def recipe_of(row: Row, recipe: Recipe) -> Recipe:
    """Return `recipe` with the network of a row, which starts from where the recipe says if it has such an encoder."""
    weights = recipe.network.weights if row.network.model in STARTS_FROM_RESNET else "random"
    return msgspec.structs.replace(recipe, network=msgspec.structs.replace(row.network, weights=weights))


def unweighted(network: NetworkRecipe) -> NetworkRecipe:
    """Return `network` without where its encoder starts from."""
    return msgspec.structs.replace(network, weights="random")


def run(
    row: Row, recipe: Recipe, dataset: Dataset, patches: Sequence[Patch], out: Path, parity: Parity, licence: str
) -> RowScore:
    """Train a row, or go on where it was stopped; export it; score its graph once; write the score."""
    folder = out / row.key
    report = train(dataset.train, recipe, folder, resume=(folder / LAST).exists(), licence=licence, progress=True)
    with TemporaryDirectory(prefix="msal-deploy-") as temporary:
        bundle_folder = Path(temporary) / "bundle"
        proof = prove(load_checkpoint(report.checkpoint), bundle_folder, parity)
        bundle = Bundle(bundle_folder)
        counts = confusions(bundle, patches)
    score = RowScore(
        key=row.key,
        recipe=recipe,
        data=dataset.root.resolve().name,
        training=_training(report, len(dataset.train)),
        proof=proof,
        engine=ENGINE,
        threshold=bundle.spec.threshold,
        label_convention=label_convention(dataset.test),
        images=len({patch.stem for patch in patches}),
        scores=summary(counts),
        patches=tuple(PatchScore(patch.stem, patch.corner, c) for patch, c in zip(patches, counts, strict=True)),
        environment=describe_machine(),
    )
    write_json(score_file(out, row), msgspec.to_builtins(score))
    return score


def confusions(bundle: Bundle, patches: Sequence[Patch]) -> list[Confusion]:
    """Count the pixels of every patch, segmented by the exported graph."""
    with open_engine(bundle, ENGINE) as engine:
        return [
            confusion(patch.mask, engine(patch.image[np.newaxis])[0, 0] >= bundle.spec.threshold)
            for patch in track(patches, "test patches", console=Console(stderr=True))
        ]


def summary(counts: Sequence[Confusion]) -> dict[str, float]:
    """Return each metric as the mean over patches and of the pooled pixels."""
    total = pooled(counts)
    means = {f"{name}_mean": fmean(map(metric, counts)) for name, metric in METRICS.items()}
    return means | {f"{name}_pooled": metric(total) for name, metric in METRICS.items()}


def _training(report: TrainReport, images: int) -> Training:
    return Training(
        best_epoch=report.best.epoch,
        validation_dice=report.best.validation_dice or 0.0,
        seconds=sum(epoch.seconds for epoch in report.history),
        training_images=images - len(report.validation_stems),
        validation_stems=report.validation_stems,
        checkpoint_sha256=sha256(report.checkpoint),
    )
