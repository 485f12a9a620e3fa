import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from msal_deploy.data import read_image, read_label
from msal_deploy.data.images import image_size
from msal_deploy.errors import BadInput

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".png"])
def test_read_image_round_trip(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RGB).save(path)
    np.testing.assert_array_equal(read_image(path), RGB)
    assert image_size(path) == (40, 50)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
def test_read_image_supports_tiff_compressions(compression: str, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)


def test_read_image_supports_jpeg(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == (40, 50, 3)


@pytest.mark.parametrize(
    ("mode", "suffix", "words"),
    [
        ("L", ".png", "is greyscale; convert it to 8-bit RGB"),
        ("L", ".tif", "is greyscale"),
        ("1", ".png", "1-bit"),
        ("RGBA", ".png", "transparent pixels"),
        ("RGBA", ".tif", "transparent pixels"),
        ("P", ".png", "palette"),
        ("CMYK", ".tif", "CMYK"),
        ("CMYK", ".jpg", "CMYK"),
        ("I;16", ".png", "16 bits"),
        ("F", ".tif", "floating-point"),
    ],
)
def test_read_image_rejects_other_modes_by_name(mode: str, suffix: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new(mode, (8, 8)).save(path)
    with pytest.raises(BadInput, match=words) as caught:
        read_image(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_read_image_rejects_deep_rgb_tiffs(planar: str, dtype: str, tmp_path: Path) -> None:
    array = RGB.astype(dtype) * 200
    array = array if planar == "contig" else np.moveaxis(array, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig=planar, metadata=None)
    with pytest.raises(BadInput, match=r"16 bits|uint16|float32"):
        read_image(tmp_path / "a.tif")


def png_of_16_bits(array: np.ndarray) -> bytes:
    """Encode a 16-bit RGB PNG, which Pillow cannot write. When it reads one, it drops the low bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = array.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_read_image_rejects_deep_rgb_pngs(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_of_16_bits(RGB.astype(np.uint16) * 257))
    assert Image.open(path).mode == "RGB"
    with pytest.raises(BadInput, match="16 bits per channel"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_read_image_rejects_truncated_files(
    suffix: str, keep: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.tile(RGB, (4, 4, 1))).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with warnings.catch_warnings(), pytest.raises(BadInput, match="damaged or truncated") as caught:
        warnings.simplefilter("error")
        read_image(path)
    assert path.name in str(caught.value)
    assert caplog.records == []


@pytest.mark.parametrize("content", [b"", b"MoNuSeg", b"II*\x00", b"\x89PNG\r\n\x1a\n"])
def test_read_image_rejects_files_that_are_not_images(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.tif is (not an image|damaged)"):
        read_image(tmp_path / "a.tif")


def test_read_image_rejects_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read_image(tmp_path / "none.tif")
    with pytest.raises(BadInput, match="is a folder"):
        read_image(tmp_path)


def test_read_image_limits_pixels_without_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png").shape == (40, 50, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(BadInput, match="million pixels"):
        read_image(tmp_path / "a.png")


def save_label(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".png", np.uint8), (".png", np.uint16), (".tif", np.uint8), (".tif", np.uint16), (".tif", np.int32)],
)
def test_read_label_keeps_the_values_of_instance_maps(suffix: str, dtype: type, tmp_path: Path) -> None:
    values = np.zeros((20, 30), dtype=dtype)
    values[2:5, 2:5], values[2:5, 5:9], values[10:, 10:] = 3, 200, 77
    label = read_label(save_label(tmp_path / f"a{suffix}", values))
    assert label.dtype == np.int32
    np.testing.assert_array_equal(label, values)


@pytest.mark.parametrize("high", [1, 255])
def test_read_label_splits_binary_masks_into_components(high: int, tmp_path: Path) -> None:
    values = np.zeros((20, 20), dtype=np.uint8)
    values[2:5, 2:5] = values[5:7, 5:7] = values[12:15, 12:15] = high  # the first two touch at a corner
    label = read_label(save_label(tmp_path / "a.png", values))
    assert label.max() == 2
    np.testing.assert_array_equal(label > 0, values > 0)


def test_read_label_accepts_one_bit_and_empty_labels(tmp_path: Path) -> None:
    Image.new("1", (8, 8), 1).save(tmp_path / "one.png")
    Image.new("L", (8, 8)).save(tmp_path / "empty.png")
    assert read_label(tmp_path / "one.png").min() == 1
    assert not read_label(tmp_path / "empty.png").any()


def test_read_label_rejects_coloured_lossy_and_odd_labels(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "colour.png")
    Image.new("L", (8, 8)).save(tmp_path / "lossy.jpg")
    Image.new("F", (8, 8)).save(tmp_path / "float.tif")
    Image.new("RGBA", (8, 8)).save(tmp_path / "alpha.png")
    Image.fromarray(np.full((8, 8), -1, dtype=np.int32)).save(tmp_path / "negative.tif")
    for name, words in {
        "colour.png": "coloured label",
        "lossy.jpg": "JPEG",
        "float.tif": "floating-point",
        "alpha.png": "alpha",
        "negative.tif": "Expected labels from 0",
    }.items():
        with pytest.raises(BadInput, match=words):
            read_label(tmp_path / name)
