"""An image of any size in overlapping tiles: which tiles, how they are blended, and when the result is exact."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter

from msal_deploy.errors import BadInput
from msal_deploy.runtimes import Engine, segment
from msal_deploy.spec import ModelSpec


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pointwise(images: np.ndarray) -> np.ndarray:
    """Every colour has a probability of its own, which float32 holds exactly."""
    red, green, blue = np.moveaxis(images.astype(np.float32), 3, 0)
    return ((red * 65536 + green * 256 + blue) / 2**24)[:, None]


class Numbered:
    """Returns 0 for every pixel of the first image, 1 for the second, and so on; keeps the images."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        numbers = np.arange(len(self.images), len(self.images) + len(images), dtype=np.float32)
        self.images += list(images)
        self.batches.append(len(images))
        return np.broadcast_to(numbers[:, None, None, None], (len(images), 1, *images.shape[1:3]))


def positions(height: int, width: int, **arguments: int) -> list[tuple[int, int, int, int]]:
    """Return top, left, height and width of the tiles of an image, read from its pixels."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(height)[:, None] // 8, np.arange(width) // 8
    image[..., 2] = np.arange(height)[:, None] % 8 * 8 + np.arange(width) % 8
    engine = Numbered()
    segment(engine, image, **arguments)
    first = [tile[0, 0].astype(int) for tile in engine.images]
    return [
        (8 * red + blue // 8, 8 * green + blue % 8, *tile.shape[:2])
        for (red, green, blue), tile in zip(first, engine.images, strict=True)
    ]


# --- which tiles -----------------------------------------------------------------------------------------------------


def test_a_monuseg_image_takes_nine_tiles_that_end_at_its_borders():
    # 2 tiles of 512 share only 24 of 1000 px; 3 tiles are 244 apart and share 268.
    starts = (0, 244, 488)
    assert positions(1000, 1000) == [(row, column, 512, 512) for row in starts for column in starts]
    assert positions(1000, 1000, overlap=24) == [(row, column, 512, 512) for row in (0, 488) for column in (0, 488)]
    assert len(positions(1000, 1000, overlap=25)) == 9


@pytest.mark.parametrize(
    ("width", "arguments", "starts"),
    [
        (512, {}, [0]),
        (513, {}, [0, 1]),
        (960, {}, [0, 448]),
        (961, {}, [0, 224, 449]),
        (96, {"tile": 96, "overlap": 32}, [0]),
        (160, {"tile": 96, "overlap": 32}, [0, 64]),
        (162, {"tile": 96, "overlap": 32}, [0, 33, 66]),
        (96, {"tile": 32, "overlap": 0}, [0, 32, 64]),
        (36, {"tile": 32, "overlap": 31}, [0, 1, 2, 3, 4]),
    ],
)
def test_tiles_are_spread_evenly(width: int, arguments: dict[str, int], starts: list[int]):
    tile = arguments.get("tile", 512)
    assert positions(tile, width, **arguments) == [(0, start, tile, tile) for start in starts]
    assert positions(width, tile, **arguments) == [(start, 0, tile, tile) for start in starts]


@pytest.mark.parametrize(
    ("shape", "padded"), [((1, 1), (32, 32)), ((32, 33), (32, 64)), ((500, 40), (512, 64)), ((481, 512), (512, 512))]
)
def test_an_image_up_to_a_tile_is_one_call(shape: tuple[int, int], padded: tuple[int, int]):
    engine = Numbered()
    assert segment(engine, noise(*shape)).shape == shape
    assert [image.shape for image in engine.images] == [(*padded, 3)]


def test_one_small_side_is_padded_and_the_other_tiled():
    assert positions(40, 600) == [(0, 0, 64, 512), (0, 88, 64, 512)]
    assert positions(600, 40) == [(0, 0, 512, 64), (88, 0, 512, 64)]


def test_padding_mirrors_the_image():
    engine, image = Numbered(), noise(33, 2)
    segment(engine, image)
    tile = engine.images[0]
    assert tile.shape == (64, 32, 3)
    np.testing.assert_array_equal(tile[:33, :2], image)
    np.testing.assert_array_equal(tile[33:, :2], image[31:0:-1])  # the last row is not repeated
    np.testing.assert_array_equal(tile[:, 2::2], tile[:, :1].repeat(15, axis=1))  # 0 1 0 1 0 1 …
    np.testing.assert_array_equal(tile[:, 3::2], tile[:, 1:2].repeat(15, axis=1))


def test_tiles_are_computed_in_batches():
    for batch, expected in ({}, [1] * 9), ({"batch": 4}, [4, 4, 1]), ({"batch": 9}, [9]), ({"batch": 64}, [9]):
        engine = Numbered()
        segment(engine, noise(80, 80), tile=32, overlap=8, **batch)
        assert engine.batches == expected


# --- how they are blended --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "overlap", "first", "ramp"),
    [
        (48, 16, 20, 8),  # 16 px are shared: 4 are dropped on each side, and 8 blended
        (47, 15, 19, 9),  # 17 are shared: 4, 9, 4
        (46, 0, 18, 10),  # 18 are shared, although none would do: 4, 10, 4
        (45, 19, 17, 11),  # 19 are shared: 4, 11, 4
        (33, 31, 8, 17),  # 31 are shared: 7, 17, 7; more than half of a tile
        (61, 3, 29, 3),  # 3 are shared: none is dropped
        (63, 1, 31, 1),
        (64, 0, 32, 0),
    ],
)
def test_two_tiles_are_blended_linearly(width: int, overlap: int, first: int, ramp: int):
    expected = [0.0] * first + [(pixel + 0.5) / ramp for pixel in range(ramp)] + [1.0] * (width - first - ramp)
    for shape in ((32, width), (width, 32)):
        result = segment(Numbered(), noise(*shape), tile=32, overlap=overlap)
        along = result if shape[1] == width else result.T
        np.testing.assert_allclose(along, np.tile(np.float32(expected), (32, 1)), rtol=0, atol=1e-7)


def test_four_tiles_are_blended_in_both_directions():
    ramp = np.clip((np.arange(48, dtype=np.float32) - 20 + 0.5) / 8, 0, 1)
    result = segment(Numbered(), noise(48, 48), tile=32, overlap=16)
    np.testing.assert_allclose(result, 2 * ramp[:, None] + ramp, rtol=0, atol=1e-6)


def test_three_tiles_that_share_pixels():
    # Tiles of 32 at 0, 8, 16 share 24 px: 6 are dropped on each side, 12 blended. Kept: 0…25, 14…33 and 22…47.
    rise = np.clip((np.arange(48) + 0.5) / 12, 0, 1)
    weights = np.zeros((3, 48))
    weights[0, :26] = rise[:26][::-1]
    weights[1, 14:34] = np.minimum(rise[:20], rise[:20][::-1])
    weights[2, 22:] = rise[:26]
    expected = (weights[1] + 2 * weights[2]) / weights.sum(axis=0)
    result = segment(Numbered(), noise(32, 48), tile=32, overlap=24)
    np.testing.assert_allclose(result, np.tile(expected, (32, 1)), rtol=0, atol=1e-6)


# --- when the result is exact ----------------------------------------------------------------------------------------

TILES = st.sampled_from([(32, 0), (32, 9), (64, 32), (96, 32), (96, 64), (512, 64)])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 210), st.integers(1, 210), TILES, st.integers(1, 7))
def test_a_pointwise_engine_is_exact_at_any_size(height: int, width: int, tile: tuple[int, int], batch: int):
    image = noise(height, width, height * 1000 + width)
    result = segment(pointwise, image, tile=tile[0], overlap=tile[1], batch=batch)
    assert result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_array_equal(result, pointwise(image[None])[0, 0])


@pytest.mark.parametrize(("tile", "overlap"), [(96, 32), (64, 16), (32, 8)])
def test_the_result_is_exact_for_a_receptive_field_of_a_quarter_of_the_overlap(tile: int, overlap: int):
    def reach(radius: int) -> Any:
        return lambda images: np.stack(
            [maximum_filter(image, 2 * radius + 1, mode="constant")[None] for image in pointwise(images)[:, 0]]
        )

    # The tiles share no more than `overlap`. An engine pads with zeros at the borders of the image and of each tile.
    image = noise(3 * tile - 2 * overlap, 2 * tile - overlap) // 16
    image[::7, ::7] *= 16
    for radius, exact in ((overlap // 4, True), (overlap // 4 + 1, False)):
        whole = reach(radius)(image[None])[0, 0]
        assert np.array_equal(segment(reach(radius), image, tile=tile, overlap=overlap), whole) == exact


def test_the_result_does_not_depend_on_the_batch():
    def contrast(images: np.ndarray) -> np.ndarray:
        values = pointwise(images)
        return values - values.mean(axis=(2, 3), keepdims=True)

    image = noise(150, 210)
    alone = segment(contrast, image, tile=64, overlap=16)
    for batch in (2, 5, 64):
        np.testing.assert_array_equal(segment(contrast, image, tile=64, overlap=16, batch=batch), alone)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_visible(value: float):
    image = noise(100, 130) // 2
    image[::9, ::11] = 255

    def sometimes(images: np.ndarray) -> np.ndarray:
        return np.where(images[..., 0] == 255, np.float32(value), pointwise(images)[:, 0])[:, None]

    with np.errstate(invalid="raise"):
        result = segment(sometimes, image, tile=64, overlap=32)
    np.testing.assert_array_equal(np.isfinite(result), image[..., 0] != 255)


def test_views_are_accepted():
    image = noise(70, 40)
    np.testing.assert_array_equal(
        segment(pointwise, image[::-1, :, ::-1], tile=32, overlap=8), pointwise(image[None, ::-1, :, ::-1])[0, 0]
    )


def test_the_result_is_not_a_view_of_the_engines():
    held = np.zeros((1, 1, 64, 64), np.float32)
    result = segment(lambda images: held, noise(64, 64))
    result += 1
    assert not held.any()


# --- the shortcut of an engine ---------------------------------------------------------------------------------------


class Fake(Engine):
    runtime = "fake"

    def _open(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def _infer(self, images: np.ndarray) -> np.ndarray:
        self.calls.append(images.shape)
        return pointwise(images)

    def _close(self) -> None:
        pass


def test_an_engine_segments_an_image():
    image = noise(600, 40)
    with Fake(SimpleNamespace(path=Path("bundle"), spec=ModelSpec()), "fp32") as engine:  # type: ignore[arg-type]
        np.testing.assert_array_equal(engine.segment(image), pointwise(image[None])[0, 0])
        assert engine.calls == [(1, 512, 64, 3)] * 2
        engine.calls.clear()
        engine.segment(image, tile=256, overlap=84, batch=2)
        assert engine.calls == [(2, 256, 64, 3)] * 1 + [(1, 256, 64, 3)]
        engine.calls.clear()
        engine.segment(image, tile=256, overlap=85, batch=3)
        assert engine.calls == [(3, 256, 64, 3), (1, 256, 64, 3)]
    with pytest.raises(RuntimeError, match="is not open"):
        engine.segment(image)


# --- bad input -------------------------------------------------------------------------------------------------------

IMAGE = noise(40, 40)


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        ([[1]], {}, "Expected an image uint8[H,W,3], got list; pass one RGB image from 0 to 255"),
        (IMAGE / 255, {}, "Expected an image uint8[H,W,3], got float64[40, 40, 3]; pass one RGB image from 0 to 255"),
        (IMAGE[None], {}, "Expected an image uint8[H,W,3], got uint8[1, 40, 40, 3]; pass one RGB image from 0 to 255"),
        (IMAGE[..., 0], {}, "Expected an image uint8[H,W,3], got uint8[40, 40]; pass one RGB image from 0 to 255"),
        (IMAGE[..., :2], {}, "Expected an image uint8[H,W,3], got uint8[40, 40, 2]; pass one RGB image from 0 to 255"),
        (IMAGE > 0, {}, "Expected an image uint8[H,W,3], got bool[40, 40, 3]; pass one RGB image from 0 to 255"),
        (
            np.zeros((40, 40, 4), np.uint8),
            {},
            "Expected an image uint8[H,W,3], got uint8[40, 40, 4]; pass one RGB image from 0 to 255",
        ),
        (
            IMAGE[..., None],
            {},
            "Expected an image uint8[H,W,3], got uint8[40, 40, 3, 1]; pass one RGB image from 0 to 255",
        ),
        (IMAGE[:0], {}, "Expected at least one pixel, got an image of 40×0 px; leave it out"),
        (IMAGE[:, :0], {}, "Expected at least one pixel, got an image of 0×40 px; leave it out"),
        (IMAGE, {"tile": 100}, "Expected a tile that is a multiple of 32, got 100; use 96 or 128"),
        (IMAGE, {"tile": 0}, "Expected a tile from 32 to 4096, got 0; use a size in that range"),
        (IMAGE, {"tile": 4128}, "Expected a tile from 32 to 4096, got 4128; use a size in that range"),
        (IMAGE, {"overlap": -1}, "Expected an overlap from 0 to 511, got -1; use one in that range"),
        (IMAGE, {"tile": 96, "overlap": 96}, "Expected an overlap from 0 to 95, got 96; use one in that range"),
        (IMAGE, {"tile": 96, "overlap": 97}, "Expected an overlap from 0 to 95, got 97; use one in that range"),
        (IMAGE, {"batch": 0}, "Expected a batch from 1 to 64, got 0; use a size in that range"),
        (IMAGE, {"batch": 65}, "Expected a batch from 1 to 64, got 65; use a size in that range"),
    ],
)
def test_bad_arguments(image: Any, arguments: dict[str, int], message: str):
    with pytest.raises(BadInput) as error:
        segment(pointwise, image, **arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("cut", [np.s_[:, 0], np.s_[:, :, :-1], np.s_[:, :, :, 1:], np.s_[1:], np.s_[:, :0]])
def test_an_engine_that_returns_another_shape(cut: Any):
    with pytest.raises(
        BadInput, match=r"^Expected probabilities of shape \(1, 1, 64, 64\), got \(.*\); check the graph$"
    ):
        segment(lambda images: pointwise(images)[cut], IMAGE)


def test_the_largest_arguments():
    assert segment(pointwise, IMAGE, tile=4096, overlap=4095, batch=64).shape == (40, 40)
    assert segment(pointwise, IMAGE, tile=32, overlap=31).shape == (40, 40)
