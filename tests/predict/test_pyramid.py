"""Resampling of pyramids by hand: positions, smoothing, levels, thumbnails and what cannot be read."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from msal_deploy.errors import BadInput
from msal_deploy.prediction.readers import pyramid
from msal_deploy.prediction.readers.pyramid import PyramidSlide


class Memory(PyramidSlide):
    """Levels in memory; notes the windows that are read. Windows with the pixel `damaged` cannot be read."""

    def __init__(self, images, microns_per_pixel=0.25, damaged=None):
        self.images, self.damaged, self.reads = images, damaged, []
        super().__init__("memory", "array", [image.shape[:2] for image in images], microns_per_pixel, 0.25)

    def read_level(self, level, top, left, height, width):
        rows, columns = self.images[level].shape[:2]
        assert top >= 0 and left >= 0 and height > 0 and width > 0
        assert top + height <= rows and left + width <= columns
        self.reads.append((level, top, left, height, width))
        if self.damaged and top <= self.damaged[0] < top + height and left <= self.damaged[1] < left + width:
            raise BadInput("damaged", "")
        return self.images[level][top : top + height, left : left + width].copy()

    def close(self):
        pass


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(pyramid, "BLOCK", 8)


def ramp(rows: int, columns: int) -> np.ndarray:
    """Red grows by 5 with each column, green by 6 with each row."""
    image = np.full((rows, columns, 3), 77, np.uint8)
    image[..., 0] = 5 * np.arange(columns)
    image[..., 1] = 6 * np.arange(rows)[:, None]
    return image


@pytest.mark.parametrize("resolution", [0.5, 0.4, 0.3, 0.22, 0.2, 0.125, 0.1])
def test_a_pixel_has_the_value_of_its_centre(small_blocks, resolution):
    slide = Memory([ramp(40, 50)], resolution)
    scale = 0.25 / resolution
    assert slide.scale == scale
    assert slide.shape == (round(40 / scale), round(50 / scale))
    whole = slide.read(0, 0, *slide.shape)
    assert whole.dtype == np.uint8
    whole = whole.astype(float)
    y, x = ((np.arange(side) + 0.5) * scale - 0.5 for side in slide.shape)
    inside_y, inside_x = (y > 4) & (y < 35), (x > 4) & (x < 45)
    assert np.abs(whole[inside_y][..., 1] - 6 * y[inside_y, None]).max() <= 1
    assert np.abs(whole[:, inside_x, 0] - 5 * x[inside_x]).max() <= 1
    # Beyond its border the image goes on with its last pixels.
    assert np.abs(whole[..., 1] - 6 * y.clip(0, 39)[:, None]).max() <= 7
    assert np.abs(whole[..., 0] - 5 * x.clip(0, 49)).max() <= 7
    assert (whole[..., 2] == 77).all()
    # Any window has the same pixels.
    np.testing.assert_array_equal(slide.read(5, 3, 10, 11), whole[5:15, 3:14])
    np.testing.assert_array_equal(slide.read(8, 8, 8, 8), whole[8:16, 8:16])


def test_the_border_is_that_of_the_image(small_blocks):
    image = np.full((17, 17, 3), 60, np.uint8)
    image[0], image[-1], image[:, 0], image[:, -1] = 200, 200, 200, 200
    large = Memory([image], 0.5).read(0, 0, 34, 34).astype(int)
    for line in (large[0], large[-1], large[:, 0], large[:, -1]):
        assert line.min() >= 195
    assert abs(large[8:26, 8:26] - 60).max() <= 1


def test_enlarging_is_cubic():
    image = np.full((20, 20, 3), 60, np.uint8)
    image[:, 10:] = 200
    large = Memory([image], 0.5).read(0, 0, 40, 40)
    assert large.max() > 205 and large.min() < 55  # sharper than the edge itself; linear interpolation never is


def test_the_level_gives_the_pixels(small_blocks):
    full = ramp(40, 48)
    half = full.reshape(20, 2, 24, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    slide = Memory([full, half], 0.1)  # 2.5 pixels of level 0, 1.25 of level 1
    whole = slide.read(0, 0, *slide.shape).astype(float)
    assert {level for level, *_ in slide.reads} == {1}
    y, x = ((np.arange(side) + 0.5) * 2.5 - 0.5 for side in slide.shape)
    assert np.abs(whole[3:-3, 3:-3, 1] - 6 * y[3:-3, None]).max() <= 1.5
    assert np.abs(whole[3:-3, 3:-3, 0] - 5 * x[3:-3]).max() <= 1.5


def test_a_spot_is_blurred_by_half_a_pixel():
    image = np.zeros((48, 48, 3), np.uint8)
    image[20, 20] = 255
    # Each new pixel covers two old ones, so the image is blurred by a Gaussian of 1 px, with the weights 0.39905,
    # 0.24204, 0.05401 and 0.00443. Pixel 10 lies halfway between 20 and 21, and gets (0.39905 + 0.24204) / 2 = 0.32054
    # along each axis; pixel 9 lies between 18 and 19.
    spot = Memory([image], 0.125).read(0, 0, 24, 24)[..., 0].astype(int)
    near, far = (0.39905 + 0.24204) / 2, (0.05401 + 0.24204) / 2
    assert abs(spot[10, 10] - 255 * near * near) <= 1.5
    assert abs(spot[9, 10] - 255 * far * near) <= 1.5
    assert abs(spot[10, 9] - 255 * far * near) <= 1.5


def test_up_to_a_tenth_smaller_is_not_blurred():
    image = np.zeros((48, 48, 3), np.uint8)
    image[20, 20] = 255
    # 1.0964 pixels for each: pixel 18 is at 18.5 · 1.0964 - 0.5 = 19.783, so it gets 0.783 along each axis.
    spot = Memory([image], 0.228).read(0, 0, 30, 30)[..., 0].astype(int)
    assert abs(spot[18, 18] - 255 * 0.783**2) <= 8  # OpenCV rounds positions to 1/32 px
    assert spot[17, 17] == spot[20, 20] == 0


@pytest.mark.parametrize(
    ("resolution", "scale"),
    [(0.25, 1.0), (0.251, 1.0), (0.2488, 1.0), (0.2487, 0.25 / 0.2487), (0.2514, 0.25 / 0.2514), (0.5, 0.5)],
)
def test_resolutions_within_half_a_percent_are_the_same(resolution, scale):
    slide = Memory([ramp(30, 40)], resolution)
    assert (slide.scale, slide.source, slide.name) == (scale, "array", "memory")
    if scale == 1.0:
        np.testing.assert_array_equal(slide.read(2, 3, 20, 30), ramp(30, 40)[2:22, 3:33])
        assert slide.reads == [(0, 2, 3, 20, 30)]


def test_a_tiny_slide_has_a_pixel():
    assert Memory([ramp(1, 3)], 0.01).shape == (1, 1)


def test_levels_and_which_one_is_chosen():
    slide = Memory([np.zeros((410, 370, 3), np.uint8), np.zeros((100, 90, 3), np.uint8)])
    # The mean of 410 / 100 and 370 / 90.
    assert slide.levels == [((410, 370), 1.0), ((100, 90), pytest.approx((4.1 + 37 / 9) / 2, rel=1e-12))]
    levels = [np.zeros((side, side, 3), np.uint8) for side in (1600, 400, 100)]
    chosen = {factor: Memory(levels)._choose(factor) for factor in (0.5, 1, 3.92, 3.93, 4, 15.6, 15.7, 100)}
    assert chosen == {0.5: 0, 1: 0, 3.92: 0, 3.93: 1, 4: 1, 15.6: 1, 15.7: 2, 100: 2}


def test_only_some_blocks_are_kept_the_latest_ones(small_blocks, monkeypatch):
    monkeypatch.setattr(pyramid, "CACHED_BLOCKS", 2)
    slide = Memory([ramp(40, 50)], 0.5)
    for left in (0, 8, 16):
        slide.read(0, left, 8, 8)
    assert list(slide._blocks) == [(0, 1), (0, 2)]
    assert len(slide.reads) == 3
    slide.read(0, 8, 8, 8)  # used last: the next one replaces the other
    slide.read(0, 24, 8, 8)
    assert list(slide._blocks) == [(0, 1), (0, 3)]
    assert len(slide.reads) == 4


@pytest.mark.parametrize(("shape", "longest"), [((64, 48), 16), ((65, 48), 13), ((48, 64), 10), ((60, 50), 60)])
def test_a_thumbnail_in_bands_is_that_of_the_whole(shape, longest, monkeypatch):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    factor = max(shape) / longest
    size = (round(shape[0] / factor), round(shape[1] / factor))
    monkeypatch.setattr(pyramid, "BAND", 1024)
    slide = Memory([image])
    thumbnail = slide.thumbnail(longest)
    assert thumbnail.shape == (*size, 3)
    bands = -(-shape[0] * shape[1] // 1024)
    assert len(slide.reads) == bands
    rows = [0]
    for _, top, left, height, width in slide.reads:
        assert (top, left, width) == (rows[-1], 0, shape[1])
        rows.append(top + height)
    assert rows[-1] == shape[0]
    for top, bottom in pairwise(rows):
        assert abs((bottom - top) * shape[1] - shape[0] * shape[1] / bands) <= factor * shape[1]
    if shape[0] % size[0] == 0:  # bands end where pixels of the thumbnail do
        expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(thumbnail.astype(int) - expected).max() <= 1


def test_a_thumbnail_with_fewer_rows_than_bands(monkeypatch):
    monkeypatch.setattr(pyramid, "BAND", 10)
    thumbnail = Memory([np.full((2, 60, 3), 90, np.uint8)]).thumbnail(30)
    assert thumbnail.shape == (1, 30, 3)
    assert (thumbnail == 90).all()
    assert Memory([np.full((1, 60, 3), 90, np.uint8)]).thumbnail(6).shape == (1, 6, 3)
    assert Memory([np.full((60, 1, 3), 90, np.uint8)]).thumbnail(6).shape == (6, 1, 3)


def test_a_thumbnail_comes_from_the_coarsest_level_with_enough_pixels():
    levels = [np.full((side, side, 3), value, np.uint8) for side, value in ((160, 1), (40, 2), (10, 3))]
    for longest, level in ((160, 0), (41, 0), (40, 1), (11, 1), (10, 2), (5, 2)):
        thumbnail = Memory(levels).thumbnail(longest)
        assert thumbnail.shape[:2] == (longest, longest)
        assert (thumbnail == level + 1).all()
    assert Memory(levels).thumbnail(1000).shape[:2] == (160, 160)  # never larger than the slide


@pytest.mark.parametrize(
    ("shape", "pixel", "grey"),
    [
        # Halves along the longer side: rows 0-7, columns 6-11, rows 4-7, columns 6-8.
        ((16, 12), (5, 7), (slice(4, 8), slice(6, 9))),
        ((12, 16), (7, 5), (slice(6, 9), slice(4, 8))),
        # Odd sides: the second part is the longer one.
        ((9, 4), (8, 0), (slice(6, 9), slice(0, 4))),
        ((4, 9), (0, 0), (slice(0, 4), slice(0, 4))),
    ],
)
def test_a_damaged_part_is_grey_and_small(shape, pixel, grey, monkeypatch):
    monkeypatch.setattr(pyramid, "SMALLEST", 4)
    image = np.random.default_rng(0).integers(0, 100, (*shape, 3), dtype=np.uint8)
    expected = image.copy()
    expected[grey] = 128
    np.testing.assert_array_equal(Memory([image], damaged=pixel).thumbnail(max(shape)), expected)


def test_what_is_said_of_coarse_scans():
    assert Memory([ramp(9, 9)], 0.374).notes == ()
    enlarged = "memory has 0.375 µm/px and was enlarged 1.5×: expect fewer and rougher nuclei"
    assert Memory([ramp(9, 9)], 0.375).notes == (enlarged,)
    enlarged = "memory has 0.503 µm/px and was enlarged 2.0×: expect fewer and rougher nuclei"
    assert Memory([ramp(9, 9)], 0.5031).notes == (enlarged,)


def test_sizes():
    assert (pyramid.BLOCK, pyramid.CACHED_BLOCKS, pyramid.BAND) == (512, 64, 16777216)
    assert (pyramid.SMALLEST, pyramid.DAMAGED) == (128, 128)
