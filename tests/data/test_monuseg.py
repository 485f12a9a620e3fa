"""The real set, where the machine has it: the numbers that every score rests on."""

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


def test_cases(monuseg: Dataset) -> None:
    assert [len(monuseg.train), len(monuseg.test)] == [30, 14]
    assert sum(case.xml_path is not None for case in monuseg.train) == 13
    assert all(case.xml_path for case in monuseg.test)


def test_nothing_is_wrong(report: VerifyReport) -> None:
    assert report.ok, report.sentences
    assert report.checksums.agreeing == 101
    assert report.train.sizes == {"1000×1000": 30}
    assert report.test.sizes == {"1000×1000": 14}


def test_regions(report: VerifyReport) -> None:
    assert report.test.regions == 6697
    assert report.train.degenerate == 2


def test_xml_and_maps_agree(report: VerifyReport) -> None:
    assert report.agreement is not None
    assert report.agreement.images == 13
    assert report.agreement.mean >= 0.98
    assert report.agreement.minimum >= 0.90


def test_nuclei_in_the_maps(monuseg: Dataset) -> None:
    assert sum(len(np.unique(read_label(case.map_path))) - 1 for case in monuseg.train if case.map_path) == 16958


def test_four_patches_an_image(monuseg: Dataset) -> None:
    # One image is enough here: all are 1000×1000, so 30 give 120 patches and 14 give 56.
    patches = corner_patches(monuseg.test[0])
    assert len(patches) * len(monuseg.train) == 120
    assert len(patches) * len(monuseg.test) == 56
    assert all(patch.mask.any() for patch in patches)


def test_the_validation_images(monuseg: Dataset) -> None:
    _, held_out = validation_split(monuseg.train, 0.2)
    assert [case.stem[:12] for case in held_out] == [
        "TCGA-21-5784",
        "TCGA-49-4488",
        "TCGA-A7-A13F",
        "TCGA-B0-5711",
        "TCGA-E2-A14V",
        "TCGA-G9-6336",
    ]
