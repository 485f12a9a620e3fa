import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from msal_deploy.data import VerifyReport, open_dataset, verify, write_xml
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256

TRAIN = "MoNuSeg 2018 Training Data"


def shown(report: VerifyReport) -> str:
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(report.table())
    return console.export_text()


def test_verify_complete_data_set(official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = verify(official)
    assert report.ok
    assert [report.train.images, report.train.xmls, report.train.maps] == [2, 2, 2]
    assert [report.test.images, report.test.xmls, report.test.maps] == [1, 1, 0]
    assert report.train.sizes == {"544×544": 2}
    assert report.train.regions == sum(image.regions for image in report.train.image_reports) > 100
    assert report.train.outside > 0
    assert report.train.nuclei_share is not None
    assert report.agreement is not None
    assert [report.agreement.images, report.agreement.mean, report.agreement.minimum] == [2, 1.0, 1.0]
    assert report.checksums.agreeing == 9
    assert report.test.image_reports[0].microns_per_pixel == 0.25
    assert "1 is subtracted" in report.vertex_convention
    assert capsys.readouterr() == ("", "")


def test_progress_goes_to_stderr(official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(official, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "training images" in err


def test_json_and_table(official: Path) -> None:
    report = verify(official)
    text = json.dumps(report.to_json(), allow_nan=False)
    assert json.loads(text)["ok"] is True
    assert "544×544" in shown(report)
    assert "9 files match SHA256SUMS\n" in shown(report).replace(" \n", "\n")
    assert {"images", "cases"} < json.loads(text)["train"].keys()


def test_all_problems_are_collected(copy: Path) -> None:
    images, annotations = copy / TRAIN / "Tissue Images", copy / TRAIN / "Annotations"
    path = images / "SYNTH-TRAIN-000.tif"
    path.write_bytes(path.read_bytes()[:5000])
    (annotations / "SYNTH-TRAIN-001.xml").write_text("no XML")
    (copy / "MoNuSegTestData" / "SYNTH-TEST-000.xml").unlink()
    (annotations / "orphan.xml").write_text("<Annotations/>")
    Image.new("RGB", (8, 8)).save(copy / "MoNuSegTestData" / "SYNTH-TRAIN-001.tif")
    report = verify(copy)
    assert not report.ok
    names = {problem.what: problem.names for problem in report.problems}
    assert names == {
        "train annotations without image": ("orphan",),
        "test images without annotation": ("SYNTH-TEST-000", "SYNTH-TRAIN-001"),
        "images both in train and in test": ("SYNTH-TRAIN-001",),
        "files that do not match SHA256SUMS": (
            f"{TRAIN}/Annotations/SYNTH-TRAIN-001.xml",
            f"{TRAIN}/Tissue Images/SYNTH-TRAIN-000.tif",
        ),
        "files listed in SHA256SUMS that are missing": ("MoNuSegTestData/SYNTH-TEST-000.xml",),
    }
    faults = [fault for image in report.train.image_reports for fault in image.faults]
    assert len(faults) == 2
    assert faults[0].startswith(f"{TRAIN}/Tissue Images/SYNTH-TRAIN-000.tif is damaged or truncated")
    assert faults[1].startswith(f"{TRAIN}/Annotations/SYNTH-TRAIN-001.xml is not valid XML")
    assert report.train.image_reports[0].size is None
    assert len(report.messages) == 7
    assert all(message in shown(report) for message in report.messages)
    json.dumps(report.to_json(), allow_nan=False)


def test_xml_and_label_map_that_disagree_are_a_problem(copy: Path) -> None:
    with open_dataset(copy) as dataset:
        annotated = dataset.train[0]
    assert annotated.xml_path
    write_xml(annotated.xml_path, [np.array([[0.0, 0.0], [50.0, 0.0], [50.0, 50.0]])])
    report = verify(copy)
    assert any("disagree" in problem.what and problem.names == (annotated.stem,) for problem in report.problems)
    assert report.agreement is not None
    assert report.agreement.worst == annotated.stem


def test_label_map_of_another_size_is_a_fault(copy: Path) -> None:
    path = copy / TRAIN / "Instance Maps" / "SYNTH-TRAIN-000.png"
    Image.new("L", (10, 10), 255).save(path)
    assert any("10×10 px and its image 544×544" in message for message in verify(copy).messages)


def test_hashes_are_recorded_without_sha256sums(copy: Path) -> None:
    (copy / "SHA256SUMS").unlink()
    report = verify(copy)
    assert report.ok
    name = f"{TRAIN}/Annotations/SYNTH-TRAIN-000.xml"
    assert report.checksums.files[name] == sha256(copy / name)
    assert "No SHA256SUMS found" in shown(report)


def test_unlisted_files_are_reported(copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    report = verify(copy)
    assert report.ok
    assert report.checksums.unlisted == ("notes.txt",)
    assert "9 files match SHA256SUMS; 1 unlisted" in shown(report)


def test_verify_zip(official: Path, tmp_path: Path) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "set"), "zip", official))
    report = verify(path)
    assert report.ok
    assert report.path == str(path)
    assert report.checksums.agreeing == 9


def test_verify_rejects_missing_and_empty_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BadInput):
            verify(path)
