"""What is written can be read by other programs, and all formats agree."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from shapely import from_wkb
from shapely.geometry import shape

sys.path.insert(0, str(Path(__file__).parent))

from slide_folder_fixture import MICRONS, SHAPE, SIDE, write_slide

from msal_deploy.prediction.nuclei import FEATURES, paint
from msal_deploy.prediction.outputs.geojson import write_geojson
from msal_deploy.prediction.outputs.labels import LabelImage
from msal_deploy.prediction.outputs.ome_zarr import write_ome_zarr
from msal_deploy.prediction.outputs.parquet import write_parquet
from msal_deploy.prediction.outputs.tiff import write_tiff
from msal_deploy.prediction.record import SlideFolder

Labels = np.ndarray


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> tuple[SlideFolder, Labels]:
    return write_slide(tmp_path_factory.mktemp("out") / "slide-a")


def renumbered(folder: SlideFolder, labels: Labels) -> Labels:
    """The drawn labels in the order of the regions, by the drawn label under each nucleus' box and mask."""
    order = np.zeros(labels.max() + 1, np.uint32)
    number = 0
    for region in folder.regions():
        for index, (top, left, height, width) in enumerate(region.nuclei.boxes.tolist()):
            number += 1
            order[labels[top : top + height, left : left + width][region.nuclei.mask(index)]] = number
    return order[labels]


def test_every_nucleus_crossing_a_border_is_in_one_region(slide: tuple[SlideFolder, Labels]) -> None:
    folder, labels = slide
    sizes = [len(region.nuclei) for region in folder.regions()]
    assert sum(sizes) == labels.max() == folder.record().nuclei
    crossing = np.intersect1d(labels[SIDE - 1], labels[SIDE])
    assert len(crossing) > 20
    assert min(sizes) > 5


def test_geojson_is_valid_and_complete(slide: tuple[SlideFolder, Labels], tmp_path: Path) -> None:
    folder, labels = slide
    write_geojson(folder, tmp_path / "a.geojson")
    features = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))["features"]
    assert len(features) == labels.max()
    polygons = [shape(feature["geometry"]) for feature in features]
    assert all(polygon.is_valid and polygon.geom_type == "Polygon" for polygon in polygons)
    assert all(ring["geometry"]["coordinates"][0][0] == ring["geometry"]["coordinates"][0][-1] for ring in features)
    assert len({feature["id"] for feature in features}) == len(features)
    assert {feature["properties"]["objectType"] for feature in features} == {"detection"}
    areas = np.array([feature["properties"]["measurements"]["Area µm^2"] for feature in features])
    expected = np.bincount(renumbered(folder, labels).ravel())[1:] * MICRONS**2
    np.testing.assert_allclose(areas, expected, atol=1e-4)


def test_compressed_geojson_has_the_same_text_and_always_the_same_bytes(
    slide: tuple[SlideFolder, Labels], tmp_path: Path
) -> None:
    for name in ("a.geojson", "a.geojson.gz", "b.geojson.gz"):
        write_geojson(slide[0], tmp_path / name)
    packed = (tmp_path / "a.geojson.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "a.geojson").read_bytes()
    assert packed == (tmp_path / "b.geojson.gz").read_bytes()


def test_label_tiff_has_the_masks(slide: tuple[SlideFolder, Labels], tmp_path: Path) -> None:
    import tifffile

    folder, labels = slide
    write_tiff(folder, tmp_path / "a.tiff")
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        page = file.pages[0]
        assert file.is_bigtiff
        assert page.dtype == np.uint32
        assert page.is_tiled
        numerator, denominator = page.tags["XResolution"].value
        assert denominator / numerator * 10_000 == pytest.approx(MICRONS)
        np.testing.assert_array_equal(page.asarray(), renumbered(folder, labels))


def test_a_nucleus_is_whole_in_a_region_without_a_file(tmp_path: Path) -> None:
    folder, labels = write_slide(tmp_path / "b", skip=((0, 1),))
    image = LabelImage(folder).read((0, 0, *SHAPE))
    np.testing.assert_array_equal(image, renumbered(folder, labels))
    assert (image[:SIDE, SIDE:] > 0).any()
    assert LabelImage(folder).read((0, 900, 100, 100)) is None


def test_where_nuclei_overlap_the_lower_number_wins_in_every_window(tmp_path: Path) -> None:
    folder, _ = write_slide(tmp_path / "c")
    regions = list(folder.regions())
    regions[0].save(folder.region_path(1, 1))  # the same nuclei twice
    image = LabelImage(folder)
    whole = np.zeros(SHAPE, np.uint32)
    for region, first in zip(folder.regions(), folder.first_ids(), strict=True):
        paint(region.nuclei, whole, (0, 0), first)
    for window in ((0, 0, 512, 512), (600, 600, 300, 300), (1000, 1200, 100, 101)):
        top, left, height, width = window
        found = image.read(window)
        expected = whole[top : top + height, left : left + width]
        np.testing.assert_array_equal(found if found is not None else 0 * expected, expected)


def test_parquet_is_read_by_pandas_and_has_valid_polygons(slide: tuple[SlideFolder, Labels], tmp_path: Path) -> None:
    import pandas
    import pyarrow.parquet

    folder, labels = slide
    write_parquet(folder, tmp_path / "a.parquet")
    table = pandas.read_parquet(tmp_path / "a.parquet")
    assert list(table.columns) == ["id", *FEATURES, "geometry"]
    assert table["id"].tolist() == list(range(1, labels.max() + 1))
    polygons = [from_wkb(geometry) for geometry in table["geometry"]]
    assert all(polygon.is_valid for polygon in polygons)
    file = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet")
    assert file.num_row_groups == 4
    geo = json.loads(file.metadata.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    bounds = np.array([polygon.bounds for polygon in polygons])
    expected = [*bounds[:, :2].min(axis=0), *bounds[:, 2:].max(axis=0)]
    assert geo["columns"]["geometry"]["bbox"] == expected


def test_ome_zarr_is_read_by_its_reader(slide: tuple[SlideFolder, Labels], tmp_path: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    folder, labels = slide
    write_ome_zarr(folder, tmp_path / "a.ome.zarr")
    nodes = list(Reader(parse_url(tmp_path / "a.ome.zarr"))())
    image, nuclei = nodes[0], nodes[-1]
    probability = np.asarray(image.data[0])
    np.testing.assert_array_equal(probability, np.where(labels > 0, 230, 26))
    assert [level.shape for level in image.data] == [(1100, 1301), (550, 651), (275, 326)]
    np.testing.assert_array_equal(np.asarray(nuclei.data[0]), renumbered(folder, labels))
    np.testing.assert_array_equal(np.asarray(nuclei.data[1]), renumbered(folder, labels)[::2, ::2])
    mean = probability[:550, :650].reshape(275, 2, 325, 2).mean(axis=(1, 3))
    np.testing.assert_array_equal(np.asarray(image.data[1])[:275, :325], np.floor(mean + 0.5))
    scale = image.metadata["coordinateTransformations"][1][0]["scale"]
    assert scale == [2 * MICRONS, 2 * MICRONS]
    assert {axis["unit"] for axis in image.metadata["axes"]} == {"micrometer"}


def test_ome_zarr_always_has_the_same_bytes_and_replaces_itself(
    slide: tuple[SlideFolder, Labels], tmp_path: Path
) -> None:
    def contents() -> dict[str, bytes]:
        root = tmp_path / "a.ome.zarr"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    write_ome_zarr(slide[0], tmp_path / "a.ome.zarr")
    before = contents()
    write_ome_zarr(slide[0], tmp_path / "a.ome.zarr")
    assert contents() == before
    assert "labels/nuclei/0/0/0" in before
