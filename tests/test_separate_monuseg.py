"""Separation of real nuclei, if MSAL_DEPLOY_MONUSEG names a copy of MoNuSeg."""

import os
from pathlib import Path

import numpy as np
import pytest

from msal_deploy.data import find_dataset
from msal_deploy.instances import separate
from msal_deploy.metrics import aji, count_nuclei, panoptic_quality

MONUSEG = os.environ.get("MSAL_DEPLOY_MONUSEG")
pytestmark = pytest.mark.skipif(not MONUSEG, reason="MSAL_DEPLOY_MONUSEG does not name a MoNuSeg copy")


@pytest.fixture(scope="module")
def annotated():
    """The true nuclei of two training images."""
    return [one.instances() for one in find_dataset(Path(MONUSEG or "")).train[:2]]


def test_perfect_masks_give_the_true_nuclei(annotated):
    """The annotators split some nuclei where the outline shows no reason; the rest must be found."""
    counts = [count_nuclei(truth, separate((truth > 0).astype(np.float32))) for truth in annotated]
    assert min(map(aji, counts)) > 0.86
    assert min(map(panoptic_quality, counts)) > 0.91
