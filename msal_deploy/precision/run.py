"""Add FP16 and INT8 graphs to a bundle, with their calibration list and their loss in Dice."""

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
from msal_deploy.metrics import Interval
from msal_deploy.precision.calibrate import Method, calibrate, max_abs_values
from msal_deploy.precision.calibration_tiles import (
    Tile,
    describe_tiles,
    disjoint_selections,
    select_tiles,
    tissue_tiles,
)
from msal_deploy.precision.fp16 import to_fp16
from msal_deploy.precision.int8 import quantisable, to_int8
from msal_deploy.precision.search import Evaluator, SearchReport, search
from msal_deploy.runtimes import open_engine

FP32, FP16, INT8 = graph_name("fp32"), graph_name("fp16"), graph_name("int8")
TILES = 40  # calibration tiles by default
CALIBRATION_RUNS = 5  # disjoint selections of tiles, to estimate how much Dice depends on the selection
CHECKED_TILES = 8  # tiles on which the FP16 graph is compared with FP32


class Fp16Report(msgspec.Struct, frozen=True):
    """The FP16 graph.

    Attributes:
        kept_fp32: Nodes kept in FP32, because their values come close to the largest FP16 number.
        largest_value: Largest absolute value of any tensor on the calibration tiles.
        largest_tensor: The tensor that has it.
        max_abs_delta: Largest absolute difference in probability from FP32, on `CHECKED_TILES` tiles.
    """

    kept_fp32: tuple[str, ...]
    largest_value: float
    largest_tensor: str
    max_abs_delta: float


class CalibrationRun(msgspec.Struct, frozen=True):
    """The score of the INT8 graph calibrated on one of several disjoint selections of tiles.

    Attributes:
        dice: Mean Dice over the validation patches.
        delta_dice: Interval in Dice from FP32.
    """

    dice: float
    delta_dice: Interval


class Int8Report(msgspec.Struct, frozen=True):
    """The INT8 graph.

    Attributes:
        share_of_macs: Fraction of the multiply-accumulates in INT8.
        float_nodes: Nodes kept in float to stay within the budget.
        layers: All layers at 512×512 px, with their precision.
        search: The search under a budget, or None without a budget.
        sensitivity: One run per disjoint selection of calibration tiles; empty without a budget or with too few tiles.
    """

    share_of_macs: float
    float_nodes: tuple[str, ...]
    layers: tuple[Layer, ...]
    search: SearchReport | None = None
    sensitivity: tuple[CalibrationRun, ...] = ()


class PrecisionReport(msgspec.Struct, frozen=True):
    """The graphs added to a bundle; ``precision.json`` in the bundle.

    Attributes:
        method: Calibration method.
        tiles: Number of calibration tiles.
        images: Number of images that the tiles were cut from.
        fp16: The FP16 graph, if it was added.
        int8: The INT8 graph, if it was added.
    """

    method: str
    tiles: int
    images: int
    fp16: Fp16Report | None
    int8: Int8Report | None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        report: dict[str, Any] = msgspec.to_builtins(self)
        return report


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
    """Add FP16 and INT8 graphs to the bundle in `folder`, before anything else reads it::

        with open_dataset(Path("monuseg")) as dataset:
            add_precisions(folder, dataset.train, dataset.test, fp16=True, int8=True, budget=0.002)

    Args:
        folder: A bundle with the FP32 graph. If an error occurs, it is left incomplete, so pass the folder that
            `export` has not finished yet.
        train: Labelled training images. Dice is measured on those that training held out, as its validation images;
            calibration tiles come from the others.
        test: Test images, which must differ from the training images.
        fp16: Add the FP16 graph.
        int8: Add the INT8 graphs.
        tiles: Number of calibration tiles; by default `TILES`, or all tiles if there are fewer.
        method: Calibration method, see `calibrate`.
        budget: Largest loss of Dice allowed for INT8; None to quantise everything without scoring it.
        trial_log: File in which the search records its trials, so that an interrupted search resumes; None for none.
        progress: Show progress on stderr.

    Raises:
        BadInput: There are too few tiles or images, a test image is among them, or an activation is constant.
        GateFailed: The FP16 graph gives NaN or Inf, or no INT8 graph stays within the budget.
    """
    folder, trial_log = Path(folder), Path(trial_log) if trial_log else None
    share = Bundle(folder).manifest.recipe.train.validation
    training, validation, pool, selected = choose_tiles(train, test, share, tiles)
    record = describe_tiles(selected, training, method)
    write_json(folder / CALIBRATION, msgspec.to_builtins(record))
    _register(folder, **{CALIBRATION: ()})
    ranges = calibrate(folder / FP32, selected, method, progress=progress) if int8 or method == "minmax" else None
    extremes = ranges if method == "minmax" else calibrate(folder / FP32, selected, progress=progress) if fp16 else None
    report = PrecisionReport(
        method,
        len(selected),
        len(record.images),
        _add_fp16(folder, selected, extremes) if fp16 else None,
        _add_int8(folder, ranges, pool, validation, len(selected), method, budget, trial_log, progress)
        if int8
        else None,
    )
    write_json(folder / PRECISION_REPORT, report.to_json())
    _register(folder, **{PRECISION_REPORT: (FP32, CALIBRATION)})
    return report


def choose_tiles(
    train: Sequence[AnnotatedImage], test: Sequence[AnnotatedImage], share: float, tiles: int | None = None
) -> tuple[Sequence[AnnotatedImage], Sequence[AnnotatedImage], Sequence[Tile], Sequence[Tile]]:
    """Return the images to calibrate on, those to score on, all tiles of the former, and the tiles to calibrate on.

    Args:
        train: Training images.
        test: Test images, which must differ from them.
        share: Share of the training images that the recipe validates on.
        tiles: Number of calibration tiles; None for `TILES`, or all if there are fewer.

    Raises:
        BadInput: There are too few images or tiles, or a training image is also a test image.
    """
    training, validation = validation_split(train, share)
    pool = tissue_tiles(training, test)
    return training, validation, pool, select_tiles(pool, tiles or min(TILES, len(pool)))


def _register(folder: Path, **made: tuple[str, ...]) -> None:
    """Add files to the manifest: name -> the files they were made from."""
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
    """Return the largest absolute difference in probability from FP32; NaN and Inf fail the export.

    One tile per call, as in calibration: eight of CNN3, whose activations have 1024 channels, took 11 GB.
    """
    bundle, deltas = Bundle(folder), []
    with open_engine(bundle, "onnxruntime:fp32") as reference, open_engine(bundle, engine_id) as engine:
        for tile in tiles[:CHECKED_TILES]:
            actual = engine(tile.image[None])
            if not np.isfinite(actual).all():
                raise GateFailed(
                    f"The {engine_id.partition(':')[2]} graph gives NaN or Inf on calibration tiles",
                    "use FP32, or add normalisation layers",
                )
            deltas.append(np.abs(actual - reference(tile.image[None])).max())
    return float(max(deltas))


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
    search_report: SearchReport | None = None
    sensitivity: tuple[CalibrationRun, ...] = ()
    float_nodes: tuple[str, ...] = ()
    if budget is not None:
        evaluator = Evaluator(Bundle(folder), ranges, patches_of(validation), trial_log)
        search_report = search(evaluator, budget, progress=progress)
        float_nodes = search_report.trials[search_report.chosen].float_nodes
        sensitivity = _sensitivity(evaluator, folder, pool, tiles, method, float_nodes, progress)
    nodes = set(quantisable(folder / FP32)).difference(float_nodes)
    model = to_int8(folder / FP32, ranges, nodes)
    _save(model, folder, INT8)
    _save(to_int8(folder / FP32, ranges, nodes, "u8s8"), folder, INT8_U8S8)
    counted = layers(model)
    return Int8Report(int8_share(counted), float_nodes, counted, search_report, sensitivity)


def _sensitivity(
    evaluator: Evaluator,
    folder: Path,
    pool: Sequence[Tile],
    tiles: int,
    method: Method,
    float_nodes: Sequence[str],
    progress: bool,
) -> tuple[CalibrationRun, ...]:
    """Score the same graph calibrated on disjoint selections of tiles, to see how much Dice depends on the tiles."""
    trials = [
        evaluator.calibrated(calibrate(folder / FP32, selected, method, progress=progress)).evaluate(float_nodes)
        for selected in disjoint_selections(pool, tiles, CALIBRATION_RUNS)
    ]
    return tuple(CalibrationRun(trial.dice, trial.delta_dice) for trial in trials)
