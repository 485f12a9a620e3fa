"""Calibrate: measure the range of every tensor on calibration tiles, with ONNX Runtime's calibrators."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator
from rich.console import Console
from rich.progress import track

from msal_deploy.errors import BadInput
from msal_deploy.files import temporary_folder
from msal_deploy.graph import load_graph
from msal_deploy.precision.calibration_tiles import Tile

Method = Literal["minmax", "entropy", "percentile"]

METHODS: dict[Method, Any] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# The values are ONNX Runtime's defaults, written out so that a new release cannot change them unnoticed.
OPTIONS: dict[Method, dict[str, Any]] = {
    "minmax": {"symmetric": False},
    "entropy": {"symmetric": False, "num_bins": 128, "num_quantized_bins": 128},
    "percentile": {"symmetric": True, "num_bins": 2048, "percentile": 99.999},
}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, tile: Tile) -> None:
        self._inputs: Iterator[dict[str, Any]] = iter([{name: tile.image[None]}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._inputs, None)


def calibrate(graph: Path, tiles: Sequence[Tile], method: Method = "minmax", *, progress: bool = False) -> Any:
    """Measure the range of each float tensor of an FP32 graph on calibration tiles.

    >>> tile = Tile("image", row=0, column=0, image=np.zeros((64, 64, 3), np.uint8))
    >>> ranges = calibrate(Path("bundle/model.fp32.onnx"), [tile])
    >>> max_abs_values(ranges)["probability"]
    0.5

    Args:
        graph: File of the FP32 graph.
        tiles: Calibration tiles, see `select_tiles`.
        method: ``minmax`` keeps the extremes; ``entropy`` clips where the quantised distribution has the smallest
            Kullback-Leibler divergence; ``percentile`` keeps 99.999% of the absolute values.
        progress: Show a progress bar on stderr.

    Returns:
        ONNX Runtime's `TensorsData`: tensor name -> range.

    Raises:
        BadInput: A tensor is almost constant on the tiles, and `method` is not ``minmax``.
    """
    name = load_graph(graph).graph.input[0].name
    with temporary_folder(name="calibration") as folder, _quiet():
        calibrator = create_calibrator(
            graph,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=METHODS[method],
            extra_options=OPTIONS[method],
        )
        # One tile per call: the histogram calibrators keep all tensors of all tiles of a call in memory.
        try:
            for tile in track(tiles, f"calibration, {method}", console=Console(stderr=True), disable=not progress):
                calibrator.collect_data(_Reader(name, tile))
            return calibrator.compute_data()
        except ValueError as error:  # NumPy cannot divide so small a range into bins
            cause = f"A tensor is almost constant on the calibration tiles, so {method} has no histogram to clip"
            raise BadInput(cause, "use --method minmax, or more varied tiles") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output of ONNX Runtime's calibrators about their bins."""
    onnxruntime.set_default_logger_severity(3)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def max_abs_values(ranges: Any) -> dict[str, float]:
    """Return tensor name -> largest absolute value, from the ranges of `calibrate` with ``minmax``."""
    values = {}
    for tensor, data in ranges.items():
        low, high = (np.asarray(value) for value in data.range_value)
        values[tensor] = float(max(np.abs(low).max(), np.abs(high).max()))
    return values
