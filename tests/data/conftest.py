"""A small synthetic data set for all tests, and MoNuSeg if MSAL_DEPLOY_MONUSEG names a copy."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from msal_deploy.data import Dataset, open_dataset, synthesize

MONUSEG = os.environ.get("MSAL_DEPLOY_MONUSEG")


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training images and one test image in MoNuSeg's official layout; tests must not change them."""
    folder = tmp_path_factory.mktemp("shared") / "set"
    synthesize(folder, train=2, test=1, size=544)
    return folder


@pytest.fixture
def copy(official: Path, tmp_path: Path) -> Path:
    """A copy of `official` that the test may change."""
    return Path(shutil.copytree(official, tmp_path / "set"))


@pytest.fixture(scope="session")
def monuseg() -> Iterator[Dataset]:
    assert MONUSEG is not None, "tests that use this fixture are skipped without MSAL_DEPLOY_MONUSEG"
    with open_dataset(Path(MONUSEG)) as dataset:
        yield dataset
