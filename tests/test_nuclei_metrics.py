"""The metrics of nuclei on real pairs of MoNuSeg, against torchmetrics and the slow way.

What was "found" is the truth with the faults that engines make: nuclei that are shrunken, shifted, merged, split,
missing or false.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from brute_force_nuclei import changed, counted
from torchmetrics.functional.detection import panoptic_quality as torchmetrics_quality

from msal_deploy.data import find_dataset
from msal_deploy.metrics import (
    Changes,
    aji,
    changes,
    count_nuclei,
    detection_quality,
    panoptic_quality,
    segmentation_quality,
)

MONUSEG = os.environ.get("MSAL_DEPLOY_MONUSEG")
pytestmark = pytest.mark.skipif(not MONUSEG, reason="MSAL_DEPLOY_MONUSEG does not name a MoNuSeg copy")


def identical(truth):
    return truth.copy()


def eroded(truth):
    """Shrunk by a pixel, and a thin bridge falls in pieces with one label."""
    smallest = cv2.erode(truth.astype(np.float32), np.ones((3, 3)))
    return np.where(smallest == cv2.dilate(truth.astype(np.float32), np.ones((3, 3))), truth, 0).astype(np.int32)


def shifted(truth):
    return np.roll(truth, (3, 2), (0, 1))


def merged(truth):
    """Touching nuclei become one."""
    return cv2.connectedComponents((truth > 0).astype(np.uint8))[1].astype(np.int32)


def split(truth):
    """Nuclei are cut at every 32nd column."""
    return np.where(truth > 0, truth * 64 + np.arange(truth.shape[1]) // 32, 0).astype(np.int32)


def dropped(truth):
    """Every third nucleus is missing, and as many false ones are added elsewhere."""
    found = np.where(truth % 3 == 0, 0, truth)
    false = np.roll(truth, 61, axis=1)
    return np.where((truth == 0) & (false % 3 == 0) & (false > 0), false + 10_000, found).astype(np.int32)


FAULTS = (identical, eroded, shifted, merged, split, dropped)


@pytest.fixture(scope="module", params=[0, 7])
def truth(request):
    return find_dataset(Path(MONUSEG or "")).test[request.param].instances()[300:550, 200:450]


@pytest.mark.parametrize("fault", FAULTS)
def test_aji_and_changes_as_the_slow_way(truth, fault):
    found = fault(truth)
    counts, (intersection, union, matched, _) = count_nuclei(truth, found), counted(truth, found)
    assert (counts.intersection, counts.union, counts.matched) == (intersection, union, matched)
    assert aji(counts) == intersection / union
    split, merged, lost, gained = changed(truth, found)
    assert changes(truth, found) == Changes(split, merged, lost, gained)


@pytest.mark.parametrize("fault", FAULTS)
def test_panoptic_quality_as_torchmetrics(truth, fault):
    found = fault(truth)
    counts = count_nuclei(truth, found)
    theirs = torchmetrics_quality(
        as_panoptic(found), as_panoptic(truth), {1}, {0}, return_sq_and_rq=True, return_per_class=True
    )
    ours = [panoptic_quality(counts), segmentation_quality(counts), detection_quality(counts)]
    assert ours == pytest.approx(theirs[0].tolist(), abs=1e-6)  # torchmetrics computes in float32


def as_panoptic(labels):
    """int64[1,H,W,2], category and number: nuclei are things of category 1, the background is stuff of category 0."""
    return torch.from_numpy(np.stack([labels > 0, labels], axis=-1).astype(np.int64))[None]


def test_faults_change_nuclei_as_they_should(truth):
    nuclei = np.count_nonzero(np.unique(truth))
    assert nuclei > 20
    assert changes(truth, identical(truth)) == Changes(0, 0, 0, 0)
    assert changes(truth, dropped(truth)).lost == np.count_nonzero(np.unique(truth) % 3 == 0) - 1
    assert changes(truth, merged(truth)).split == 0 < changes(truth, merged(truth)).merged
    assert changes(truth, split(truth)).merged == 0 < changes(truth, split(truth)).split
    assert aji(count_nuclei(truth, eroded(truth))) < 0.95
