"""Tiles are training tiles, of tissue, far apart in stain; and an image that is tested on is refused."""

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
    disjoint_draws,
    pixel_hash,
    require_unseen,
    select_tiles,
    tissue_tiles,
)


def test_tiles_lie_side_by_side_and_are_of_the_image(images):
    tiles = tissue_tiles(images[:1])
    assert [(tile.row, tile.column) for tile in tiles] == [(0, 0), (0, 256), (256, 0), (256, 256)]
    image = images[0].image()
    for tile in tiles:
        assert (tile.image == image[tile.row : tile.row + SIDE, tile.column : tile.column + SIDE]).all()


def test_background_is_no_tile(make_case):
    random = np.random.default_rng(0)
    image = np.full((512, 512, 3), 250, np.uint8)
    image[:256, :256] = random.integers(60, 200, (256, 256, 3))
    tiles = tissue_tiles([make_case("half", image, np.zeros((512, 512), bool))])
    assert [(tile.row, tile.column) for tile in tiles] == [(0, 0)]


def test_an_all_white_set_is_refused(make_case):
    case = make_case("white", np.full((512, 512, 3), 255, np.uint8), np.zeros((512, 512), bool))
    with pytest.raises(BadInput, match="shows stained tissue"):
        tissue_tiles([case])


def test_no_images_are_refused():
    with pytest.raises(BadInput, match="no training images"):
        tissue_tiles([])


def test_a_test_image_under_another_name_is_refused(images, tmp_path):
    renamed = AnnotatedImage("renamed", "test", images[2].image_path, None, None)
    with pytest.raises(BadInput, match=f"{images[2].stem} is the test image renamed, pixel for pixel"):
        tissue_tiles(images, [renamed])


def flat(stem: str, colour: tuple[int, int, int]) -> Tile:
    return Tile(stem, 0, 0, np.full((SIDE, SIDE, 3), colour, np.uint8))


def test_the_draw_takes_the_stains_that_differ():
    alike = [flat(f"pink{i}", (230, 150 + i, 190)) for i in range(6)]
    others = [flat("blue", (60, 50, 140)), flat("red", (200, 30, 60))]
    chosen = {tile.stem for tile in select_tiles([*alike, *others], 3)}
    assert {"blue", "red"} < chosen


def test_the_same_tiles_give_the_same_draw(images):
    tiles = tissue_tiles(images)
    assert [t.sha256 for t in select_tiles(tiles, 5)] == [t.sha256 for t in select_tiles(tiles, 5)]


def test_more_tiles_than_there_are_is_refused(images):
    with pytest.raises(BadInput, match="25 calibration tiles were asked for and 24 are there"):
        select_tiles(tissue_tiles(images), 25)


def test_draws_have_no_tile_in_common(images):
    draws = disjoint_draws(tissue_tiles(images), 4, 5)
    assert len(draws) == 5
    hashes = [(tile.stem, tile.row, tile.column) for drawn in draws for tile in drawn]
    assert len(set(hashes)) == len(hashes) == 20


def test_fewer_tiles_give_fewer_draws_and_one_draw_is_none(images):
    tiles = tissue_tiles(images)
    assert len(disjoint_draws(tiles, 8, 5)) == 3
    assert disjoint_draws(tiles, 13, 5) == ()


def test_the_hash_knows_shape_and_pixels():
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


def test_a_bundle_is_not_scored_on_what_it_was_calibrated_on(calibrated, images, tiles):
    used = next(case for case in images if case.stem == tiles[0].stem)
    with pytest.raises(BadInput, match="calibrate on images that are not tested on"):
        require_unseen(calibrated, [used])


def test_other_images_may_be_scored(calibrated, bundle, make_case, images):
    other = make_case("other", np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool))
    require_unseen(calibrated, [other])
    require_unseen(bundle, images)  # a bundle that was never calibrated
