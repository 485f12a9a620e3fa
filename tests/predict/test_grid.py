"""Every pixel and every tile belongs to one region."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from msal_deploy.prediction.grid import Grid

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
