"""Synthetic training images, and the calibrated ranges of the test bundle's graph."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msal_deploy.bundle import Bundle
from msal_deploy.data import AnnotatedImage, open_dataset, synthesize
from msal_deploy.precision.calibrate import calibrate
from msal_deploy.precision.calibration_tiles import Tile, select_tiles, tissue_tiles


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnnotatedImage, ...]:
    """Six training images of 512×512 px."""
    folder = tmp_path_factory.mktemp("tissue") / "set"
    synthesize(folder, train=6, test=2, size=512, seed=3)
    with open_dataset(folder) as dataset:
        return dataset.train


@pytest.fixture(scope="session")
def tiles(images: tuple[AnnotatedImage, ...]) -> tuple[Tile, ...]:
    return select_tiles(tissue_tiles(images), 4)


@pytest.fixture(scope="session")
def graph(bundle: Bundle) -> Path:
    return bundle.file("model.fp32.onnx")


@pytest.fixture(scope="session")
def ranges(graph: Path, tiles: tuple[Tile, ...]) -> Any:
    return calibrate(graph, tiles)


def white(side: int = 512) -> np.ndarray:
    return np.full((side, side, 3), 255, np.uint8)
