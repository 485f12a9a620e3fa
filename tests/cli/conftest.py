"""A synthetic set and a recipe small enough to train within seconds, for the tests that use the real verbs."""

from pathlib import Path

import pytest

from msal_deploy.data import synthesize

RECIPE = """
name = "tiny"
[network]
backbone = "resnet18"
weights = "random"
[train]
patch = 64
epochs = 4
batch = 4
patches_per_image = 16
optimizer = "adamw"
schedule = "cosine"
loss = "bce+dice"
ema = 0.5
validation = 0.34
[train.augment]
crop = "random"
rot90 = true
stain = 0.1
rotate = 0.0
shift = 0.0
shear = 0.0
zoom = [0.8, 1.25]
"""


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training and five test images of 512×512 px in MoNuSeg's layout, each one patch."""
    folder = tmp_path_factory.mktemp("set") / "monuseg"
    synthesize(folder, train=3, test=5, size=512, seed=1)
    return folder


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path
