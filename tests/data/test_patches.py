from functools import partial
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from msal_deploy.data import (
    AnnotatedImage,
    Protocol,
    corner_patches,
    open_dataset,
    patches_of,
    protocol_patches,
    synthesize,
    validation_split,
    write_xml,
)
from msal_deploy.errors import BadInput


def annotated_image(folder: Path, height: int, width: int, *, label: tuple[int, int] | None = None) -> AnnotatedImage:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / "a.png")
    mask = rng.integers(0, 2, label or (height, width), dtype=np.uint8) * 255
    Image.fromarray(mask).save(folder / "a_mask.png")
    return AnnotatedImage("a", "test", folder / "a.png", None, folder / "a_mask.png")


def test_corner_patches_of_a_monuseg_image(tmp_path: Path) -> None:
    annotated = annotated_image(tmp_path, 1000, 1000)
    image, mask = annotated.image(), annotated.mask()
    patches = corner_patches(annotated)
    assert [patch.corner for patch in patches] == ["top-left", "top-right", "bottom-left", "bottom-right"]
    assert {patch.image.shape for patch in patches} == {(512, 512, 3)}
    np.testing.assert_array_equal(patches[1].image, image[:512, 488:])
    np.testing.assert_array_equal(patches[2].mask, mask[488:, :512])
    # 1000 = 2 × 512 − 24: neighbours share 24 px.
    np.testing.assert_array_equal(patches[0].image[:, -24:], patches[1].image[:, :24])


def test_corner_patches_cover_the_image(tmp_path: Path) -> None:
    covered = np.zeros((90, 120), dtype=bool)
    annotated = annotated_image(tmp_path, 90, 120)
    for patch in corner_patches(annotated, size=64):
        rows = slice(0, 64) if "top" in patch.corner else slice(26, None)
        columns = slice(0, 64) if "left" in patch.corner else slice(56, None)
        covered[rows, columns] = True
    assert covered.all()


def test_corner_patches_returns_coinciding_corners_once(tmp_path: Path) -> None:
    assert [patch.corner for patch in corner_patches(annotated_image(tmp_path, 64, 64), 64)] == ["top-left"]
    assert [patch.corner for patch in corner_patches(annotated_image(tmp_path, 64, 80), 64)] == [
        "top-left",
        "top-right",
    ]


def test_labels_of_another_size_than_the_image(tmp_path: Path) -> None:
    annotated = annotated_image(tmp_path, 100, 120, label=(100, 121))
    for protocol in get_args(Protocol):
        with pytest.raises(BadInput) as error:
            protocol_patches([annotated], protocol, 64)
        path = tmp_path / "a_mask.png"
        assert str(error.value) == f"{path} is 121×100 px and its image 120×100 px; make them the same size"


@pytest.mark.parametrize("size", [-1, 0, 63, 4097])
def test_sizes_out_of_range(tmp_path: Path, size: int) -> None:
    annotated = annotated_image(tmp_path, 64, 64)
    for cut in (
        lambda: corner_patches(annotated, size),
        *(partial(protocol_patches, [annotated], protocol, size) for protocol in get_args(Protocol)),
        lambda: protocol_patches([], "tiles", size),
    ):
        with pytest.raises(BadInput) as error:
            cut()
        assert str(error.value) == f"Expected patches of 64 to 4096 px, got {size}; use a size in that range"


def test_smallest_and_largest_size(tmp_path: Path) -> None:
    annotated = annotated_image(tmp_path, 70, 66)
    assert [patch.mask.shape for patch in corner_patches(annotated, 64)] == [(64, 64)] * 4
    (patch,) = corner_patches(annotated, 4096)
    assert patch.image.shape == (4096, 4096, 3) and patch.mask.shape == (70, 66)


# --- padding ---------------------------------------------------------------------------------------------------------


def test_a_patch_of_100_px_is_padded_to_128(tmp_path: Path) -> None:
    annotated = annotated_image(tmp_path, 150, 300)
    image, mask = annotated.image(), annotated.mask()
    patches = corner_patches(annotated, 100)
    assert [patch.corner for patch in patches] == ["top-left", "top-right", "bottom-left", "bottom-right"]
    for patch, (y, x) in zip(patches, ((0, 0), (0, 200), (50, 0), (50, 200)), strict=True):
        assert patch.image.shape == (128, 128, 3)
        tissue = image[y : y + 100, x : x + 100]
        np.testing.assert_array_equal(patch.image[:100, :100], tissue)
        np.testing.assert_array_equal(patch.mask, mask[y : y + 100, x : x + 100])
        np.testing.assert_array_equal(patch.image[100:, :100], tissue[98:70:-1])  # mirrored at the last row
        np.testing.assert_array_equal(patch.image[:100, 100:], tissue[:, 98:70:-1])


@pytest.mark.parametrize(
    ("shape", "corners"),
    [
        ((90, 200), ["top-left", "top-right"]),
        ((200, 90), ["top-left", "bottom-left"]),
        ((90, 128), ["top-left"]),
        ((128, 90), ["top-left"]),
        ((1, 3), ["top-left"]),
    ],
)
def test_images_smaller_than_a_patch_are_padded(tmp_path: Path, shape: tuple[int, int], corners: list[str]) -> None:
    annotated = annotated_image(tmp_path, *shape)
    image, mask = annotated.image(), annotated.mask()
    height, width = min(shape[0], 128), min(shape[1], 128)
    patches = corner_patches(annotated, 128)
    assert [patch.corner for patch in patches] == corners
    assert {patch.image.shape for patch in patches} == {(128, 128, 3)}
    assert {patch.mask.shape for patch in patches} == {(height, width)}
    np.testing.assert_array_equal(patches[0].image[:height, :width], image[:height, :width])
    np.testing.assert_array_equal(patches[-1].image[:height, :width], image[-height:, -width:])
    np.testing.assert_array_equal(patches[-1].mask, mask[-height:, -width:])


def test_padding_repeats_the_reflection_of_a_small_image(tmp_path: Path) -> None:
    (patch,) = corner_patches(annotated_image(tmp_path, 1, 3), 64)
    columns = [0, 1, 2, 1] * 16
    np.testing.assert_array_equal(patch.image, patch.image[:1, columns].repeat(64, axis=0))


# --- nuclei ----------------------------------------------------------------------------------------------------------


def labelled(folder: Path, labels: np.ndarray) -> AnnotatedImage:
    Image.fromarray(np.zeros((*labels.shape, 3), np.uint8)).save(folder / "b.png")
    Image.fromarray(labels).save(folder / "b_label.png")
    return AnnotatedImage("b", "test", folder / "b.png", None, folder / "b_label.png")


def test_nuclei_of_a_label_map(tmp_path: Path) -> None:
    labels = np.zeros((64, 80), np.uint16)
    labels[0, :3], labels[0, 3:5], labels[63, 79] = 7, 300, 4  # two nuclei touch
    left, right = corner_patches(labelled(tmp_path, labels), 64)
    assert left.instances is left.nuclei and left.nuclei.dtype == np.int32
    np.testing.assert_array_equal(left.nuclei, labels[:, :64])
    np.testing.assert_array_equal(right.nuclei, labels[:, 16:])
    np.testing.assert_array_equal(left.mask, labels[:, :64] > 0)
    assert left.mask.dtype == np.bool_ and (left.mask.sum(), right.mask.sum()) == (5, 1)


def test_nuclei_of_an_xml(tmp_path: Path) -> None:
    annotated = labelled(tmp_path, np.zeros((64, 64), np.uint8))
    squares = [np.array([[x, 2], [x + 2, 2], [x + 2, 4], [x, 4]], float) for x in (3, 6)]
    write_xml(tmp_path / "b.xml", squares)
    (patch,) = corner_patches(msgspec.structs.replace(annotated, xml_path=tmp_path / "b.xml"), 64)
    expected = np.zeros((64, 64), np.int32)
    expected[2:5, 3:6], expected[2:5, 6:9] = 1, 2
    np.testing.assert_array_equal(patch.nuclei, expected)


@pytest.mark.parametrize("value", [1, 255])
def test_nuclei_of_a_binary_mask_are_its_components(tmp_path: Path, value: int) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[0, 0] = mask[1, 1] = mask[5, 5:8] = value  # the first two touch at a corner
    (patch,) = corner_patches(labelled(tmp_path, mask), 64)
    assert patch.nuclei[0, 0] == patch.nuclei[1, 1] == 1
    assert patch.nuclei[5, 4:9].tolist() == [0, 2, 2, 2, 0]
    unknown = msgspec.structs.replace(patch, instances=None)
    np.testing.assert_array_equal(unknown.nuclei, patch.nuclei)
    assert unknown.nuclei.dtype == np.int32


# --- protocols -------------------------------------------------------------------------------------------------------


def test_corners_are_the_default(tmp_path: Path) -> None:
    annotated = annotated_image(tmp_path, 600, 700)
    assert [patch.corner for patch in protocol_patches([annotated] * 2)] == 2 * [
        "top-left",
        "top-right",
        "bottom-left",
        "bottom-right",
    ]
    assert {patch.mask.shape for patch in protocol_patches([annotated])} == {(512, 512)}
    assert {patch.mask.shape for patch in protocol_patches([annotated], "corners", 128)} == {(128, 128)}
    assert all(patch.scale == 1 for patch in protocol_patches([annotated]))


def test_tiles_are_whole_images(tmp_path: Path) -> None:
    annotated = annotated_image(tmp_path, 90, 77)
    (patch,) = protocol_patches([annotated], "tiles", 64)
    assert (patch.stem, patch.corner, patch.scale) == ("a", "whole", 1)
    np.testing.assert_array_equal(patch.image, annotated.image())
    np.testing.assert_array_equal(patch.mask, annotated.mask())
    np.testing.assert_array_equal(patch.nuclei, annotated.instances())


def test_resize_reduces_an_image_without_aliasing(tmp_path: Path) -> None:
    # Stripes of 1 px become their mean; without antialiasing they would stay stripes or vanish.
    annotated = labelled(tmp_path, np.zeros((128, 256), np.uint8))
    stripes = np.zeros((128, 256, 3), np.uint8)
    stripes[:, ::2], stripes[..., 1] = 200, 50
    Image.fromarray(stripes).save(annotated.image_path)
    (patch,) = protocol_patches([annotated], "resize", 64)
    assert (patch.stem, patch.corner, patch.image.shape, patch.mask.shape) == ("b", "whole", (64, 64, 3), (64, 64))
    assert np.abs(patch.image[:, 2:-2, 0].astype(int) - 100).max() <= 1
    assert (patch.image[..., 1] == 50).all()
    assert patch.scale == pytest.approx(np.sqrt(2 * 4))


def test_resize_takes_the_label_at_the_centre_of_each_pixel(tmp_path: Path) -> None:
    labels = np.arange(192, dtype=np.uint16) + np.zeros((96, 1), np.uint16)
    (patch,) = protocol_patches([labelled(tmp_path, labels)], "resize", 64)
    # Of three columns that become one, the middle one is taken; of three that become two, the outer ones.
    assert patch.nuclei[0].tolist() == list(range(1, 192, 3))
    (patch,) = protocol_patches([labelled(tmp_path, np.ascontiguousarray(labels.T))], "resize", 64)
    assert patch.nuclei[:, 0].tolist() == list(range(1, 192, 3))
    (patch,) = protocol_patches([labelled(tmp_path, labels[:, :96])], "resize", 64)
    assert patch.nuclei[0, :6].tolist() == [0, 2, 3, 5, 6, 8]


def test_resize_enlarges_and_pads_to_a_multiple_of_32(tmp_path: Path) -> None:
    annotated = annotated_image(tmp_path, 50, 50)
    (patch,) = protocol_patches([annotated], "resize", 100)
    assert patch.image.shape == (128, 128, 3) and patch.mask.shape == (100, 100)
    np.testing.assert_array_equal(patch.mask, annotated.mask().repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(patch.image[100:, :100], patch.image[98:70:-1, :100])
    np.testing.assert_array_equal(patch.image[0, 0], annotated.image()[0, 0])  # a pixel in the corner has no neighbours
    assert patch.scale == 0.5


def test_resize_to_its_own_size_changes_nothing(tmp_path: Path) -> None:
    annotated = annotated_image(tmp_path, 64, 64)
    (resized,), (whole,) = protocol_patches([annotated], "resize", 64), protocol_patches([annotated], "tiles", 64)
    np.testing.assert_array_equal(resized.image, whole.image)
    np.testing.assert_array_equal(resized.nuclei, whole.nuclei)


def test_unknown_protocol(tmp_path: Path) -> None:
    for name, remedy in (("tile", "did you mean 'tiles'?"), ("x", "choose from: corners, resize, tiles")):
        with pytest.raises(BadInput) as error:
            protocol_patches([], name)  # type: ignore[arg-type]
        assert str(error.value) == f"Expected a protocol, got {name!r}; {remedy}"


# --- a whole set, and its split --------------------------------------------------------------------------------------


def test_patches_of_a_set(tmp_path: Path) -> None:
    synthesize(tmp_path / "set", train=2, test=1, size=256)
    with open_dataset(tmp_path / "set") as dataset:
        assert len(patches_of(dataset.train, 200)) == 8
        assert [patch.stem for patch in patches_of(dataset.test, 200)] == ["SYNTH-TEST-000"] * 4
        assert {patch.image.shape for patch in patches_of(dataset.test)} == {(512, 512, 3)}


def images(stems: list[str]) -> list[AnnotatedImage]:
    return [AnnotatedImage(stem, "train", Path(stem), None, None) for stem in stems]


@given(st.sets(st.text(min_size=1), min_size=2, max_size=40), st.floats(0.01, 0.99), st.randoms())
def test_validation_split_is_a_partition_independent_of_order(stems: set[str], fraction: float, random) -> None:  # type: ignore[no-untyped-def]
    given_images = images(sorted(stems))
    train, held_out = validation_split(given_images, fraction)
    assert train and held_out
    assert sorted(image.stem for image in (*train, *held_out)) == sorted(stems)
    random.shuffle(given_images)
    assert {image.stem for image in validation_split(given_images, fraction)[1]} == {image.stem for image in held_out}


@given(st.sets(st.text(min_size=1), min_size=3, max_size=40), st.text(min_size=1))
def test_validation_split_moves_at_most_one_image_when_one_is_added(stems: set[str], new: str) -> None:
    before = {image.stem for image in validation_split(images(sorted(stems)), 0.2)[1]}
    after = {image.stem for image in validation_split(images(sorted(stems | {new})), 0.2)[1]}
    assert len((before ^ after) - {new}) <= 1


def test_validation_split_size() -> None:
    stems = [f"image-{number}" for number in range(30)]
    assert len(validation_split(images(stems), 0.2)[1]) == 6
    assert len(validation_split(images(stems[:2]), 0.01)[1]) == 1
    assert len(validation_split(images(stems[:2]), 0.99)[1]) == 1
    with pytest.raises(BadInput, match="Expected at least 2 training images"):
        validation_split(images(stems[:1]), 0.2)
