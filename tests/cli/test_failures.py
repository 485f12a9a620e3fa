"""What a user sees when something is wrong: one sentence, the documented exit code, nothing half-written."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from refusal import assert_refused
from typer.testing import CliRunner, Result

from msal_deploy.bundle import Bundle
from msal_deploy.cli import app
from msal_deploy.data import find_dataset, synthesize, validation_split
from msal_deploy.recipe import Recipe


def msal_deploy(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def own_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "set"
    synthesize(folder, train=2, test=1, size=256, seed=2)
    return folder


def train_on(data: Path, out: Path) -> Result:
    return msal_deploy("train", "--data", data, "--out", out, "--recipe", "demo")


def image_of(folder: Path) -> Path:
    return next((folder / "MoNuSeg 2018 Training Data" / "Tissue Images").glob("*.tif"))


def xml_of(folder: Path) -> Path:
    return next((folder / "MoNuSeg 2018 Training Data" / "Annotations").glob("*.xml"))


@pytest.fixture
def broken_set(own_set: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    import shutil

    return Path(shutil.copytree(own_set, tmp_path / "set"))


def test_no_data_folder(tmp_path: Path) -> None:
    assert_refused(train_on(tmp_path / "nowhere", tmp_path / "out"), 2, "nowhere")
    assert not (tmp_path / "out").exists()


def test_empty_data_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(train_on(tmp_path / "empty", tmp_path / "out"), 2, "empty")


def test_image_without_annotation(broken_set: Path, tmp_path: Path) -> None:
    stem = xml_of(broken_set).stem
    for path in broken_set.rglob(f"{stem}.*"):
        if path.suffix != ".tif":
            path.unlink()
    assert_refused(train_on(broken_set, tmp_path / "out"), 2, stem)


def test_annotation_without_image(broken_set: Path, tmp_path: Path) -> None:
    image = image_of(broken_set)
    image.unlink()
    assert_refused(train_on(broken_set, tmp_path / "out"), 2, image.stem)


def test_truncated_tiff(broken_set: Path, tmp_path: Path) -> None:
    image = image_of(broken_set)
    image.write_bytes(image.read_bytes()[:5000])
    assert_refused(train_on(broken_set, tmp_path / "out"), 2, image.name)


@pytest.mark.parametrize(
    ("pixels", "word"),
    [
        (np.zeros((256, 256, 3), np.uint16), "16 bits"),
        (np.zeros((256, 256), np.uint8), "grey"),
        (np.zeros((256, 256, 4), np.uint8), "RGBA"),
    ],
)
def test_images_that_are_not_8_bit_rgb(broken_set: Path, tmp_path: Path, pixels: np.ndarray, word: str) -> None:
    image = image_of(broken_set)
    tifffile.imwrite(image, pixels, photometric="minisblack" if pixels.ndim == 2 else "rgb")
    assert_refused(train_on(broken_set, tmp_path / "out"), 2, image.name, word)


@pytest.mark.parametrize(
    "text",
    [
        "this is no XML",
        "<Annotations><Region><Vertices><Vertex X='1' Y='1'/><Vertex X='2' Y='2'/></Vertices></Region></Annotations>",
    ],
)
def test_xml_that_annotates_nothing(broken_set: Path, tmp_path: Path, text: str) -> None:
    xml = xml_of(broken_set)
    xml.write_text(text)
    assert_refused(train_on(broken_set, tmp_path / "out"), 2, xml.name)
    assert_refused(msal_deploy("data", "verify", broken_set), 1, xml.name)


def test_training_is_not_validated_on_images_without_nuclei(broken_set: Path, tmp_path: Path) -> None:
    _, (held_out, *_) = validation_split(find_dataset(broken_set).train, Recipe.load("demo").train.validation)
    assert held_out.xml_path is not None and held_out.map_path is not None
    held_out.xml_path.write_text("<Annotations><Annotation><Regions/></Annotation></Annotations>")
    held_out.map_path.unlink()
    result = train_on(broken_set, tmp_path / "out")
    assert_refused(result, 2, "The validation images of set have no nuclei", held_out.stem)


def test_zip_that_escapes(tmp_path: Path) -> None:
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("../escaped.txt", "x")
    assert_refused(train_on(archive, tmp_path / "out"), 2, "../escaped.txt")
    assert not (tmp_path / "escaped.txt").exists()


def test_unknown_recipe_and_missing_recipe_file(own_set: Path, tmp_path: Path) -> None:
    base = ["train", "--data", own_set, "--out", tmp_path / "out", "--recipe"]
    assert_refused(msal_deploy(*base, "papper"), 2, "did you mean 'paper'")
    assert_refused(msal_deploy(*base, tmp_path / "none.toml"), 2, "none.toml")


def test_offline_imagenet_weights_name_the_ways_out(
    own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.error import URLError

    def offline(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    result = msal_deploy(
        "train", "--data", own_set, "--out", tmp_path / "out", "--recipe", "demo", "--encoder", "imagenet"
    )
    assert_refused(result, 3, "--encoder FILE", "--encoder random")
    assert not (tmp_path / "out").exists()


def test_checkpoint_of_another_network(tmp_path: Path) -> None:
    torch.save({"classifier.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    result = msal_deploy("export", tmp_path / "other.pt", "--recipe", "demo", "--out", tmp_path / "bundle")
    assert_refused(result, 2, "missing", "unexpected", "classifier.weight")
    assert not (tmp_path / "bundle").exists()


def test_a_folder_that_is_no_bundle(own_set: Path, tmp_path: Path) -> None:
    assert_refused(msal_deploy("bench", tmp_path), 2, "is not a bundle", "msal-deploy export")
    assert_refused(msal_deploy("validate", tmp_path, "--data", own_set), 2, "is not a bundle")


def test_a_size_that_is_no_multiple_of_32(tmp_path: Path, bundle: Bundle) -> None:
    assert_refused(msal_deploy("bench", bundle.path, "--size", "500"), 2, "480 or 512")
    assert_refused(msal_deploy("bench", bundle.path, "--size", "big"), 2, "is not a size")


def test_an_unknown_engine(bundle: Bundle) -> None:
    assert_refused(msal_deploy("bench", bundle.path, "--engine", "openvin:fp32"), 2, "did you mean 'openvino'")
    assert_refused(msal_deploy("bench", bundle.path, "--engine", "openvino:int4"), 2, "int4")


def test_output_that_cannot_be_written(bundle: Bundle) -> None:
    checkpoint = bundle.path / "checkpoint.safetensors"
    result = msal_deploy("export", checkpoint, "--out", "/proc/msal-deploy-bundle")
    assert_refused(result, 2, "/proc")


def test_output_folder_of_somebody_else(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    result = msal_deploy("export", bundle.path / "checkpoint.safetensors", "--out", tmp_path)
    assert_refused(result, 2, "not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_run_says_what_is_wrong_before_it_reads_any_data(tmp_path: Path) -> None:
    out = ["--out", tmp_path / "out"]
    assert_refused(msal_deploy("run", *out, "--checkpoint", "msal-net-r43"), 2, "did you mean 'msal-net-r34'")
    assert_refused(msal_deploy("run", *out, "--epochs", 3), 2, "add --recipe")
    assert_refused(msal_deploy("run", *out, "--recipe", "robust"), 2, "trains on several data sets, and run on one")
    assert not (tmp_path / "out").exists()


def test_report_of_a_folder_that_is_none(tmp_path: Path) -> None:
    assert_refused(msal_deploy("report", tmp_path), 2, "has no report.json")
    (tmp_path / "report.json").write_text('{"format_version": 1, "report": {"title": "t"}}')
    assert_refused(msal_deploy("report", tmp_path), 2, "manifest")
    assert not (tmp_path / "report.html").exists()
