"""Data sets as people have them: as they unzip, and with labels in any file format."""

import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from msal_deploy.data import Dataset, open_dataset, open_scored_images, open_training_sets, rasterise, verify, write_xml
from msal_deploy.data.images import read_image, read_label
from msal_deploy.data.tissue import draw_tissue
from msal_deploy.errors import BadInput

SIZE = 128

Labels = NDArray[np.int32]
Tissue = tuple[NDArray[np.uint8], tuple[NDArray[np.float64], ...], Labels]


def drawn(seed: int) -> Tissue:
    image, outlines = draw_tissue(np.random.default_rng(seed), SIZE)
    return image, outlines, rasterise(outlines, (SIZE, SIZE))


@pytest.fixture(scope="module")
def tissues() -> list[Tissue]:
    return [drawn(seed) for seed in (1, 2)]


def save(path: Path, values: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def saved(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def monusac(root: Path, stem: str, tissue: Tissue) -> None:
    patient = root / "MoNuSAC_images_and_annotations" / stem
    save(patient / f"{stem}_1.tif", tissue[0])
    write_xml(patient / f"{stem}_1.xml", tissue[1])
    (patient / f"{stem}_1.svs").write_bytes(b"the same image")


def nuinsseg(root: Path, stem: str, tissue: Tissue) -> None:
    organ = root / "human bladder"
    save(organ / "tissue images" / f"{stem}.png", tissue[0])
    save(organ / "label masks modify" / f"{stem}.tif", tissue[2].astype(np.uint16))
    for folder in ("distance maps", "overlay", "vague areas/mask binary", "weighted_mask"):
        save(organ / folder / f"{stem}.png", tissue[0][..., 0])


def consep(root: Path, stem: str, tissue: Tissue) -> None:
    save(root / "CoNSeP" / "Test" / "Images" / f"{stem}.png", tissue[0])
    save(root / "CoNSeP" / "Test" / "Overlay" / f"{stem}.png", tissue[0])
    types = {"inst_type": np.ones((3, 1)), "type_map": np.ones((SIZE, SIZE)), "inst_centroid": np.ones((3, 2))}
    savemat(saved(root / "CoNSeP" / "Test" / "Labels" / f"{stem}.mat"), {**types, "inst_map": tissue[2].astype(float)})


def one_mask_per_nucleus(root: Path, stem: str, tissue: Tissue) -> None:
    opaque = np.full((SIZE, SIZE, 1), 255, np.uint8)
    save(root / "stage1_train" / stem / "images" / f"{stem}.png", np.concatenate([tissue[0], opaque], axis=2))
    for number in np.unique(tissue[2])[1:]:
        save(
            root / "stage1_train" / stem / "masks" / f"{number:064x}.png", (tissue[2] == number).astype(np.uint8) * 255
        )


def folders_of_masks(root: Path, stem: str, tissue: Tissue) -> None:
    save(root / "images" / f"{stem}.png", tissue[0])
    for number in np.unique(tissue[2])[1:]:
        save(root / "masks" / stem / f"{number:03}.png", (tissue[2] == number).astype(np.uint8) * 255)


def npy(root: Path, stem: str, tissue: Tissue) -> None:
    save(root / "images" / f"{stem}.png", tissue[0])
    np.save(saved(root / "labels" / f"{stem}.npy"), tissue[2])


def npz(root: Path, stem: str, tissue: Tissue) -> None:
    save(root / "images" / f"{stem}.png", tissue[0])
    np.savez_compressed(saved(root / "labels" / f"{stem}.npz"), tissue[2][None].astype(np.float32))


LAYOUTS = [monusac, nuinsseg, consep, one_mask_per_nucleus, folders_of_masks, npy, npz]


def all_images(dataset: Dataset) -> list[NDArray[np.uint8]]:
    return [annotated.image() for annotated in (*dataset.train, *dataset.test)]


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize("zipped", [False, True])
def test_layouts_as_they_unzip(
    write: Callable[[Path, str, Tissue], None], zipped: bool, tissues: list[Tissue], tmp_path: Path
) -> None:
    source = tmp_path / "set"
    for stem, tissue in zip(("a1", "b2"), tissues, strict=True):
        write(source, stem, tissue)
    if zipped:
        source = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", source))
    with open_dataset(source) as dataset:
        images = (*dataset.train, *dataset.test)
        assert [image.stem[:2] for image in images] == ["a1", "b2"]
        for annotated, (image, _, labels) in zip(images, tissues, strict=True):
            np.testing.assert_array_equal(annotated.image(), image)
            assert annotated.size() == (SIZE, SIZE)
            np.testing.assert_array_equal(annotated.mask(), labels > 0)
            np.testing.assert_array_equal(
                np.unique(annotated.instances(), return_counts=True)[1][1:],
                np.unique(labels, return_counts=True)[1][1:],
            )
    assert verify(source).messages == ()


def test_pannuke(tissues: list[Tissue], tmp_path: Path) -> None:
    masks = np.zeros((2, SIZE, SIZE, 6))
    for index, (_, _, labels) in enumerate(tissues):
        odd = labels % 2 == 1
        masks[index, ..., 0], masks[index, ..., 3] = labels * odd, labels * ~odd
        masks[index, ..., 5] = labels == 0
    np.save(
        saved(tmp_path / "Fold 1" / "images" / "fold1" / "images.npy"), np.stack([t[0] for t in tissues]).astype(float)
    )
    np.save(tmp_path / "Fold 1" / "images" / "fold1" / "types.npy", np.array(["Breast", "Colon"]))
    np.save(saved(tmp_path / "Fold 1" / "masks" / "fold1" / "masks.npy"), masks)
    with open_scored_images(str(tmp_path)) as images:
        assert [image.stem for image in images] == ["fold1-0000", "fold1-0001"]
        for annotated, (image, _, labels) in zip(images, tissues, strict=True):
            np.testing.assert_array_equal(annotated.image(), image)
            np.testing.assert_array_equal(annotated.mask(), labels > 0)
            assert len(np.unique(annotated.instances())) == len(np.unique(labels))
    assert verify(tmp_path).ok


def test_several_label_folders_are_named_and_one_can_be_chosen(tissues: list[Tissue], tmp_path: Path) -> None:
    source = tmp_path / "set"
    for stem, tissue in zip("ab", tissues, strict=True):
        nuinsseg(source, stem, tissue)
        save(source / "human bladder" / "mask binary" / f"{stem}.png", (tissue[2] > 0).astype(np.uint8) * 255)
    with pytest.raises(BadInput) as caught, open_dataset(source):
        pass
    assert str(caught.value).endswith(
        "test images with several label maps: 2 (a: label masks modify and mask binary, b: label masks modify and "
        "mask binary); choose their folder with --labels NAME"
    )
    assert not verify(source).ok
    assert verify(source, labels="mask binary").ok
    with open_training_sets([str(source)], labels="label masks modify") as sets:
        (images,) = sets.values()
        np.testing.assert_array_equal(images[0].instances(), tissues[0][2])
    with pytest.raises(BadInput, match="in a folder named 'masks'; they are in label masks modify, mask"):
        verify(source, labels="masks")


@pytest.mark.parametrize("name", ["image_masks", "mask_images", "Tissue Masks", "imgs_gt"])
def test_a_folder_of_masks_of_images_holds_masks(name: str, tissues: list[Tissue], tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", tissues[0][0])
    save(tmp_path / name / "a.png", tissues[0][2].astype(np.uint16))
    with open_dataset(tmp_path) as dataset:
        np.testing.assert_array_equal(dataset.test[0].instances(), tissues[0][2])


@pytest.mark.parametrize(
    "name", ["images_and_annotations", "Images&Labels", "ImagesAndMasks", "images + masks", "data and annotations"]
)
def test_a_folder_that_says_both_says_neither(name: str, tissues: list[Tissue], tmp_path: Path) -> None:
    save(tmp_path / name / "a.png", tissues[0][0])
    write_xml(tmp_path / name / "a.xml", tissues[0][1])
    with open_dataset(tmp_path) as dataset:
        assert dataset.test[0].xml_path is not None


# --- images without nuclei, and without a split -----------------------------------------------------------------------


def test_images_without_nuclei_are_counted(tissues: list[Tissue], tmp_path: Path) -> None:
    npy(tmp_path, "a", tissues[0])
    save(tmp_path / "images" / "b.png", tissues[1][0])
    (tmp_path / "b.xml").write_text("<Annotations><Annotation><Regions/></Annotation></Annotations>")
    save(tmp_path / "images" / "c.png", np.roll(tissues[1][0], 5, axis=0))
    save(tmp_path / "labels" / "c.png", np.zeros((SIZE, SIZE), np.uint8))
    report = verify(tmp_path)
    assert report.ok, report.messages
    assert report.test.empty == 2
    with open_scored_images(str(tmp_path)) as images:
        assert [image.mask().any() for image in images] == [True, False, False]


# --- files that are not what they seem ------------------------------------------------------------------------------


def in_mat_73(path: Path) -> None:
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(128) + b"\x00" * 400 + b"\x89HDF\r\n\x1a\n")


def pickled(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(path.parent / "executed"),))

    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)


def a_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps([1, 2, 3]))


def with_a_huge_header(path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    path.write_bytes(header.getvalue())


@pytest.mark.parametrize(
    ("write", "suffix", "words"),
    [
        (in_mat_73, ".mat", "MATLAB v7.3 file .HDF5.; save it with -v7"),
        (lambda path: savemat(path, {"a": [[1, 2]], "b": [[1, 2]]}), ".mat", "holds a, b; name the label map inst_map"),
        (lambda path: path.write_bytes(b"x" * 300), ".mat", "damaged"),
        (lambda path: path.write_bytes(b""), ".mat", "damaged"),
        (pickled, ".npy", "Python objects"),
        (a_plain_pickle, ".npy", "Python objects"),
        (with_a_huge_header, ".npy", "damaged"),
        (lambda path: np.save(path, np.zeros((2, 8, 8, 3))), ".npy", "shape .2, 8, 8, 3., not a label map"),
        (lambda path: np.save(path, np.full((8, 8), 0.5)), ".npy", "fractions"),
        (lambda path: np.save(path, np.full((8, 8), np.nan)), ".npy", "fractions"),
        (lambda path: np.save(path, np.full((8, 8), 1e300)), ".npy", "too large"),
        (lambda path: np.save(path, np.zeros((0, 8))), ".npy", "no pixels"),
        (lambda path: np.save(path, np.full((8, 8), "a")), ".npy", "not a label map"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), ".npz", "damaged"),
        (lambda path: np.savez(path, a=np.eye(8), b=np.eye(8)), ".npz", "holds a, b; name"),
    ],
)
def test_label_arrays_that_cannot_be_read(
    write: Callable[[Path], None], suffix: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / f"label{suffix}"
    write(path)
    with pytest.raises(BadInput, match=words) as caught:
        read_label(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_an_npz_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", np.zeros((100, 100)))
    read_label(tmp_path / "a.npz")
    monkeypatch.setattr("msal_deploy.data.arrays.MAX_MEMBER", 80_000)
    with pytest.raises(BadInput, match="holds an array of 80,128 bytes"):
        read_label(tmp_path / "a.npz")


def test_opaque_rgba_is_read_and_other_rgba_is_not(tissues: list[Tissue], tmp_path: Path) -> None:
    rgba = np.dstack([tissues[0][0], np.full((SIZE, SIZE), 255, np.uint8)])
    save(tmp_path / "a.png", rgba)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), tissues[0][0])
    rgba[5, 5, 3] = 254
    save(tmp_path / "b.png", rgba)
    with pytest.raises(BadInput, match="transparent"):
        read_image(tmp_path / "b.png")
    mask = np.dstack([np.uint8(255) * (tissues[0][2] > 0)] * 3 + [np.full((SIZE, SIZE), 255)]).astype(np.uint8)
    save(tmp_path / "mask.png", mask)
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png") > 0, tissues[0][2] > 0)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar", ".tgz", ".7z", ".rar", ".TAR.XZ"])
def test_other_archives_are_to_be_unpacked(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"set{suffix}"
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(BadInput, match="is not a zip; unpack it, and pass the folder"):
        verify(path)


def test_a_zip_may_not_have_deep_folders_or_a_file_in_a_file(tmp_path: Path) -> None:
    for name, members, words in (
        ("deep", ["a/" * 60 + "x.png"], "deep.zip has folders more than 50 deep"),
        ("file", ["a", "a/x.png"], "file.zip cannot be unpacked .(Not a directory|File exists)."),
    ):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as opened:
            for member in members:
                opened.writestr(member, b"1")
        with pytest.raises(BadInput, match=words) as caught:
            verify(tmp_path / f"{name}.zip")
        assert "unpacked/" not in str(caught.value)


def test_deep_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "/".join(["d"] * 600)).mkdir(parents=True)
    with pytest.raises(BadInput, match="folders more than 50 deep"):
        verify(tmp_path)


@pytest.mark.parametrize("name", ["images/b.png", "b.xml", "labels/a.png", "SHA256SUMS", "labels/b.npy"])
def test_nothing_waits_for_a_fifo(name: str, tissues: list[Tissue], tmp_path: Path) -> None:
    npy(tmp_path, "b", tissues[1])
    save(tmp_path / "images" / "a.png", tissues[0][0])
    save(tmp_path / "labels" / "a.png", tissues[0][2].astype(np.uint16))
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    (tmp_path / "images" / "folder.png").mkdir()
    report = verify(tmp_path)
    assert report.ok if name == "SHA256SUMS" else "is a FIFO" in " ".join(report.messages)


def test_a_fifo_is_not_a_data_set(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "set.zip")
    with pytest.raises(BadInput, match="is a FIFO"):
        verify(tmp_path / "set.zip")


def test_sha256sums_of_windows(official: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(official, tmp_path / "set")
    text = (copy / "SHA256SUMS").read_text()
    (copy / "SHA256SUMS").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert verify(copy).checksums.agreeing == 9
