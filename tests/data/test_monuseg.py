"""The numbers of MoNuSeg that all scores depend on, if MSAL_DEPLOY_MONUSEG names a copy."""

import os
from pathlib import Path

import numpy as np
import pytest

from msal_deploy.data import Dataset, VerifyReport, corner_patches, read_label, validation_split, verify

MONUSEG = os.environ.get("MSAL_DEPLOY_MONUSEG")
pytestmark = pytest.mark.skipif(not MONUSEG, reason="MSAL_DEPLOY_MONUSEG does not name a MoNuSeg copy")


@pytest.fixture(scope="module")
def report() -> VerifyReport:
    return verify(Path(MONUSEG or ""))


def test_number_of_images(monuseg: Dataset) -> None:
    assert [len(monuseg.train), len(monuseg.test)] == [30, 14]
    assert sum(image.xml_path is not None for image in monuseg.train) == 13
    assert all(image.xml_path for image in monuseg.test)


def test_monuseg_has_no_problems(report: VerifyReport) -> None:
    assert report.ok, report.messages
    assert report.checksums.agreeing == 101
    assert report.train.sizes == {"1000×1000": 30}
    assert report.test.sizes == {"1000×1000": 14}


def test_number_of_regions(report: VerifyReport) -> None:
    assert report.test.regions == 6697
    assert report.train.degenerate == 2


def test_xml_and_label_maps_agree(report: VerifyReport) -> None:
    assert report.agreement is not None
    assert report.agreement.images == 13
    assert report.agreement.mean >= 0.98
    assert report.agreement.minimum >= 0.90


def test_number_of_nuclei_in_the_label_maps(monuseg: Dataset) -> None:
    assert sum(len(np.unique(read_label(image.map_path))) - 1 for image in monuseg.train if image.map_path) == 16958


def test_four_patches_per_image(monuseg: Dataset) -> None:
    # One image is enough: all are 1000×1000, so 30 give 120 patches and 14 give 56.
    patches = corner_patches(monuseg.test[0])
    assert len(patches) * len(monuseg.train) == 120
    assert len(patches) * len(monuseg.test) == 56
    assert all(patch.mask.any() for patch in patches)


def test_validation_images(monuseg: Dataset) -> None:
    _, held_out = validation_split(monuseg.train, 0.2)
    assert [image.stem[:12] for image in held_out] == [
        "TCGA-21-5784",
        "TCGA-49-4488",
        "TCGA-A7-A13F",
        "TCGA-B0-5711",
        "TCGA-E2-A14V",
        "TCGA-G9-6336",
    ]
