"""The pictures show the nuclei where they are; the page names everything and loads nothing."""

import re
import shutil
import sys
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from slide_folder_fixture import MICRONS, SHAPE, image_of, write_slide

from msal_deploy.errors import BadInput
from msal_deploy.prediction.outputs import FORMATS, write_index, write_outputs
from msal_deploy.prediction.outputs.files import FILES
from msal_deploy.prediction.outputs.pictures import density, overlay
from msal_deploy.prediction.record import SlideFolder
from msal_deploy.prediction.slide import Slide


class ArraySlide(Slide):
    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.shape = image.shape[:2]

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        return self.image[top : top + height, left : left + width]

    def thumbnail(self, longest: int) -> np.ndarray:
        step = -(-max(self.shape) // longest)
        return self.image[::step, ::step]

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> tuple[SlideFolder, np.ndarray]:
    return write_slide(tmp_path_factory.mktemp("out") / "slide a")


def test_the_overlay_at_full_resolution_draws_every_nucleus(slide: tuple[SlideFolder, np.ndarray]) -> None:
    folder, labels = slide
    image = image_of(labels)
    picture = overlay(folder, ArraySlide(image))
    assert picture.shape == image.shape
    # Lines are antialiased: a pixel of an outline is greener than any stain.
    drawn = picture[..., 1].astype(int) > picture[..., 0] + 40
    assert set(np.unique(labels[drawn])) - {0} == set(range(1, labels.max() + 1))
    far = (labels == 0) & (np.roll(labels, 3, 0) == 0) & (np.roll(labels, -3, 0) == 0)
    far &= (np.roll(labels, 3, 1) == 0) & (np.roll(labels, -3, 1) == 0)
    assert (picture[far] == image[far]).mean() > 0.999


def test_the_overlay_without_a_slide_is_an_eighth(slide: tuple[SlideFolder, np.ndarray]) -> None:
    picture = overlay(slide[0])
    assert picture.shape == (138, 163, 3)
    assert abs(picture[slide[1][::8, ::8] == 0].mean() - 212) < 25


def test_the_density_counts_every_nucleus_once(slide: tuple[SlideFolder, np.ndarray], tmp_path: Path) -> None:
    folder, labels = slide
    values = density(folder, 50)  # 200 px
    assert values.shape == (6, 7)
    heights = np.minimum(200, SHAPE[0] - 200 * np.arange(6))
    widths = np.minimum(200, SHAPE[1] - 200 * np.arange(7))
    counts = values * np.outer(heights, widths) * (MICRONS / 1000) ** 2
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    assert counts.sum() == pytest.approx(labels.max())
    partial, _ = write_slide(tmp_path / "b", skip=((0, 1),))
    assert np.isnan(density(partial, 50)[0, 4:]).all()
    assert not np.isnan(density(partial, 50)[:, :3]).any()


def test_all_formats_are_written_and_linked(slide: tuple[SlideFolder, np.ndarray]) -> None:
    folder, labels = slide
    assert write_outputs(folder, FORMATS[::-1], ArraySlide(image_of(labels))) == FORMATS
    write_index(folder.path.parent, {"broken.svs": "broken.svs is damaged <at the end>"})
    page = (folder.path.parent / "index.html").read_text(encoding="utf-8")
    for name in (name for names in FILES.values() for name in names):
        assert (folder.path / name).exists()
        assert f'href="slide%20a/{name}"' in page
    assert f"<strong>{labels.max():,}</strong>nuclei" in page
    assert f"<strong>{labels.max() / 0.09:,.0f}</strong>per mm² of tissue" in page
    assert "broken.svs is damaged &lt;at the end&gt;" in page
    assert "The file has no resolution" in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert Image.open(BytesIO((folder.path / "density.png").read_bytes())).width == 1080


def test_pictures_and_page_always_have_the_same_bytes(slide: tuple[SlideFolder, np.ndarray], tmp_path: Path) -> None:
    shutil.copytree(slide[0].path, tmp_path / "s")
    folder = SlideFolder(tmp_path / "s")
    contents = []
    for _ in range(2):
        write_outputs(folder, ["png", "parquet", "tiff"])
        write_index(tmp_path, {})
        names = ("s/overlay.png", "s/density.png", "s/nuclei.parquet", "s/labels.tiff", "index.html")
        contents.append([(tmp_path / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


def test_a_slide_without_nuclei_has_all_outputs(slide: tuple[SlideFolder, np.ndarray], tmp_path: Path) -> None:
    folder = SlideFolder(tmp_path / "none")
    folder.write_record(msgspec.structs.replace(slide[0].record(), nuclei=0, tissue_mm2=0.0, timeline=()))
    assert write_outputs(folder, FORMATS) == FORMATS
    write_index(tmp_path, {})
    assert "<strong>0</strong>nuclei" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_failed_regions_and_interrupted_runs_are_shown(slide: tuple[SlideFolder, np.ndarray], tmp_path: Path) -> None:
    shutil.copytree(slide[0].path, tmp_path / "s")
    failed = {"1-0": "the tile at 3, 4 is damaged"}
    SlideFolder(tmp_path / "s").write_record(msgspec.structs.replace(slide[0].record(), failed=failed, nuclei=-1))
    write_index(tmp_path, {})
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<dt>row 1, column 0</dt><dd>the tile at 3, 4 is damaged</dd>" in page
    assert "Not complete" in page


def test_an_output_folder_in_which_everything_failed_has_a_page(tmp_path: Path) -> None:
    write_index(tmp_path, {"a.svs": "a.svs is damaged"})
    assert "1 input without a result" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_an_unknown_format_is_named(slide: tuple[SlideFolder, np.ndarray]) -> None:
    with pytest.raises(BadInput, match="the format shapefile is unknown; choose from geojson"):
        write_outputs(slide[0], ["geojson", "shapefile"])
