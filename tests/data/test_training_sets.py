"""Several data sets for one training: their names, and images that are in two of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msal_deploy.data import find_dataset, open_dataset, open_scored_images, open_training_sets, synthesize
from msal_deploy.data.training_sets import split_name
from msal_deploy.errors import BadInput


def write_set(folder: Path, seed: int, count: int = 2, split: str = "", size: int = 64) -> Path:
    """Random images with random masks in ``<split>/images`` and ``<split>/labels``."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (folder / split / kind).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / split / "images" / f"{split}{index}.png")
        labels = Image.fromarray((pixels[..., 0] < 128).astype(np.uint8))
        labels.save(folder / split / "labels" / f"{split}{index}.png")
    return folder


def stems(*sources: object) -> dict[str, list[str]]:
    with open_training_sets([str(source) for source in sources]) as sets:
        return {name: [image.stem for image in images] for name, images in sets.items()}


def refusal(*sources: object) -> str:
    with pytest.raises(BadInput) as error:
        stems(*sources)
    return str(error.value)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "path"),
    [
        ("data/consep", "consep", "data/consep"),
        ("data/consep/", "consep", "data/consep"),
        ("consep.zip", "consep", "consep.zip"),
        ("MoNuSeg 2018 Training Data", "MoNuSeg 2018 Training Data", "MoNuSeg 2018 Training Data"),
        ("lab=scans.zip", "lab", "scans.zip"),
        ("my.lab-2=/a/b=c", "my.lab-2", "/a/b=c"),
        ("./a=b", "a=b", "a=b"),  # a path, not a name
        ("lab=", "lab=", "lab="),
        ("=scans", "=scans", "=scans"),
    ],
)
def test_name_and_path(source: str, name: str, path: str) -> None:
    assert split_name(source) == (name, Path(path))


def test_names_of_this_folder_and_the_one_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "scans").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home" / "scans")
    assert split_name(".") == ("scans", Path())
    assert split_name("..") == ("home", Path(".."))
    assert split_name("lab=.") == ("lab", Path())


def test_a_folder_with_an_equals_sign_is_a_path_if_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab=2024").mkdir()
    assert split_name("lab=2024") == ("lab=2024", Path("lab=2024"))
    assert split_name("lab=2025") == ("lab", Path("2025"))


def test_a_linked_folder_keeps_its_own_name(tmp_path: Path) -> None:
    write_set(tmp_path / "disk-7", 0)
    (tmp_path / "consep").symlink_to(tmp_path / "disk-7")
    assert list(stems(tmp_path / "consep")) == ["consep"]


# --- which images ----------------------------------------------------------------------------------------------------


def test_sets_are_opened_in_the_order_given(tmp_path: Path) -> None:
    one, two = write_set(tmp_path / "one", 0, split="train"), write_set(tmp_path / "two", 1, count=3)
    assert stems(f"b={one}", two) == {"b": ["train0", "train1"], "two": ["0", "1", "2"]}


def test_only_training_images_are_used_of_a_set_that_is_split(tmp_path: Path) -> None:
    folder = write_set(write_set(tmp_path / "set", 0, split="train"), 1, split="test")
    assert stems(folder) == {"set": ["train0", "train1"]}


def test_all_images_are_used_of_a_set_that_is_not_split(tmp_path: Path) -> None:
    assert stems(write_set(tmp_path / "set", 0)) == {"set": ["0", "1"]}


def test_a_set_of_test_images_is_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 0, split="test")
    assert refusal(folder) == f"{folder} has no training images; put them in a folder named train, or use --split 0.2"


def test_a_zip_is_a_set(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 0)
    archive = shutil.make_archive(str(tmp_path / "scans"), "zip", tmp_path / "set")
    with open_training_sets([archive]) as sets:
        ((name, images),) = sets.items()
        assert name == "scans"
        assert [image.image().shape for image in images] == [(64, 64, 3)] * 2
    assert not images[0].image_path.exists()


def test_a_set_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for source in (tmp_path / "none", f"lab={tmp_path / 'none'}"):
        assert refusal(source).startswith(f"{tmp_path / 'none'} does not exist")


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 0)
    (folder / "labels" / "1.png").unlink()
    assert refusal(write_set(tmp_path / "other", 1), folder) == (
        "set: test images without annotation: 1 (1); add an XML or a label map of the same name, in a folder named "
        "like annotations, labels or masks"
    )
    shutil.rmtree(folder / "labels")
    assert "images without annotation: 2 (0, 1)" in refusal(folder)


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    one, two = write_set(tmp_path / "a" / "set", 0), write_set(tmp_path / "b" / "set", 1)
    assert refusal(one, two) == "Two data sets are named 'set'; name them: --data NAME=PATH"
    assert refusal(f"x={one}", f"x={two}") == "Two data sets are named 'x'; name them: --data NAME=PATH"
    assert list(stems(one, f"other={two}")) == ["set", "other"]


# --- the same image twice --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_same_pixels_in_two_sets_are_refused(tmp_path: Path, split: str) -> None:
    """Also under another name and in another format, and if one of them is a test image."""
    one = write_set(write_set(tmp_path / "one", 0, split="train"), 1, split="test")
    two = write_set(tmp_path / "two", 2)
    with Image.open(one / split / "images" / f"{split}1.png") as image:
        image.save(two / "images" / "scan.tif", compression="tiff_lzw")
    Image.new("L", (64, 64), 1).save(two / "labels" / "scan.png")
    assert refusal(one, two) == f"one/{split}1 and two/scan have the same pixels; keep one of them"
    assert refusal(two, f"b={one}") == f"two/scan and b/{split}1 have the same pixels; keep one of them"


def test_the_same_pixels_twice_in_one_set_are_refused(tmp_path: Path) -> None:
    folder = write_set(write_set(tmp_path / "set", 0, split="train"), 1, split="test")
    shutil.copy(folder / "train" / "images" / "train0.png", folder / "test" / "images" / "test1.png")
    assert refusal(folder) == "set/train0 and set/test1 have the same pixels; keep one of them"


def test_images_that_differ_in_one_value_or_in_shape_are_distinct(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 0)
    with Image.open(folder / "images" / "0.png") as image:
        pixels = np.array(image)
    pixels[-1, -1, -1] ^= 1
    Image.fromarray(pixels).save(folder / "images" / "1.png")
    shutil.copy(folder / "labels" / "0.png", folder / "labels" / "1.png")
    for index, shape in enumerate([(32, 128), (128, 32)], 2):  # the same bytes in another shape
        Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(folder / "images" / f"{index}.png")
        labels = np.zeros(shape, np.uint8)
        labels[:8, :8] = 1
        Image.fromarray(labels).save(folder / "labels" / f"{index}.png")
    assert stems(folder) == {"set": ["0", "1", "2", "3"]}


# --- the images to score ---------------------------------------------------------------------------------------------


def scored(source: object) -> list[str]:
    with open_scored_images(str(source)) as images:
        return [image.stem for image in images]


def test_only_test_images_are_scored(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "lab", 0, split="train")
    write_set(folder, 1, count=3, split="test")
    assert scored(folder) == ["test0", "test1", "test2"]
    assert scored(f"mine={folder}") == scored(folder)
    assert scored(shutil.make_archive(str(tmp_path / "zipped"), "zip", folder)) == scored(folder)


def test_without_folders_named_train_or_test_all_images_are_scored(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "lab", 0)
    assert scored(folder) == ["0", "1"]
    assert stems(folder) == {"lab": ["0", "1"]}  # and `train` accepts them


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_images_are_not_scored(tmp_path: Path, split: str) -> None:
    folder = write_set(tmp_path / "lab", 0, count=3, split=split)
    with pytest.raises(BadInput) as error:
        scored(folder)
    message = (
        "lab has no test images: all 3 are in folders named train or val; put those to score in a folder named test"
    )
    assert str(error.value) == message


def test_a_set_without_folders_for_train_and_test_is_divided_alike_everywhere(tmp_path: Path) -> None:
    synthesize(tmp_path / "made", train=0, test=5, size=256)
    folder = Path(shutil.copytree(tmp_path / "made" / "MoNuSegTestData", tmp_path / "mine"))
    with (
        open_dataset(folder, split=0.4) as dataset,
        open_training_sets([str(folder)], split=0.4) as sets,
        open_scored_images(str(folder), split=0.4) as scored,
    ):
        stems = {image.stem for image in (*dataset.train, *dataset.test)}
        assert (len(dataset.train), len(dataset.test), len(stems)) == (3, 2, 5)
        assert {image.split for image in dataset.train} == {"train"} and {image.split for image in scored} == {"test"}
        assert sets["mine"] == dataset.train and scored == dataset.test
    with pytest.raises(BadInput, match="made has folders named train or test; leave out --split"):
        find_dataset(tmp_path / "made", split=0.4)
