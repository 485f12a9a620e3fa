"""The stage: FP16 and INT8 graphs into a bundle, with what they were calibrated on and what they cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from msgspec.structs import replace

from msal_deploy.bundle import (
    CALIBRATION,
    INT8_U8S8,
    PRECISION_REPORT,
    Bundle,
    artifact,
    graph_name,
    write_manifest,
)
from msal_deploy.data import AnnotatedImage, patches_of, validation_split
from msal_deploy.errors import GateFailed
from msal_deploy.files import StrPath, write_json
from msal_deploy.graph import Layer, check_graph, int8_share, layers, load_graph
from msal_deploy.precision.calibrate import Method, calibrate, max_abs_values
from msal_deploy.precision.calibration_tiles import (
    Tile,
    describe_tiles,
    disjoint_draws,
    select_tiles,
    tissue_tiles,
)
from msal_deploy.precision.fp16 import to_fp16
from msal_deploy.precision.int8 import quantisable, to_int8
from msal_deploy.precision.search import Evaluator, SearchReport, search
from msal_deploy.runtimes import open_engine
from msal_deploy.scoring import Difference

FP32, FP16, INT8 = graph_name("fp32"), graph_name("fp16"), graph_name("int8")
TILES = 40
DRAWS = 5  # disjoint sets of tiles that the spread over calibrations is told from
CHECKED_TILES = 8


class Fp16Report(msgspec.Struct, frozen=True):
    """The FP16 graph.

    Attributes:
        kept_fp32: nodes left in FP32 because their numbers come near FP16's end.
        largest_value: largest absolute value of any tensor on the calibration tiles, and the tensor.
        max_abs_delta: largest |Δ probability| against FP32 on the tiles that were checked.
    """

    kept_fp32: tuple[str, ...]
    largest_value: float
    largest_tensor: str
    max_abs_delta: float


class CalibrationRun(msgspec.Struct, frozen=True):
    """Dice on the validation patches, calibrated on one of several disjoint sets of tiles."""

    dice: float
    delta_dice: Difference


class Int8Report(msgspec.Struct, frozen=True):
    """The INT8 graph.

    Attributes:
        share_of_macs: share of the multiply-accumulates that is done in INT8.
        layers: every layer at 512², with its precision.
        search: how it kept within a budget, where one was given.
        sensitivity: one row for each disjoint set of calibration tiles, given a budget and enough tiles.
    """

    share_of_macs: float
    float_nodes: tuple[str, ...]
    layers: tuple[Layer, ...]
    search: SearchReport | None = None
    sensitivity: tuple[CalibrationRun, ...] = ()


class PrecisionReport(msgspec.Struct, frozen=True):
    """What was added to a bundle."""

    method: str
    tiles: int
    images: int
    fp16: Fp16Report | None
    int8: Int8Report | None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def add_precisions(
    folder: StrPath,
    train: Sequence[AnnotatedImage],
    test: Sequence[AnnotatedImage] = (),
    *,
    fp16: bool = False,
    int8: bool = False,
    tiles: int | None = None,
    method: Method = "minmax",
    budget: float | None = None,
    trial_log: StrPath | None = None,
    progress: bool = False,
) -> PrecisionReport:
    """Add the FP16 and INT8 graphs to the bundle in `folder`, which nobody else may be reading yet.

    Args:
        folder: a bundle that has the FP32 graph; a failure leaves it half-done, so give `export`'s unfinished one.
        train: labelled training images. Those that training held out evaluator the Dice; tiles come from the others.
        test: images that must not be among them.
        tiles: how many calibration tiles to select_tiles; by default `TILES`, or all where there are fewer.
        method: how ranges are made of what activations show.
        budget: the loss of Dice that is allowed to INT8; None to quantise everything, and score nothing.
        trial_log: where a search keeps its trials, so that it can go on after a stop.

    Raises:
        BadInput: too few tiles or images, test images among them, or constant activations.
        GateFailed: the FP16 graph gives NaN or Inf, or no INT8 graph keeps the budget.
    """
    folder, trial_log = Path(folder), Path(trial_log) if trial_log else None
    bundle = Bundle(folder)
    training, validation = validation_split(train, bundle.manifest.recipe.train.validation)
    pool = tissue_tiles(training, test)
    tiles = tiles or min(TILES, len(pool))
    chosen = select_tiles(pool, tiles)
    record = describe_tiles(chosen, training, method)
    write_json(folder / CALIBRATION, msgspec.to_builtins(record))
    _register(folder, **{CALIBRATION: ()})
    ranges = calibrate(folder / FP32, chosen, method, progress=progress) if int8 or method == "minmax" else None
    extremes = ranges if method == "minmax" else calibrate(folder / FP32, chosen, progress=progress) if fp16 else None
    report = PrecisionReport(
        method,
        len(chosen),
        len(record.images),
        _add_fp16(folder, chosen, extremes) if fp16 else None,
        _add_int8(folder, ranges, pool, validation, tiles, method, budget, trial_log, progress) if int8 else None,
    )
    write_json(folder / PRECISION_REPORT, report.to_json())
    _register(folder, **{PRECISION_REPORT: (FP32, CALIBRATION)})
    return report


def _register(folder: Path, **made: tuple[str, ...]) -> None:
    """Enter files in the manifest: name -> what they were made from."""
    manifest = Bundle(folder).manifest
    entries = {name: artifact(folder, name, *sources) for name, sources in made.items()}
    write_manifest(folder, replace(manifest, artifacts={**manifest.artifacts, **entries}))


def _save(model: onnx.ModelProto, folder: Path, name: str) -> None:
    onnx.save(model, folder / name)
    check_graph(folder / name)
    _register(folder, **{name: (FP32, CALIBRATION)})


def _add_fp16(folder: Path, tiles: Sequence[Tile], extremes: Any) -> Fp16Report:
    values = max_abs_values(extremes)
    model, kept = to_fp16(load_graph(folder / FP32), values)
    _save(model, folder, FP16)
    worst = max(values, key=values.__getitem__)
    return Fp16Report(kept, values[worst], worst, _largest_delta(folder, "onnxruntime:fp16", tiles))


def _largest_delta(folder: Path, engine_id: str, tiles: Sequence[Tile]) -> float:
    """Return the largest |Δ probability| against FP32 on some tiles; a NaN or Inf anywhere fails the export."""
    images = np.stack([tile.image for tile in tiles[:CHECKED_TILES]])
    bundle = Bundle(folder)
    with open_engine(bundle, "onnxruntime:fp32") as reference, open_engine(bundle, engine_id) as engine:
        expected, found = reference(images), engine(images)
    if not np.isfinite(found).all():
        raise GateFailed(
            f"The {engine_id.partition(':')[2]} graph gives NaN or Inf on calibration tiles; "
            "nothing was written: use FP32, or train with norms that keep activations small"
        )
    return float(np.abs(found - expected).max())


def _add_int8(
    folder: Path,
    ranges: Any,
    pool: Sequence[Tile],
    validation: Sequence[AnnotatedImage],
    tiles: int,
    method: Method,
    budget: float | None,
    trial_log: Path | None,
    progress: bool,
) -> Int8Report:
    found: SearchReport | None = None
    sensitivity: tuple[CalibrationRun, ...] = ()
    returned: tuple[str, ...] = ()
    if budget is not None:
        evaluator = Evaluator(Bundle(folder), ranges, patches_of(validation), trial_log)
        found = search(evaluator, budget, progress=progress)
        returned = found.trials[found.chosen].float_nodes
        sensitivity = _sensitivity(evaluator, folder, pool, tiles, method, returned, progress)
    nodes = set(quantisable(folder / FP32)).difference(returned)
    model = to_int8(folder / FP32, ranges, nodes)
    _save(model, folder, INT8)
    _save(to_int8(folder / FP32, ranges, nodes, "u8s8"), folder, INT8_U8S8)
    counted = layers(model)
    return Int8Report(int8_share(counted), returned, counted, found, sensitivity)


def _sensitivity(
    evaluator: Evaluator,
    folder: Path,
    pool: Sequence[Tile],
    tiles: int,
    method: Method,
    returned: Sequence[str],
    progress: bool,
) -> tuple[CalibrationRun, ...]:
    """Score the same graph calibrated on disjoint draws: how much of its Dice is the luck of the tiles."""
    draws = disjoint_draws(pool, tiles, DRAWS)
    trials = [
        evaluator.calibrated(calibrate(folder / FP32, drawn, method, progress=progress)).evaluate(returned)
        for drawn in draws
    ]
    return tuple(CalibrationRun(trial.dice, trial.delta_dice) for trial in trials)
