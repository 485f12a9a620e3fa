import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from msal_deploy.cli.data import app
from msal_deploy.data import open_dataset, read_label, read_xml, synthesize, validation_split
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.metrics import MIN_IMAGES
from msal_deploy.recipe import TrainRecipe


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_synthesize_writes_monusegs_layout(official: Path) -> None:
    assert list(hashes(official)) == sorted(
        [
            *(
                f"MoNuSeg 2018 Training Data/{name}"
                for stem in ("SYNTH-TRAIN-000", "SYNTH-TRAIN-001")
                for name in (f"Annotations/{stem}.xml", f"Instance Maps/{stem}.png", f"Tissue Images/{stem}.tif")
            ),
            "MoNuSegTestData/SYNTH-TEST-000.tif",
            "MoNuSegTestData/SYNTH-TEST-000.xml",
            "README.txt",
            "SHA256SUMS",
        ]
    )
    readme = (official / "README.txt").read_text()
    assert "Synthetic" in readme
    assert "CC0" in readme
    assert "--seed 0" in readme


def test_label_map_equals_the_drawn_xml(official: Path) -> None:
    with open_dataset(official) as dataset:
        for annotated in dataset.train:
            assert annotated.map_path and Image.open(annotated.map_path).mode == "I;16"
            np.testing.assert_array_equal(annotated.instances(), read_label(annotated.map_path))


def test_images_look_like_stained_tissue(official: Path) -> None:
    with open_dataset(official) as dataset:
        for annotated in (*dataset.train, *dataset.test):
            image, mask = annotated.image().astype(float), annotated.mask()
            assert 0.05 < mask.mean() < 0.4
            nuclei, rest = image[mask].mean(axis=0), image[~mask].mean(axis=0)
            assert nuclei[2] > nuclei[0] > nuclei[1]  # purple
            assert rest[0] > rest[2] > rest[1]  # pink
            assert (nuclei < rest).all()


def test_nuclei_touch_and_overlap(official: Path) -> None:
    with open_dataset(official) as dataset:
        annotated = dataset.train[0]
        assert annotated.xml_path
        polygons = read_xml(annotated.xml_path).polygons
        instances = annotated.instances()
    right, below = (instances[:, 1:], instances[:, :-1]), (instances[1:], instances[:-1])
    assert any(((a != b) & (a > 0) & (b > 0)).any() for a, b in (right, below))
    drawn_apart = sum(_area(polygon) for polygon in polygons)
    assert (instances > 0).sum() < 0.99 * drawn_apart


def _area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def test_same_seed_gives_the_same_files(official: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", train=1, test=1, size=544)
    first, again = hashes(official), hashes(tmp_path / "again")
    shared = (first.keys() & again.keys()) - {"README.txt", "SHA256SUMS"}
    assert len(shared) == 5
    assert {name: first[name] for name in shared} == {name: again[name] for name in shared}


def test_by_default_there_are_enough_images_for_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blank = np.zeros((512, 512, 3), np.uint8), (np.array([[1.0, 1.0], [9.0, 1.0], [9.0, 9.0]]),)
    module = importlib.import_module("msal_deploy.data.synthesize")  # the function has the same name
    monkeypatch.setattr(module, "draw_tissue", lambda rng, size: blank)
    for name, make in {"function": synthesize, "command": _run_synthesize}.items():
        make(tmp_path / name)
        with open_dataset(tmp_path / name) as dataset:
            _, held_out = validation_split(dataset.train, TrainRecipe().validation)
            assert [len(dataset.train), len(dataset.test), len(held_out)] == [23, 8, 5]
            assert min(len(dataset.test), len(held_out)) >= MIN_IMAGES


def _run_synthesize(folder: Path) -> None:
    assert CliRunner().invoke(app, ["synthesize", str(folder)]).exit_code == 0


def test_another_seed_gives_other_images_and_replaces_the_old_ones(tmp_path: Path) -> None:
    out = tmp_path / "set"
    synthesize(out, train=1, test=1, size=256)
    first = hashes(out)
    synthesize(out, train=0, test=1, size=256, seed=1)
    assert set(hashes(out)) == {"MoNuSegTestData/SYNTH-TEST-000.tif", "MoNuSegTestData/SYNTH-TEST-000.xml"} | {
        "README.txt",
        "SHA256SUMS",
    }
    assert not set(first.values()) & set(hashes(out).values())
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["README.txt", "SHA256SUMS", "holiday.jpg"])
def test_synthesize_does_not_replace_other_folders(name: str, tmp_path: Path) -> None:
    out = tmp_path / "set"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        synthesize(out, train=1, test=0, size=256)
    assert (out / name).read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


def test_interrupted_synthesize_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("msal_deploy.data.annotations.ElementTree.write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "set", train=1, test=0, size=256)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"train": 0, "test": 0}, {"train": -1}, {"size": 63}, {"seed": -1}])
def test_synthesize_rejects_arguments_out_of_range(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        synthesize(tmp_path / "set", **wrong)
    assert list(tmp_path.iterdir()) == []
