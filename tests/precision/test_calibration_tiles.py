"""Calibration tiles show tissue and differ in stain; test images are rejected."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from msal_deploy.bundle import CALIBRATION, Bundle, artifact, write_manifest
from msal_deploy.data import AnnotatedImage
from msal_deploy.errors import BadInput
from msal_deploy.precision.calibration_tiles import (
    SIDE,
    Tile,
    describe_tiles,
    disjoint_selections,
    pixel_hash,
    require_unseen,
    select_tiles,
    tissue_tiles,
)


def test_tissue_tiles_form_a_grid_of_the_image(images):
    tiles = tissue_tiles(images[:1])
    assert [(tile.row, tile.column) for tile in tiles] == [(0, 0), (0, 256), (256, 0), (256, 256)]
    image = images[0].image()
    for tile in tiles:
        assert (tile.image == image[tile.row : tile.row + SIDE, tile.column : tile.column + SIDE]).all()


def test_tissue_tiles_skips_background(make_annotated_image):
    random = np.random.default_rng(0)
    image = np.full((512, 512, 3), 250, np.uint8)
    image[:256, :256] = random.integers(60, 200, (256, 256, 3))
    tiles = tissue_tiles([make_annotated_image("half", image, np.zeros((512, 512), bool))])
    assert [(tile.row, tile.column) for tile in tiles] == [(0, 0)]


def test_tissue_tiles_rejects_white_images(make_annotated_image):
    annotated = make_annotated_image("white", np.full((512, 512, 3), 255, np.uint8), np.zeros((512, 512), bool))
    with pytest.raises(BadInput, match="shows stained tissue"):
        tissue_tiles([annotated])


def test_tissue_tiles_rejects_an_empty_set():
    with pytest.raises(BadInput, match="Expected training images"):
        tissue_tiles([])


def test_tissue_tiles_rejects_a_renamed_test_image(images, tmp_path):
    renamed = AnnotatedImage("renamed", "test", images[2].image_path, None, None)
    with pytest.raises(BadInput, match=f"Training image {images[2].stem} and test image renamed have the same pixels"):
        tissue_tiles(images, [renamed])


def flat(stem: str, colour: tuple[int, int, int]) -> Tile:
    return Tile(stem, 0, 0, np.full((SIDE, SIDE, 3), colour, np.uint8))


def test_select_tiles_selects_different_stains():
    alike = [flat(f"pink{i}", (230, 150 + i, 190)) for i in range(6)]
    others = [flat("blue", (60, 50, 140)), flat("red", (200, 30, 60))]
    selected = {tile.stem for tile in select_tiles([*alike, *others], 3)}
    assert {"blue", "red"} < selected


def test_select_tiles_is_deterministic(images):
    tiles = tissue_tiles(images)
    assert [t.sha256 for t in select_tiles(tiles, 5)] == [t.sha256 for t in select_tiles(tiles, 5)]


def test_select_tiles_rejects_too_large_a_count(images):
    with pytest.raises(BadInput, match="Expected between 1 and 24 calibration tiles, got 25"):
        select_tiles(tissue_tiles(images), 25)


def test_disjoint_selections_have_no_common_tile(images):
    selections = disjoint_selections(tissue_tiles(images), 4, 5)
    assert len(selections) == 5
    hashes = [(tile.stem, tile.row, tile.column) for selected in selections for tile in selected]
    assert len(set(hashes)) == len(hashes) == 20


def test_fewer_tiles_give_fewer_disjoint_selections(images):
    tiles = tissue_tiles(images)
    assert len(disjoint_selections(tiles, 8, 5)) == 3
    assert disjoint_selections(tiles, 13, 5) == ()


def test_pixel_hash_depends_on_shape_and_pixels():
    image = np.zeros((2, 8, 3), np.uint8)
    assert pixel_hash(image) != pixel_hash(image.reshape(8, 2, 3))
    other = image.copy()
    other[0, 0, 0] = 1
    assert pixel_hash(image) != pixel_hash(other)


@pytest.fixture
def calibrated(bundle: Bundle, images, tiles, tmp_path: Path) -> Bundle:
    (tmp_path / CALIBRATION).write_bytes(msgspec.json.encode(describe_tiles(tiles, images, "minmax")))
    artifacts = {CALIBRATION: artifact(tmp_path, CALIBRATION)}
    write_manifest(tmp_path, msgspec.structs.replace(bundle.manifest, artifacts=artifacts))
    return Bundle(tmp_path)


def test_require_unseen_rejects_calibration_images(calibrated, images, tiles):
    used = next(annotated for annotated in images if annotated.stem == tiles[0].stem)
    with pytest.raises(BadInput, match="calibrate on images that are not test images"):
        require_unseen(calibrated, [used])


def test_require_unseen_accepts_other_images(calibrated, bundle, make_annotated_image, images):
    other = make_annotated_image("other", np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool))
    require_unseen(calibrated, [other])
    require_unseen(bundle, images)  # a bundle that was never calibrated
