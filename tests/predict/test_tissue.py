"""What counts as tissue."""

import numpy as np
import pytest

from msal_deploy.prediction.grid import Window
from msal_deploy.prediction.tissue import Tissue, tissue_mask


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
    ],
)
def test_colours(colour, is_tissue):
    picture = np.full((20, 20, 3), colour, np.uint8)
    assert tissue_mask(picture, 4.0).all() == is_tissue
    assert tissue_mask(picture, 4.0).any() == is_tissue


def test_24_micrometres_around_tissue_count():
    picture = np.full((41, 41, 3), 240, np.uint8)
    picture[20, 20] = (120, 0, 120)
    rows = np.flatnonzero(tissue_mask(picture, 4.0).any(axis=1))
    # Blurred by 1 px, the chroma of 120 is 19 in the middle and 11.6 beside it. 24 µm are 6 px: rows 14 to 26.
    assert (rows[0], rows[-1]) == (14, 26)
    assert tissue_mask(picture, 24.0).sum() < tissue_mask(picture, 4.0).sum()


def test_area_and_windows_by_hand():
    mask = np.zeros((10, 20), bool)
    mask[0:5, 10:20] = True  # a quarter
    tissue = Tissue(mask, (1000, 2000))
    # 2 Mpx · 1/4 · (0.25 µm)² = 500,000 · 0.0625 µm² = 0.03125 mm²
    assert tissue.area_mm2(0.25) == pytest.approx(0.03125)
    assert tissue.overlaps(Window(0, 900, 100, 101))
    assert not tissue.overlaps(Window(0, 900, 100, 100))
    assert not tissue.overlaps(Window(500, 1000, 500, 1000))
    assert tissue.overlaps(Window(499, 1999, 1, 1))
