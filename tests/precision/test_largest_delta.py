"""The FP16 graph is compared with FP32 one tile at a time: eight tiles of CNN3 at once took 11 GB."""

from contextlib import nullcontext

import numpy as np
import pytest

from msal_deploy.errors import GateFailed
from msal_deploy.precision import run as stage
from msal_deploy.precision.calibration_tiles import Tile


def tiles(*values):
    return [Tile("image", 0, 0, np.full((32, 32, 3), value, np.uint8)) for value in values]


@pytest.fixture
def engines(monkeypatch, tmp_path):
    """FP32 returns the brightness; FP16 a hundredth more for each step of 50. Return the shapes of their calls."""
    shapes = []

    def opened(bundle, engine_id):
        def engine(images):
            shapes.append(images.shape)
            brightness = images.mean(axis=3, dtype=np.float32)[:, None] / 255
            wrong = np.nan if images.max() == 255 else images.max() // 50 * 0.01
            return brightness + wrong * (engine_id == "onnxruntime:fp16")

        return nullcontext(engine)

    monkeypatch.setattr(stage, "open_engine", opened)
    monkeypatch.setattr(stage, "Bundle", lambda folder: folder)
    return shapes


def test_the_largest_difference_of_all_tiles_counts(engines, tmp_path):
    # 150 differs by three steps; the ninth tile is not compared.
    chosen = tiles(10, 60, 150, 90, 90, 90, 90, 90, 250)
    assert stage._largest_delta(tmp_path, "onnxruntime:fp16", chosen) == pytest.approx(0.03, abs=1e-6)
    assert engines == [(1, 32, 32, 3)] * 16


def test_a_tile_without_a_finite_result_fails(engines, tmp_path):
    with pytest.raises(GateFailed, match="The fp16 graph gives NaN or Inf"):
        stage._largest_delta(tmp_path, "onnxruntime:fp16", tiles(10, 255))
