"""Every pixel and every tile belongs to one region."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msal_deploy.prediction.grid import HALO, REGION, SIDES, Grid, choose_tile, region_side

extents = st.tuples(st.integers(1, 2500), st.integers(1, 2500))


@settings(max_examples=60, deadline=None)
@given(extents, st.sampled_from([96, 256, 512]), st.integers(1, 5))
def test_cores_cover_the_slide_once_and_regions_share_no_tile(extent, tile, group):
    grid = Grid(extent, tile, 32, group)
    seen = np.zeros(extent, np.uint8)
    tiles = []
    for region in grid.regions():
        core, read = grid.core(*region), grid.read_window(*region)
        seen[core.rows, core.columns] += 1
        tiles += grid.tiles(*region)
        assert read.top <= core.top and read.top + read.height >= core.top + core.height
        assert read.left <= core.left and read.left + read.width >= core.left + core.width
    assert (seen == 1).all()
    assert sorted(tiles) == [(i, j) for i in range(len(grid.rows)) for j in range(len(grid.columns))]


@settings(max_examples=60, deadline=None)
@given(extents, st.sampled_from([256, 512]), st.integers(2, 5))
def test_the_tiles_of_a_window_are_those_of_the_region_and_its_neighbours(extent, tile, group):
    grid = Grid(extent, tile, 64, group)
    for region in grid.regions():
        window = grid.window(*region, 128)
        near = {one for neighbour in grid.neighbours(*region) for one in grid.tiles(*neighbour)}
        for i, row in enumerate(grid.rows):
            for j, column in enumerate(grid.columns):
                touches_rows = row.kept.start < window.top + window.height and row.kept.stop > window.top
                touches_columns = column.kept.start < window.left + window.width and column.kept.stop > window.left
                assert not (touches_rows and touches_columns) or (i, j) in near


def test_a_region_of_four_tiles_by_hand():
    grid = Grid((3000, 600), tile=512, overlap=64, group=4)
    # (3000 - 512) / 448 = 5.6: seven tiles that start 2488 / 6 = 414.7 apart; two across 600, starting at 0 and 88.
    assert [span.tile.start for span in grid.rows] == [0, 414, 829, 1244, 1658, 2073, 2488]
    assert [span.tile.start for span in grid.columns] == [0, 88]
    assert grid.shape == (2, 1)
    # Tiles 3 and 4 share rows 1658 to 1756: the regions meet at 1707.
    assert grid.core(0, 0) == (0, 0, 1707, 600)
    assert grid.core(1, 0) == (1707, 0, 1293, 600)
    assert grid.window(1, 0, 128) == (1579, 0, 1421, 600)
    assert grid.read_window(1, 0) == (1658, 0, 1342, 600)
    # The window of the first region ends 128 px below 1707, that of the second starts 128 px above.
    assert grid.window(0, 0, 128) == (0, 0, 1835, 600)
    assert grid.read_window(0, 0) == (0, 0, 1756, 600)


def test_a_region_in_the_middle_by_hand():
    grid = Grid((1200, 1500), tile=256, overlap=56, group=2)
    # (1200 - 256) / 200 = 4.7: six tiles, 188.8 apart; (1500 - 256) / 200 = 6.2: eight tiles, 177.7 apart.
    assert [span.tile.start for span in grid.rows] == [0, 188, 377, 566, 755, 944]
    assert [span.tile.start for span in grid.columns] == [0, 177, 355, 533, 710, 888, 1066, 1244]
    assert grid.shape == (3, 4)
    # Rows: tiles 1 and 2 share 377 to 444, tiles 3 and 4 share 755 to 822. Columns: 355 to 433, and 710 to 789.
    assert grid.core(1, 1) == (410, 394, 788 - 410, 749 - 394)
    assert grid.window(1, 1, 30) == (380, 364, 818 - 380, 779 - 364)
    assert grid.read_window(1, 1) == (377, 355, 566 + 256 - 377, 533 + 256 - 355)
    assert grid.tiles(1, 1) == [(2, 2), (2, 3), (3, 2), (3, 3)]
    # A halo that reaches one pixel beyond the image ends at its border.
    assert grid.window(0, 0, 1) == (0, 0, 411, 395)
    assert grid.window(2, 3, 1) == (787, 1104, 1200 - 787, 1500 - 1104)
    assert list(grid.regions()) == [(row, column) for row in range(3) for column in range(4)]


def test_neighbours_are_the_eight_around_a_region_within_the_grid():
    grid = Grid((1200, 1500), tile=256, overlap=56, group=1)
    assert grid.shape == (6, 8)
    around = [(row, column) for row in (2, 3, 4) for column in (3, 4, 5)]
    assert grid.neighbours(3, 4) == around
    assert grid.neighbours(0, 0) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert grid.neighbours(5, 7) == [(4, 6), (4, 7), (5, 6), (5, 7)]


def test_sizes():
    # 2048 px are 4 tiles of 512, 3 of 600, 8 of 256; larger tiles are regions of their own.
    assert [region_side(tile) for tile in (256, 512, 600, 683, 2047, 2048, 2049, 4096)] == [8, 4, 3, 2, 1, 1, 1, 1]
    assert HALO == 32
    grid = Grid((3000, 3000))
    assert (grid.side, grid.group, grid.shape) == ((512, 512), 4, (2, 2))
    assert [span.tile.start for span in grid.rows] == [0, 414, 829, 1244, 1658, 2073, 2488]
    # Tiles start at most 448 px apart: two cover 960 px, for 961 there are three.
    assert [len(Grid((side, 64)).rows) for side in (960, 961)] == [2, 3]
    # An image smaller than a tile is padded to a multiple of 32.
    assert Grid((100, 1000)).side == (128, 512)
    assert len(Grid((100, 1000)).rows) == 1


@pytest.mark.parametrize(
    ("extent", "side"),
    [
        ((1000, 1000), 544),  # 2 × 2 of 544² are 1.18 Mpx, 3 × 3 of 512² 2.36
        ((2000, 2000), 576),  # 4 × 4 of 576² are 5.31 Mpx, 5 × 5 of 512² 6.55, 4 × 4 of 640² 6.55
        ((512, 512), 512),
        ((520, 400), 544),  # one tile of 544 × 416
        ((640, 640), 640),
        ((30, 900), 512),  # 32 × 512 twice, with 124 px in common; larger ones are more pixels
        ((2049, 100), 512),  # larger than a region
    ],
)
def test_the_side_with_the_fewest_pixels_is_chosen(extent, side):
    assert choose_tile(extent) == side
    sums = {
        other: len(grid.rows) * grid.side[0] * len(grid.columns) * grid.side[1]
        for other in SIDES
        for grid in [Grid(extent, other)]
    }
    assert max(extent) > REGION or sums[side] == min(sums.values())
