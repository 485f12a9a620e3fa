import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msal_deploy.data import AnnotatedImage, open_dataset, write_xml
from msal_deploy.data.layout import scan
from msal_deploy.errors import BadInput

STEMS = {"train": ["SYNTH-TRAIN-000", "SYNTH-TRAIN-001"], "test": ["SYNTH-TEST-000"]}
SQUARE = np.array([[10.0, 10.0], [20.0, 10.0], [20.0, 20.0], [10.0, 20.0]])


def images_of(official: Path) -> list[AnnotatedImage]:
    with open_dataset(official) as dataset:
        return [*dataset.train, *dataset.test]


def write_pair(folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), "pink").save(folder / f"{stem}.png")
    write_xml(folder / f"{stem}.xml", [SQUARE])


def with_label_xml(official: Path, out: Path, folders: Callable[[str], tuple[str, str]]) -> None:
    for annotated in images_of(official):
        image_folder, label_folder = (out / name for name in folders(annotated.split))
        for folder, path in ((image_folder, annotated.image_path), (label_folder, annotated.xml_path)):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)  # type: ignore[arg-type]


LAYOUTS = {
    "split/images,labels": lambda split: (f"{split}/images", f"{split}/labels"),
    "Split_Folder/img,labelcol": lambda split: (f"{split.title()}_Folder/img", f"{split.title()}_Folder/labelcol"),
    "Tissue_Images": lambda split: (
        f"MoNuSeg {split.title()}ing/Tissue_Images",
        f"MoNuSeg {split.title()}ing/Annotations",
    ),
    "labels/split": lambda split: (f"images/{split}", f"labels/{split}"),
    "flat pairs": lambda split: (f"MoNuSeg{split.title()}Data", f"MoNuSeg{split.title()}Data"),
    "deep": lambda split: (f"a/b/{split.upper()}/c/imgs", f"a/b/{split.upper()}/c/masks"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_xml(layout: str, official: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    with_label_xml(official, out, LAYOUTS[layout])
    (out / "__MACOSX" / "train").mkdir(parents=True)
    (out / "__MACOSX" / "train" / "._x.tif").write_bytes(b"junk")
    (out / ".DS_Store").write_bytes(b"junk")
    (out / "._SYNTH-TRAIN-000.tif").write_bytes(b"junk")
    with open_dataset(out) as dataset:
        assert [annotated.stem for annotated in dataset.train] == STEMS["train"]
        assert [annotated.stem for annotated in dataset.test] == STEMS["test"]


@pytest.mark.parametrize("layout", ["split/images,labels", "Split_Folder/img,labelcol"])
@pytest.mark.parametrize("kind", ["uint16", "uint16-tif", "rgb", "binary-255", "binary-1"])
def test_layouts_of_label_maps(layout: str, kind: str, official: Path, tmp_path: Path) -> None:
    for annotated in images_of(official):
        image_folder, label_folder = (tmp_path / "set" / name for name in LAYOUTS[layout](annotated.split))
        image_folder.mkdir(parents=True, exist_ok=True)
        label_folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(annotated.image_path, image_folder)
        instances = annotated.instances()
        grey = (instances > 0).astype(np.uint8) * (1 if kind == "binary-1" else 255)
        label = instances.astype(np.uint16) if kind.startswith("uint16") else grey
        label = np.stack([label] * 3, axis=-1) if kind == "rgb" else label
        Image.fromarray(label).save(label_folder / f"{annotated.stem}{'.tif' if kind == 'uint16-tif' else '.png'}")
    originals = {annotated.stem: annotated for annotated in images_of(official)}
    with open_dataset(tmp_path / "set") as dataset:
        assert {annotated.stem for annotated in (*dataset.train, *dataset.test)} == set(originals)
        annotated = dataset.train[0]
        np.testing.assert_array_equal(annotated.mask(), originals[annotated.stem].mask())
        if kind.startswith("uint16"):
            np.testing.assert_array_equal(annotated.instances(), originals[annotated.stem].instances())


def test_official_layout(official: Path) -> None:
    with open_dataset(official) as dataset:
        assert [annotated.stem for annotated in dataset.train] == STEMS["train"]
        annotated = dataset.train[0]
        assert annotated.xml_path and annotated.xml_path.parent.name == "Annotations"
        assert annotated.map_path and annotated.map_path.parent.name == "Instance Maps"
        assert dataset.test[0].map_path is None
        assert annotated.image().shape == (544, 544, 3)
        assert annotated.instances().dtype == np.int32
        np.testing.assert_array_equal(annotated.mask(), annotated.instances() > 0)


def test_xml_is_preferred_over_the_map(copy: Path) -> None:
    with open_dataset(copy) as dataset:
        annotated = dataset.train[0]
        assert annotated.xml_path and annotated.map_path
        write_xml(annotated.xml_path, [SQUARE])
        assert annotated.mask().sum() == 11 * 11
        annotated.xml_path.unlink()
    with open_dataset(copy) as dataset:
        assert dataset.train[0].xml_path is None
        assert dataset.train[0].mask().sum() > 1000


def test_name_of_the_root_folder_decides_the_split(tmp_path: Path) -> None:
    write_pair(tmp_path / "MoNuSeg 2018 Training Data", "a")
    with open_dataset(tmp_path / "MoNuSeg 2018 Training Data") as dataset:
        assert [len(dataset.train), len(dataset.test)] == [1, 0]


def test_folder_without_split_names_is_a_test_set(tmp_path: Path) -> None:
    for stem in ("b", "a"):
        write_pair(tmp_path / "pairs", stem)
    with open_dataset(tmp_path / "pairs") as dataset:
        assert dataset.train == ()
        assert [annotated.stem for annotated in dataset.test] == ["a", "b"]


def test_validation_folders_count_as_training(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_pair(tmp_path / "set" / split, split)
    with open_dataset(tmp_path / "set") as dataset:
        assert [annotated.stem for annotated in dataset.train] == ["train", "val"]


def test_folder_name_with_both_words_is_ignored(tmp_path: Path) -> None:
    write_pair(tmp_path / "set" / "train_and_test" / "train", "a")
    write_pair(tmp_path / "set" / "train_and_test" / "test", "b")
    with open_dataset(tmp_path / "set") as dataset:
        assert [len(dataset.train), len(dataset.test)] == [1, 1]


def test_files_ending_in_mask_are_label_maps(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    Image.new("L", (8, 8), 255).save(folder / "a_mask.png")
    with open_dataset(folder) as dataset:
        assert dataset.test[0].map_path == folder / "a_mask.png"


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write_pair(tmp_path / "elsewhere", "a")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    with open_dataset(folder) as dataset:
        assert [annotated.stem for annotated in dataset.train] == ["a"]


def refused(path: Path) -> str:
    with pytest.raises(BadInput) as caught, open_dataset(path):
        pass
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_missing_and_empty_folders_are_rejected(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no TIFF, PNG or JPEG images" in refused(tmp_path / "empty")


def test_images_without_annotation_are_counted_and_three_are_named(tmp_path: Path) -> None:
    for stem in "abcde":
        write_pair(tmp_path / "set", stem)
        if stem != "a":
            (tmp_path / "set" / f"{stem}.xml").unlink()
    message = refused(tmp_path / "set")
    assert "test images without annotation: 4 (b, c, d, …)" in message


def test_annotation_without_image_is_rejected(tmp_path: Path) -> None:
    write_pair(tmp_path / "set", "a")
    write_pair(tmp_path / "set", "b")
    (tmp_path / "set" / "b.png").unlink()
    assert "test annotations without image: 1 (b)" in refused(tmp_path / "set")


def test_duplicate_stems_are_rejected(tmp_path: Path) -> None:
    write_pair(tmp_path / "set", "a")
    Image.new("RGB", (64, 48)).save(tmp_path / "set" / "a.tif")
    assert "two files of one kind: 1 (a: a.png and a.tif)" in refused(tmp_path / "set")


def test_same_stem_in_train_and_test_is_rejected(tmp_path: Path) -> None:
    write_pair(tmp_path / "set" / "train", "a")
    write_pair(tmp_path / "set" / "test", "a")
    assert "both in train and in test: 1 (a)" in refused(tmp_path / "set")


def test_folder_without_split_beside_named_ones_is_rejected(tmp_path: Path) -> None:
    write_pair(tmp_path / "set" / "train", "a")
    write_pair(tmp_path / "set" / "more", "b")
    assert "neither train nor test: 1 (b)" in refused(tmp_path / "set")


def test_error_names_the_first_problem_and_counts_the_rest(tmp_path: Path) -> None:
    write_pair(tmp_path / "set" / "train", "a")
    write_pair(tmp_path / "set" / "test", "a")
    (tmp_path / "set" / "test" / "b.xml").write_text("")
    assert len(scan(tmp_path / "set").problems) == 2
    assert "and 1 more: run" in refused(tmp_path / "set")


def test_label_map_of_another_size_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    Image.new("RGB", (8, 9)).save(folder / "a.png")
    Image.new("L", (9, 8), 255).save(folder / "a_mask.png")
    with open_dataset(folder) as dataset, pytest.raises(BadInput, match="9×8 px and its image 8×9 px"):
        dataset.test[0].mask()


def test_annotated_image_without_annotation_is_rejected(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(BadInput, match="has no annotation"):
        AnnotatedImage("a", "test", tmp_path / "a.png", None, None).instances()
