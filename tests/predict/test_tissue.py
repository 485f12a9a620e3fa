"""What counts as tissue."""

import numpy as np
import pytest

from msal_deploy.prediction.grid import Window
from msal_deploy.prediction.tissue import Tissue, find_tissue, tissue_mask


@pytest.mark.parametrize(
    ("colour", "is_tissue"),
    [
        ((230, 190, 215), True),  # eosin
        ((120, 60, 140), True),  # a nucleus
        ((228, 222, 238), True),  # very pale tissue: chroma 16
        ((180, 180, 180), True),  # a grey image
        ((240, 240, 240), False),  # glass
        ((236, 238, 243), False),  # bluish glass: chroma 7
        ((255, 255, 255), False),  # outside the scan
        ((0, 0, 0), False),
        ((240, 228, 234), True),  # chroma 12
        ((240, 229, 234), False),  # chroma 11
        ((200, 200, 200), True),
        ((201, 201, 201), False),
        ((203, 199, 195), True),  # a mean of 199
        ((20, 20, 20), True),
        ((19, 19, 19), False),
    ],
)
def test_colours(colour, is_tissue):
    picture = np.full((20, 20, 3), colour, np.uint8)
    assert tissue_mask(picture, 4.0).all() == is_tissue
    assert tissue_mask(picture, 4.0).any() == is_tissue


@pytest.mark.parametrize(("resolution", "reach"), [(4.0, 6), (4.2, 6), (1.0, 24), (100.0, 1)])
def test_24_micrometres_around_tissue_count_and_at_least_a_pixel(resolution, reach):
    picture = np.full((101, 141, 3), 240, np.uint8)
    picture[50, 60] = (120, 0, 120)
    mask = tissue_mask(picture, resolution)
    # Blurred by 1 px, the chroma of 120 is 19 in the middle and 11.6 beside it.
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (rows[0], rows[-1]) == (50 - reach, 50 + reach)
    assert (columns[0], columns[-1]) == (60 - reach, 60 + reach)
    assert mask.dtype == bool


@pytest.mark.parametrize(
    ("shape", "is_blurred"), [((7, 30), False), ((8, 30), False), ((30, 8), False), ((9, 30), True), ((30, 9), True)]
)
def test_pictures_of_more_than_8_px_are_blurred(shape, is_blurred):
    picture = np.full((*shape, 3), 240, np.uint8)
    picture[4, 4] = (240, 210, 225)  # alone, a chroma of 30; blurred, 30 · 0.16 = 5
    assert tissue_mask(picture, 4.0).any() != is_blurred


def test_grey_tissue_on_glass():
    picture = np.full((60, 60, 3), 240, np.uint8)
    picture[20:30, 20:30] = 150
    rows = np.flatnonzero(tissue_mask(picture, 12.0).any(axis=1))
    assert (rows[0], rows[-1]) == (18, 31)  # 24 µm are 2 px


class Glass:
    """A slide of glass with a dark spot in the middle; notes the size of the thumbnail that is asked for."""

    def __init__(self, shape, most=10**9):
        self.shape, self.most = shape, most

    def thumbnail(self, longest):
        self.longest = longest
        side = min(longest, self.most)
        size = [max(round(extent * side / max(self.shape)), 1) for extent in self.shape]
        picture = np.full((*size, 3), 240, np.uint8)
        picture[size[0] // 2, size[1] // 2] = (120, 0, 120)
        return picture


@pytest.mark.parametrize(
    ("shape", "resolution", "longest"),
    [
        ((1000, 2000), 0.25, 125),  # 500 µm at 4 µm/px
        ((1000, 2005), 0.25, 125),  # 125.3
        ((1000, 2010), 0.25, 126),  # 125.6
        ((4, 8), 0.25, 1),
        ((100_000, 40_000), 0.25, 4096),  # 6,250
    ],
)
def test_tissue_is_found_at_4_micrometres(shape, resolution, longest):
    slide = Glass(shape)
    tissue = find_tissue(slide, resolution)
    assert slide.longest == longest
    assert tissue.area_mm2(resolution) > 0


def test_the_margin_is_that_of_the_thumbnail():
    # 500 µm on 50 px are 10 µm/px: 24 µm are 2 px around the spot.
    tissue = find_tissue(Glass((1000, 2000), most=50), 0.25)
    assert tissue.mask.shape == (25, 50)
    assert tissue.mask.sum() == 5 * 5
    # Of 50 · 25 px, 25 are tissue: 2% of 0.125 mm².
    assert tissue.area_mm2(0.25) == pytest.approx(0.0025, rel=1e-9)
    # 60 µm on 16 px are 3.75 µm/px: 6.4 px.
    assert find_tissue(Glass((240, 240), most=16), 0.25).mask.any(axis=0).sum() == 13


def test_windows_by_hand():
    mask = np.zeros((10, 20), bool)
    mask[3, 12] = True  # rows 300 to 400, columns 1200 to 1300
    tissue = Tissue(mask, (1000, 2000))
    inside = [(299, 1100, 2, 101), (250, 1250, 51, 10), (399, 1299, 1, 1), (0, 0, 1000, 2000), (300, 1200, 100, 100)]
    outside = [
        (100, 1200, 200, 50),
        (400, 1200, 100, 100),
        (300, 1300, 10, 10),
        (300, 1100, 50, 100),
        (0, 1200, 300, 9),
    ]
    assert [tissue.overlaps(Window(*window)) for window in inside] == [True] * 5
    assert [tissue.overlaps(Window(*window)) for window in outside] == [False] * 5


def test_area_and_windows_by_hand():
    mask = np.zeros((10, 20), bool)
    mask[0:5, 10:20] = True  # a quarter
    tissue = Tissue(mask, (1000, 2000))
    # 2 Mpx · 1/4 · (0.25 µm)² = 500,000 · 0.0625 µm² = 0.03125 mm²
    assert tissue.area_mm2(0.25) == pytest.approx(0.03125, rel=1e-9)
    assert tissue.overlaps(Window(0, 900, 100, 101))
    assert not tissue.overlaps(Window(0, 900, 100, 100))
    assert not tissue.overlaps(Window(500, 1000, 500, 1000))
    assert tissue.overlaps(Window(499, 1999, 1, 1))
