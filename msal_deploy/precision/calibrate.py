"""The range of every tensor of a graph on calibration tiles, by ONNX Runtime's own calibrators."""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator
from rich.console import Console
from rich.progress import track

from msal_deploy.graph import load_graph
from msal_deploy.precision.calibration_tiles import Tile

Method = Literal["minmax", "entropy", "percentile"]

METHODS: dict[Method, Any] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# ONNX Runtime's percentile default, 99.999 of the absolute values, written down so that it cannot change unseen.
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
    """Run the FP32 `graph` on `tiles` and return the range of each float tensor, as ONNX Runtime's `TensorsData`.

    Args:
        method: ``minmax`` keeps the extremes; ``entropy`` cuts where the quantised distribution has the smallest
            Kullback-Leibler divergence; ``percentile`` keeps 99.999% of the values.
    """
    name = load_graph(graph).graph.input[0].name
    with tempfile.TemporaryDirectory() as folder, _quiet():
        calibrator = create_calibrator(
            graph,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=METHODS[method],
            extra_options=OPTIONS[method],
        )
        # A tile at a time: the histograms' calibrators keep every tensor of all the tiles that one call brings.
        for tile in track(tiles, f"calibration, {method}", console=Console(stderr=True), disable=not progress):
            calibrator.collect_data(_Reader(name, tile))
        return calibrator.compute_data()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what ONNX Runtime's calibrators print about their bins."""
    onnxruntime.set_default_logger_severity(3)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def max_abs_values(ranges: Any) -> dict[str, float]:
    """Return tensor -> largest absolute value, from what `calibrate` gave for ``minmax``."""
    found = {}
    for tensor, data in ranges.items():
        low, high = (np.asarray(value) for value in data.range_value)
        found[tensor] = float(max(np.abs(low).max(), np.abs(high).max()))
    return found
