"""Every format gives the same pixels in every window, at the model's resolution; what would mislead is refused."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, ImageCms

from msal_deploy.data.tissue import draw_tissue
from msal_deploy.errors import BadInput
from msal_deploy.prediction.readers import open_slide, source_sha256

TISSUE = draw_tissue(np.random.default_rng(3), 700)[0][:, :600]
APERIO = "Aperio Image Library v12.0\n600x700 [0,0 600x700] |AppMag = 40|MPP = {mpp}"


def opened(path, **options):
    return open_slide(path, 0.25, **options)


def whole(path, **options) -> np.ndarray:
    with opened(path, **options) as slide:
        return slide.read(0, 0, *slide.shape)


def write_svs(path: Path, mpp: float | None = 0.25, levels: int = 2) -> Path:
    description = APERIO.format(mpp=mpp) if mpp else APERIO.partition("|MPP")[0]
    with tifffile.TiffWriter(path) as tiff:
        for index, level in enumerate([TISSUE, TISSUE[::4, ::4]][:levels]):
            options = {"compression": "jpeg", "photometric": "rgb", "compressionargs": {"level": 98}}
            tiff.write(
                level, tile=(256, 256), description=description, metadata=None, subfiletype=bool(index), **options
            )
    return path


def write_pyramid(path: Path, **options) -> Path:
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(TISSUE, tile=(128, 128), photometric="rgb", subifds=1, **options)
        half = np.asarray(Image.fromarray(TISSUE).resize((300, 350), Image.Resampling.BOX))
        tiff.write(half, tile=(128, 128), photometric="rgb", subfiletype=1)
    return path


def write_zarr(path: Path, axes: str = "cyx", mpp: float = 0.25) -> Path:
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    pixels = TISSUE.transpose(["yxc".index(axis) for axis in axes])
    group.create_array("0", data=pixels, chunks=tuple(3 if axis == "c" else 128 for axis in axes))
    kinds = [{"name": axis, "type": "channel"} if axis == "c" else space(axis) for axis in axes]
    scale = {"type": "scale", "scale": [1.0 if axis == "c" else mpp for axis in axes]}
    dataset = {"path": "0", "coordinateTransformations": [scale]}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": kinds, "datasets": [dataset]}]
    return path


def space(axis: str) -> dict[str, str]:
    return {"name": axis, "type": "space", "unit": "micrometer"}


LOSSLESS = {
    "tissue.png": lambda path: Image.fromarray(TISSUE).save(path),
    "tissue.tif": lambda path: tifffile.imwrite(path, TISSUE, photometric="rgb"),
    "tiled.tif": lambda path: write_pyramid(path, compression="zlib"),
    "strips.tif": lambda path: tifffile.imwrite(path, TISSUE, photometric="rgb", compression="lzw", rowsperstrip=7),
    "tissue.ome.tif": lambda path: tifffile.imwrite(path, TISSUE, photometric="rgb", tile=(64, 64)),
    "tissue.zarr": write_zarr,
    "last.zarr": lambda path: write_zarr(path, "yxc"),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_the_pixels_of_the_file(tmp_path, name):
    LOSSLESS[name](tmp_path / name)
    with opened(tmp_path / name) as slide:
        assert (slide.size, slide.shape, slide.scale) == ((700, 600), (700, 600), 1.0)
        np.testing.assert_array_equal(slide.read(0, 0, 700, 600), TISSUE)
        np.testing.assert_array_equal(slide.read(123, 45, 301, 222), TISSUE[123:424, 45:267])
        assert slide.name == name.partition(".")[0]
        assert slide.thumbnail(70).shape == (70, 60, 3)


@pytest.mark.parametrize("mpp", [0.1, 0.2, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", ["tissue.png", "tiled.tif"])
def test_a_pixel_has_one_value_in_every_window(tmp_path, name, mpp):
    LOSSLESS[name](tmp_path / name)
    with opened(tmp_path / name, mpp=mpp) as slide:
        assert slide.shape == (round(700 * mpp / 0.25), round(600 * mpp / 0.25))
        image = slide.read(0, 0, *slide.shape)
    rng = np.random.default_rng(0)
    with opened(tmp_path / name, mpp=mpp) as slide:  # with no block computed yet
        for _ in range(20):
            top, left = rng.integers(0, slide.shape[0] - 1), rng.integers(0, slide.shape[1] - 1)
            height, width = rng.integers(1, slide.shape[0] - top + 1), rng.integers(1, slide.shape[1] - left + 1)
            window = slide.read(int(top), int(left), int(height), int(width))
            np.testing.assert_array_equal(window, image[top : top + height, left : left + width])


@pytest.mark.parametrize("mpp", [0.125, 0.2, 0.4, 0.5])
def test_resampling_keeps_positions(mpp):
    y, x = np.mgrid[:1400, :1200]
    ramp = np.stack([y * 0.15, x * 0.15, 0 * x], axis=2)
    with opened(np.rint(ramp).astype(np.uint8), mpp=mpp) as slide:
        read = slide.read(0, 0, *slide.shape).astype(float)
    # The centre of pixel i is at (i + ½) · scale of level 0; a ramp of 0.15 a pixel is rounded twice.
    rows = ((np.arange(read.shape[0]) + 0.5) * slide.scale - 0.5) * 0.15
    columns = ((np.arange(read.shape[1]) + 0.5) * slide.scale - 0.5) * 0.15
    assert np.abs(read[5:-5, :, 0] - rows[5:-5, None]).max() < 1.01
    assert np.abs(read[:, 5:-5, 1] - columns[None, 5:-5]).max() < 1.01


def test_fine_detail_is_averaged_and_not_aliased():
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 200
    with opened(stripes, mpp=0.0625) as slide:
        read = slide.read(0, 0, *slide.shape)
    assert slide.shape == (200, 200)
    assert np.abs(read[5:-5, 5:-5].astype(int) - 100).max() <= 2


def test_the_level_is_the_coarsest_that_is_fine_enough(tmp_path):
    path = write_pyramid(tmp_path / "tiled.tif")
    with opened(path, mpp=0.125) as slide:
        assert slide._level == 1
    with opened(path, mpp=0.126) as slide:  # level 1 then has 0.252 µm/px, 0.8% more
        assert slide._level == 1
    with opened(path, mpp=0.14) as slide:
        assert slide._level == 0


def test_a_whole_slide(tmp_path):
    with opened(write_svs(tmp_path / "slide.svs")) as slide:
        assert (slide.microns_per_pixel, slide.scale, slide.notes) == (0.25, 1.0, ())
        read = slide.read(100, 200, 300, 250)
    assert np.abs(read.astype(int) - TISSUE[100:400, 200:450]).mean() < 3  # JPEG
    tif = (tmp_path / "slide.svs").rename(tmp_path / "vendor.tif")
    with opened(tif) as slide:
        assert slide.microns_per_pixel == 0.25


def test_a_slide_at_20x_says_that_it_is_enlarged(tmp_path):
    with opened(write_svs(tmp_path / "slide.svs", mpp=0.5)) as slide:
        assert slide.shape == (1400, 1200) and slide.scale == 0.5
        assert "enlarged 2.0×" in slide.notes[0]


def test_resolutions_of_tiffs(tmp_path):
    resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", TISSUE, photometric="rgb", **resolution)
    with opened(tmp_path / "a.tif") as slide:
        assert slide.microns_per_pixel == pytest.approx(0.5)
    metadata = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(tmp_path / "b.ome.tif", TISSUE, photometric="rgb", metadata=metadata)
    with opened(tmp_path / "b.ome.tif") as slide:
        assert slide.microns_per_pixel == pytest.approx(0.25) and slide.notes == ()
    screen = {"resolution": (72, 72), "resolutionunit": "INCH"}
    tifffile.imwrite(tmp_path / "c.tif", TISSUE, photometric="rgb", **screen)
    with opened(tmp_path / "c.tif") as slide:
        assert slide.notes == ("c.tif has no resolution: 0.25 µm/px, the model's, was assumed",)


def test_a_slide_without_a_resolution_names_the_option(tmp_path):
    path = write_svs(tmp_path / "slide.svs", mpp=None)
    with pytest.raises(BadInput, match=r"has no resolution; give it .* with --mpp"):
        opened(path)
    with opened(path, mpp=0.25) as slide:
        assert slide.scale == 1.0


@pytest.mark.parametrize("mpp", [0.001, 50.0])
def test_an_impossible_resolution(mpp):
    with pytest.raises(BadInput, match=r"Expected a resolution from 0.01 to 10.0 µm/px"):
        opened(TISSUE, mpp=mpp)


def test_other_colours_are_converted(tmp_path):
    grey = TISSUE[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(whole(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, 2))
    tifffile.imwrite(tmp_path / "grey.tif", grey, photometric="minisblack")
    np.testing.assert_array_equal(whole(tmp_path / "grey.tif"), np.repeat(grey[..., None], 3, 2))
    alpha = np.dstack([TISSUE, np.where(np.arange(600) < 300, 255, 0) * np.ones((700, 1))]).astype(np.uint8)
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    expected = TISSUE.copy()
    expected[:, 300:] = 255
    np.testing.assert_array_equal(whole(tmp_path / "alpha.png"), expected)
    Image.fromarray(TISSUE).convert("CMYK").save(tmp_path / "cmyk.tif")
    assert np.abs(whole(tmp_path / "cmyk.tif").astype(int) - TISSUE).max() <= 2
    with opened(tmp_path / "cmyk.tif") as slide:
        assert any("CMYK" in note for note in slide.notes)


def test_orientation_and_colour_profile(tmp_path):
    turned = Image.fromarray(TISSUE)
    exif = turned.getexif()
    exif[0x0112] = 6  # turn by 90° clockwise to show it
    turned.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(whole(tmp_path / "turned.png"), np.rot90(TISSUE, -1))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(TISSUE).save(tmp_path / "srgb.png", icc_profile=srgb)
    np.testing.assert_array_equal(whole(tmp_path / "srgb.png"), TISSUE)
    Image.fromarray(TISSUE).save(tmp_path / "broken.png", icc_profile=b"no profile")
    with opened(tmp_path / "broken.png") as slide:
        assert any("colour profile cannot be used" in note for note in slide.notes)


def test_sixteen_bits_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "deep.tif", TISSUE.astype(np.uint16) * 256, photometric="rgb")
    with pytest.raises(BadInput, match=r"more than 8 bits"):
        opened(tmp_path / "deep.tif")
    Image.fromarray(TISSUE[..., 0].astype(np.uint16) * 256).save(tmp_path / "deep.png")
    with pytest.raises(BadInput, match=r"more than 8 bits"):
        opened(tmp_path / "deep.png")


def test_a_damaged_tile_spoils_only_the_windows_that_show_it(tmp_path):
    path = write_pyramid(tmp_path / "tiled.tif", compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offset, count = page.dataoffsets[12], page.databytecounts[12]  # row 2, column 2 of 6 × 5
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\x00" * count
    path.write_bytes(data)
    with opened(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 256, 600), TISSUE[:256])
        with pytest.raises(BadInput, match=r"tiled.tif is damaged at tile 12"):
            slide.read(0, 0, 257, 600)
        np.testing.assert_array_equal(slide.read(384, 0, 316, 600), TISSUE[384:])


def damaged_svs(path: Path, levels: int = 2) -> Path:
    """Write a slide whose tile of row 1, column 1 is zeros."""
    write_svs(path, levels=levels)
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[4], tiff.pages[0].databytecounts[4]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\x00" * count
    path.write_bytes(data)
    return path


def test_a_damaged_tile_of_a_whole_slide(tmp_path):
    path = damaged_svs(tmp_path / "slide.svs")
    with opened(path) as slide:
        before = slide.read(0, 0, 200, 200)
        with pytest.raises(BadInput, match=r"slide.svs is damaged at row 260, column 260"):
            slide.read(260, 260, 100, 100)
        np.testing.assert_array_equal(slide.read(0, 0, 200, 200), before)  # OpenSlide goes on after an error


@pytest.mark.parametrize("name", ["tissue.png", "tiled.tif", "strips.tif"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.98])
def test_a_truncated_file(tmp_path, name, share):
    LOSSLESS[name](tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadInput, match=name):
        whole(tmp_path / name)


def test_a_truncated_slide(tmp_path):
    path = write_svs(tmp_path / "slide.svs")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadInput, match=r"slide.svs"):
        whole(path)


def test_a_small_file_that_claims_to_be_huge(tmp_path):
    tifffile.imwrite(tmp_path / "huge.tif", shape=(64, 64, 3), dtype=np.uint8, photometric="rgb", tile=(16, 16))
    data = bytearray((tmp_path / "huge.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "huge.tif") as tiff:
        tags = tiff.pages[0].tags
        places = [tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
    for place in places:
        data[place : place + 4] = (60000).to_bytes(4 if place + 4 <= len(data) else 2, "little")
    (tmp_path / "huge.tif").write_bytes(data)
    with pytest.raises(BadInput, match=r"huge.tif claims 60000×60000 px but has \d+ bytes"):
        opened(tmp_path / "huge.tif")
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (100000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    (tmp_path / "huge.png").write_bytes(header + b"\x00" * 2000)
    with pytest.raises(BadInput, match=r"huge.png"):
        opened(tmp_path / "huge.png")


def test_what_is_no_image(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "folder").mkdir()
    for name, message in {"notes.txt": "has no known format", "folder": "is a folder", "no.png": "not exist"}.items():
        with pytest.raises(BadInput, match=message):
            opened(tmp_path / name)
    with pytest.raises(BadInput, match=r"Expected an image uint8\[H,W,3\], got float64\[2, 2\]"):
        opened(np.zeros((2, 2)))


def test_a_damaged_part_does_not_stop_the_thumbnail(tmp_path):
    path = damaged_svs(tmp_path / "slide.svs", levels=1)
    with opened(path) as slide:
        thumbnail = slide.thumbnail(70)
    assert thumbnail.shape == (70, 60, 3)
    grey = (thumbnail == 128).all(axis=2)
    assert grey[30:50, 30:50].all()  # the tile of rows and columns 256 to 512 is tried, and reported, as tissue is
    assert not grey[:17].any()  # rows are divided at 350, 175 and 262


def test_threads_go_on_after_an_error_in_one_of_them(tmp_path):
    path = damaged_svs(tmp_path / "slide.svs", levels=1)
    places = [(top, left) for top in range(0, 700, 50) for left in range(0, 600, 50)] * 4

    def try_to_read(place):
        try:
            return slide.read(*place, 50, 50)
        except BadInput:
            return None

    with opened(path) as slide, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(try_to_read, places))
    for (top, left), window in zip(places, found, strict=True):
        damaged = top < 512 and top + 50 > 256 and left < 512 and left + 50 > 256
        assert (window is None) == damaged, (top, left)


def test_files_beside_a_slide_count_in_its_hash(tmp_path):
    (tmp_path / "a.mrxs").write_bytes(b"index")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0.dat").write_bytes(b"12")
    before = source_sha256(tmp_path / "a.mrxs")
    (tmp_path / "b.mrxs").write_bytes(b"another slide")
    assert source_sha256(tmp_path / "a.mrxs") == before
    (tmp_path / "a" / "Data0.dat").write_bytes(b"123")
    assert source_sha256(tmp_path / "a.mrxs") != before


def test_separate_channels_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "planes.ome.tif", TISSUE.transpose(2, 0, 1), metadata={"axes": "CYX"})
    with pytest.raises(BadInput, match="has the axes CYX; save one image with interleaved RGB"):
        opened(tmp_path / "planes.ome.tif")
    write_zarr(tmp_path / "two.zarr")
    group = zarr.open_group(str(tmp_path / "two.zarr"), mode="r+")
    group.create_array("0", data=TISSUE.transpose(2, 0, 1)[:2], chunks=(2, 128, 128), overwrite=True)
    with pytest.raises(BadInput, match="has 2 of axis c"):
        opened(tmp_path / "two.zarr")
    shutil.rmtree(tmp_path / "two.zarr" / "0")
    with pytest.raises(BadInput, match="has no array 0"):
        opened(tmp_path / "two.zarr")


def test_turned_and_transparent_tiffs(tmp_path):
    tags = [(274, "H", 1, 6, True)]  # Orientation: turn by 90° clockwise to show it
    tifffile.imwrite(tmp_path / "turned.tif", TISSUE, photometric="rgb", extratags=tags)
    np.testing.assert_array_equal(whole(tmp_path / "turned.tif"), np.rot90(TISSUE, -1))
    half = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    alpha = np.dstack([TISSUE, np.full((700, 600), 255, np.uint8)])
    tifffile.imwrite(tmp_path / "alpha.tif", alpha, photometric="rgb", extrasamples=["unassalpha"], **half)
    with opened(tmp_path / "alpha.tif") as slide:
        assert slide.microns_per_pixel == pytest.approx(0.5)


def test_pixels_that_are_not_square(tmp_path):
    oblong = {"resolution": (40000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "oblong.tif", TISSUE, photometric="rgb", **oblong)
    with pytest.raises(BadInput, match=r"oblong.tif are 0.250 by 0.500 µm, not square; resample it, or give --mpp"):
        opened(tmp_path / "oblong.tif")


def test_one_pixel():
    with opened(np.full((1, 1, 3), 9, np.uint8), mpp=0.5) as slide:
        assert slide.shape == (2, 2)
        assert (slide.read(0, 0, 2, 2) == 9).all()
        assert slide.thumbnail(100).shape == (1, 1, 3)


def test_hashes_tell_inputs_apart(tmp_path):
    write_zarr(tmp_path / "a.zarr")
    one = source_sha256(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "more").write_text("x")
    assert source_sha256(tmp_path / "a.zarr") != one
    assert source_sha256(np.zeros((2, 3, 3), np.uint8)) != source_sha256(np.zeros((3, 2, 3), np.uint8))
