from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from msal_deploy.data import AnnotatedImage, corner_patches, open_dataset, patches_of, validation_split
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


def test_corner_patches_rejects_small_images_and_wrong_labels(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="smaller than a patch of 512"):
        corner_patches(annotated_image(tmp_path, 511, 600))
    with pytest.raises(BadInput, match="make them the same"):
        corner_patches(annotated_image(tmp_path, 600, 600, label=(600, 601)))


def test_patches_of_a_set(official: Path) -> None:
    with open_dataset(official) as dataset:
        assert len(patches_of(dataset.train)) == 8
        assert [patch.stem for patch in patches_of(dataset.test)] == ["SYNTH-TEST-000"] * 4


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
