"""Outlines and features of nuclei: by hand, and against scikit-image and shapely."""

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from shapely.geometry import Polygon
from skimage.color import rgb2hed
from skimage.measure import label, regionprops

from msal_deploy.prediction.features import find_centroids
from msal_deploy.prediction.nuclei import FEATURES, Nuclei, from_arrays, join, measure, paint, to_arrays


def measured(
    labels: NDArray[np.int32], corner: tuple[int, int] = (0, 0), core: tuple[int, int, int, int] | None = None
) -> Nuclei:
    image = np.full((*labels.shape, 3), 255, np.uint8)
    core = core or (*corner, *labels.shape)
    probability = np.ones(labels.shape, np.float32)
    return measure(labels, probability, image, corner=corner, core=core, scale=1, microns_per_pixel=1)


def blobs(seed: int, size: int = 40) -> NDArray[np.int32]:
    """4-connected shapes with pieces one pixel wide, holes and corners that touch."""
    random = np.random.default_rng(seed)
    return label(random.random((size, size)) < 0.6, connectivity=1).astype(np.int32)


def test_a_rectangle_by_hand() -> None:
    labels = np.zeros((10, 12), np.int32)
    labels[2:4, 3:9] = 5
    probability = np.zeros((10, 12), np.float32)
    probability[2], probability[3] = 0.25, 0.75
    image = np.full((10, 12, 3), 255, np.uint8)
    core = (100, 200, 10, 12)
    nuclei = measure(labels, probability, image, corner=(100, 200), core=core, scale=2, microns_per_pixel=0.5)
    features = {name: float(column[0]) for name, column in nuclei.features.items()}
    assert list(nuclei.features) == list(FEATURES)
    assert (features["x"], features["y"]) == (2 * 206, 2 * 103)
    assert features["area_um2"] == 12 / 4
    assert features["mean_probability"] == 0.5
    assert features["haematoxylin_od"] == 0
    assert features["solidity"] == 1
    # Moments of a rectangle are side²/12: 36/12 and 4/12.
    assert features["eccentricity"] == pytest.approx((1 - 4 / 36) ** 0.5)
    # Lines along the 2 rows, the 6 columns and the 7 diagonals of each direction cross the border twice each.
    assert features["perimeter_um"] == pytest.approx(np.pi / 8 * (4 + 12 + 2 * 14 / 2**0.5) / 2)
    assert nuclei.boxes.tolist() == [[102, 203, 2, 6]]
    assert Polygon(nuclei.polygons[0]).bounds == (406.5, 204.5, 417.5, 207.5)
    assert nuclei.mask(0).all()


def test_the_haematoxylin_of_one_stain_is_its_density() -> None:
    labels = np.ones((4, 4), np.int32)
    density = 0.8
    stain = np.array([0.65, 0.70, 0.29])
    image = np.broadcast_to(np.round(255 * 10 ** (-density * stain)), (4, 4, 3)).astype(np.uint8)
    probability = np.ones((4, 4), np.float32)
    nuclei = measure(labels, probability, image, corner=(0, 0), core=(0, 0, 4, 4), scale=1, microns_per_pixel=1)
    assert nuclei.features["haematoxylin_od"][0] == pytest.approx(density, abs=0.01)
    assert nuclei.features["haematoxylin_od"][0] == pytest.approx(6 * rgb2hed(image)[0, 0, 0], rel=1e-9)


@pytest.mark.parametrize("radius", [5, 6, 8, 10, 14.5, 20, 30])
def test_the_perimeter_of_discs_anywhere(radius: float) -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:70, :70]
    ratios = []
    for down, right in random.random((30, 2)):
        disc = ((y - 34 - down) ** 2 + (x - 34 - right) ** 2 <= radius**2).astype(np.int32)
        ratios.append(measured(disc).features["perimeter_um"][0] / (2 * np.pi * radius))
    assert np.mean(ratios) == pytest.approx(1, abs=0.005)
    assert ratios == pytest.approx(np.ones(30), abs=0.03 if radius >= 8 else 0.05)


@pytest.mark.parametrize("seed", range(5))
def test_features_agree_with_scikit_image(seed: int) -> None:
    labels = blobs(seed)
    nuclei = measured(labels)
    regions = regionprops(labels)
    assert nuclei.features["area_um2"].tolist() == [region.area for region in regions]
    centroids = np.array([region.centroid for region in regions]) + 0.5
    np.testing.assert_allclose(nuclei.features["y"], centroids[:, 0])
    np.testing.assert_allclose(nuclei.features["x"], centroids[:, 1])
    # scikit-image takes pixels as points; each being a square adds 1/12 to both moments.
    moments = np.array([region.inertia_tensor_eigvals for region in regions]) + 1 / 12
    np.testing.assert_allclose(nuclei.features["eccentricity"], np.sqrt(1 - moments[:, 1] / moments[:, 0]), atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_the_solidity_is_that_of_the_corners_of_the_pixels(seed: int) -> None:
    labels = blobs(seed)
    for solidity, region in zip(measured(labels).features["solidity"], regionprops(labels), strict=True):
        corners = np.concatenate([region.coords + step for step in ((0, 0), (0, 1), (1, 0), (1, 1))])
        hull = Polygon(corners).convex_hull
        assert solidity == pytest.approx(region.area / hull.area)


@pytest.mark.parametrize("seed", range(20))
def test_outlines_are_simple_and_masks_come_back(seed: int) -> None:
    labels = blobs(seed)
    nuclei = measured(labels)
    polygons = [Polygon(points) for points in nuclei.polygons]
    assert len(polygons) == labels.max()
    assert all(polygon.is_valid and polygon.area > 0 for polygon in polygons)
    painted = np.zeros_like(labels)
    paint(nuclei, painted, (0, 0), 1)
    np.testing.assert_array_equal(painted, labels)


def test_cores_that_touch_share_no_nucleus_and_lose_none() -> None:
    labels = np.zeros((80, 80), np.int32)
    centres = [(y, x) for y in range(4, 80, 9) for x in range(4, 80, 9)]
    for number, (y, x) in enumerate(centres, 1):
        labels[y - 3 : y + 3, x - 3 : x + 3] = number  # centroid (y, x): some are on the edges of cores
    # Four windows of 60 px with cores of 40 px.
    parts = [
        measured(labels[top : top + 60, left : left + 60], corner=(top, left), core=(2 * top, 2 * left, 40, 40))
        for top in (0, 20)
        for left in (0, 20)
    ]
    assert (40, 40) in centres
    whole = measured(labels)
    joined = join(parts)
    assert len(joined) == len(whole)
    assert sorted(joined.features["area_um2"]) == sorted(whole.features["area_um2"])
    assert {tuple(box) for box in joined.boxes.tolist()} == {tuple(box) for box in whole.boxes.tolist()}
    painted = np.zeros_like(labels)
    paint(joined, painted, (0, 0), 1)
    assert ((painted > 0) == (labels > 0)).all()
    assert len(np.unique(painted)) == len(whole) + 1


def test_a_nucleus_on_the_edge_of_two_cores_belongs_to_the_lower_one() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[19:21, 4:6] = 1
    assert [len(measured(labels, core=(top, 0, 20, 40))) for top in (0, 20)] == [0, 1]


def test_paint_clips_and_leaves_what_is_there() -> None:
    labels = np.zeros((10, 10), np.int32)
    labels[2:8, 2:8] = 1
    window = np.zeros((4, 4), np.int32)
    window[0, 0] = 9
    paint(measured(labels, corner=(50, 60)), window, (56, 66), 3)
    assert window.tolist() == [[9, 3, 0, 0], [3, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    far = np.zeros((4, 4), np.int32)
    paint(measured(labels, corner=(50, 60)), far, (58, 68), 3)
    assert not far.any()


def test_arrays_and_an_empty_image_come_back() -> None:
    for labels in (blobs(1), np.zeros((5, 5), np.int32)):
        nuclei = measured(labels)
        again = from_arrays(to_arrays(nuclei))
        assert len(again) == labels.max()
        assert all(np.array_equal(to_arrays(again)[name], array) for name, array in to_arrays(nuclei).items())
        assert len(join([nuclei, nuclei])) == 2 * len(nuclei)
    assert join([]).boxes.shape == (0, 4)
    assert measured(np.zeros((5, 5), np.int32)).polygons == []


def test_a_table_has_a_row_for_each_label() -> None:
    table = measured(blobs(2)).to_pandas()
    assert list(table.columns) == list(FEATURES)
    assert table.index[0] == 1
    assert len(table) == blobs(2).max()


def test_nuclei_of_an_array_as_geojson(tmp_path: Path) -> None:
    nuclei = measured(blobs(4))
    collection = nuclei.to_geojson(tmp_path / "a.geojson")
    assert json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8")) == collection
    assert len(collection["features"]) == len(nuclei)
    ring = collection["features"][0]["geometry"]["coordinates"][0]
    assert ring[:-1] == nuclei.polygons[0].tolist()
    assert ring[0] == ring[-1]


def test_a_diagonal_line_by_hand() -> None:
    labels = np.zeros((7, 7), np.int32)
    labels[[2, 3, 4], [2, 3, 4]] = 1
    # 3 rows, 3 columns and 3 diagonals of one direction cross the border twice each, the one along the line once more.
    expected = np.pi / 8 * (6 + 6 + (6 + 2) / 2**0.5)
    assert measured(labels).features["perimeter_um"][0] == pytest.approx(expected)
    assert measured(np.ascontiguousarray(labels[:, ::-1])).features["perimeter_um"][0] == pytest.approx(expected)


def test_a_border_with_another_nucleus_counts_from_both_sides() -> None:
    labels = np.zeros((6, 8), np.int32)
    labels[1:5, 1:3], labels[1:5, 3:5] = 1, 2
    # 4 rows, 2 columns and 5 diagonals of each direction cross the border of a rectangle of 4 × 2 px twice each.
    expected = np.pi / 8 * (8 + 4 + 2 * 10 / 2**0.5)
    assert measured(labels).features["perimeter_um"] == pytest.approx([expected, expected])


def test_black_pixels_have_the_density_of_1() -> None:
    labels = np.array([[1, 2, 3]], np.int32)
    image = np.array([[[0, 0, 0], [1, 1, 1], [2, 2, 2]]], np.uint8)
    nuclei = measure(
        labels, np.ones((1, 3), np.float32), image, corner=(0, 0), core=(0, 0, 1, 3), scale=1, microns_per_pixel=1
    )
    # All channels have the density log10(255 / v). Of equal densities, haematoxylin is the first column's sum.
    weight = float(np.linalg.inv([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])[:, 0].sum())
    expected = [weight * np.log10(255), weight * np.log10(255), weight * np.log10(127.5)]
    assert nuclei.features["haematoxylin_od"] == pytest.approx(expected)


def test_some_of_the_pixels() -> None:
    labels = np.zeros((4, 9), np.int32)
    labels[1, 1:3], labels[2:4, 5], labels[0, 8] = 2, 5, 7
    some = find_centroids(labels).keep(np.array([False, True, True]))
    assert (some.labels.tolist(), some.area.tolist()) == ([5, 7], [2, 1])
    assert (some.x.tolist(), some.y.tolist()) == ([5.5, 8.5], [3.0, 0.5])
    assert (some.at.tolist(), some.which.tolist()) == ([8, 2 * 9 + 5, 3 * 9 + 5], [1, 0, 0])
    assert some.shape == (4, 9)


@pytest.mark.parametrize("larger", [0, 1])
def test_of_two_parts_the_larger_one_is_outlined(larger: int) -> None:
    labels = np.zeros((12, 6), np.int32)
    labels[1:3, 1:4] = 1
    labels[8:10, 1:4] = 1
    labels[(3, 10)[larger], 1:4] = 1
    (outline,) = measured(labels).polygons
    top, bottom = ((1, 4), (8, 11))[larger]
    assert (outline[:, 1].min(), outline[:, 1].max()) == (top + 0.25, bottom - 0.25)


def test_a_large_nucleus_far_from_the_corner() -> None:
    labels = np.zeros((700, 700), np.int32)
    labels[300:600, 280:680] = 1
    nuclei = measured(labels)
    assert nuclei.boxes.tolist() == [[300, 280, 300, 400]]
    assert nuclei.polygons[0].min(axis=0).tolist() == [280.25, 300.25]
    assert nuclei.polygons[0].max(axis=0).tolist() == [679.75, 599.75]
    assert nuclei.features["solidity"][0] == 1


def test_the_arrays_have_their_types_with_and_without_nuclei() -> None:
    labels = np.zeros((8, 8), np.int32)
    empty = measured(labels)
    labels[2:5, 2:5] = 1
    types = {name: (array.dtype, array.ndim) for name, array in to_arrays(measured(labels)).items()}
    for nuclei in (empty, join([]), join([empty, empty])):
        assert {name: (array.dtype, array.ndim) for name, array in to_arrays(nuclei).items()} == types
        assert nuclei.points.shape == (0, 2)
        assert nuclei.boxes.shape == (0, 4)
        assert nuclei.masks.shape == (0,)
    assert types["points"] == (np.float32, 2)
    assert types["ends"] == types["mask_ends"] == (np.int64, 1)
    assert types["boxes"] == (np.int32, 2)
    assert types["masks"] == (np.uint8, 1)
    assert types["feature_solidity"] == (np.float64, 1)


def two_regions() -> tuple[NDArray[np.int32], list[Nuclei]]:
    """A label image of 40 × 60 px with three nuclei, and its nuclei in two regions, as a run stores them."""
    labels = np.zeros((40, 60), np.int32)
    labels[3:9, 4:8], labels[20:25, 10:18], labels[30:33, 50:57] = 1, 2, 3
    labels[22, 10:12] = 0
    left = measured(labels, core=(0, 0, 40, 30))
    return labels, [left, measured(np.ascontiguousarray(labels[:, 30:]), corner=(0, 30), core=(0, 30, 40, 30))]


def test_joined_regions_have_the_nuclei_of_both() -> None:
    labels, parts = two_regions()
    joined, whole = join(parts), measured(labels)
    assert [len(part) for part in parts] == [2, 1]
    for name, array in to_arrays(whole).items():
        np.testing.assert_array_equal(to_arrays(joined)[name], array, err_msg=name)
    assert [len(polygon) for polygon in joined.polygons] == [len(polygon) for polygon in whole.polygons]
    np.testing.assert_array_equal(joined.mask(2), np.ones((3, 7), bool))
    assert (joined.shape, joined.scale, joined.microns_per_pixel) == ((0, 0), 1.0, 0.25)


def test_a_core_wider_than_high() -> None:
    labels = np.zeros((10, 40), np.int32)
    labels[4:6, 30:32] = 1
    assert len(measured(labels, core=(0, 0, 10, 40))) == 1
    assert len(measured(labels, core=(0, 0, 10, 31))) == 0  # the centroid is on the edge


def test_labels_and_a_layer_for_napari() -> None:
    labels, parts = two_regions()
    nuclei = replace(join(parts), shape=(40, 60), microns_per_pixel=0.5)
    np.testing.assert_array_equal(nuclei.labels, labels)
    assert nuclei.labels.dtype == np.int32
    data, options, kind = nuclei.napari_layer()
    np.testing.assert_array_equal(data, labels)
    assert (kind, options["name"], options["scale"]) == ("labels", "nuclei", (0.5, 0.5))
    assert options["features"]["index"].tolist() == [1, 2, 3]
    assert list(options["features"]) == ["index", *FEATURES]
    assert options["features"]["area_um2"].tolist() == [24, 38, 21]
    with pytest.raises(FrozenInstanceError):
        nuclei.shape = (1, 1)


def test_the_index_of_a_table_is_named() -> None:
    assert join(two_regions()[1]).to_pandas().index.name == "label"


def test_units() -> None:
    assert dict(FEATURES) == {
        "x": "px", "y": "px", "area_um2": "µm²", "perimeter_um": "µm", "eccentricity": "", "solidity": "",
        "mean_probability": "", "haematoxylin_od": "",
    }  # fmt: skip


def test_every_array_is_stored_under_its_name() -> None:
    nuclei = join(two_regions()[1])
    arrays = to_arrays(nuclei)
    assert set(arrays) == {f"feature_{name}" for name in FEATURES} | {"points", "ends", "boxes", "masks", "mask_ends"}
    for name in ("points", "ends", "boxes", "masks", "mask_ends"):
        assert arrays[name] is getattr(nuclei, name)
        assert getattr(from_arrays(arrays), name) is arrays[name]


@pytest.mark.parametrize(
    ("corner", "shape"),
    [
        ((0, 0), (40, 60)),
        ((4, 5), (40, 60)),  # 1 px of the first nucleus is cut off above and at its left
        ((21, 11), (5, 5)),  # inside the second one
        ((12, 0), (28, 9)),  # the first one ends 3 px above the window
        ((0, 20), (40, 9)),  # higher than wide, between nuclei
        ((0, 48), (40, 12)),  # higher than wide: the third one starts at row 30
        ((9, 8), (11, 2)),  # the first one ends, and the second one starts, where the window does
        ((33, 57), (5, 3)),
    ],
)
@pytest.mark.parametrize("offset", [0, 300])
def test_windows_are_painted_as_parts_of_the_whole(
    corner: tuple[int, int], shape: tuple[int, int], offset: int
) -> None:
    labels, _ = two_regions()
    nuclei = measured(labels, corner=(offset, offset))
    top, left = corner
    expected = np.zeros(shape, np.int32)
    part = labels[top : top + shape[0], left : left + shape[1]]
    expected[: part.shape[0], : part.shape[1]] = part
    window = np.zeros(shape, np.int32)
    paint(nuclei, window, (top + offset, left + offset), 1)
    np.testing.assert_array_equal(window, expected)
