"""The images that engines are timed on."""

import numpy as np
import pytest
from PIL import Image

from msal_deploy.bench import image_sets, inputs
from msal_deploy.errors import BadInput


def test_sets_differ_and_every_call_returns_the_same():
    sets, again = image_sets((64, 96), batch=2), image_sets((64, 96), batch=2)
    assert [one.shape for one in sets] == [(2, 64, 96, 3)] * 4
    assert all(np.array_equal(one, other) for one, other in zip(sets, again, strict=True))
    tiles = [tile.tobytes() for one in sets for tile in one]
    assert len(set(tiles)) == len(tiles)


def test_drawn_tissue_is_neither_flat_nor_noise():
    tiles = np.concatenate(image_sets((128, 128), batch=2)).astype(float)
    steps = np.abs(np.diff(tiles, axis=2)).mean()
    assert tiles.std() > 20 and steps < tiles.std() / 3  # neighbouring pixels of noise differ by more than that
    assert tiles[..., 1].mean() < tiles[..., 0].mean()  # haematoxylin and eosin absorb green


def test_tiles_of_own_images(tmp_path):
    ramp = np.arange(40 * 50 * 3, dtype=np.uint32).reshape(40, 50, 3).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    (tmp_path / "notes.txt").write_text("no image")
    for tile in np.concatenate(image_sets((32, 32), batch=3, folder=tmp_path)):
        assert any(
            np.array_equal(tile, ramp[top : top + 32, left : left + 32][::y, ::x])
            for top in range(9) for left in range(19) for y in (1, -1) for x in (1, -1)
        )  # fmt: skip


def test_an_image_smaller_than_a_tile_is_continued_by_its_mirror_image(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "small.png")
    for tile in np.concatenate(image_sets((32, 32), batch=1, folder=tmp_path)):
        mirrored = np.concatenate([image, image[::-1]])
        assert any(np.array_equal(tile, one) for one in (mirrored, mirrored[:, ::-1]))


def test_large_batches_get_fewer_sets(monkeypatch):
    monkeypatch.setattr(inputs, "MAX_BYTES", 2 * 5 * 32 * 32 * 3)
    assert len(image_sets((32, 32), batch=1)) == 4
    assert len(image_sets((32, 32), batch=5)) == 2
    assert len(image_sets((32, 32), batch=50)) == 1


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is not a folder"):
        image_sets((32, 32), 1, folder=tmp_path / "nowhere")
    with pytest.raises(BadInput, match="has no images"):
        image_sets((32, 32), 1, folder=tmp_path)
