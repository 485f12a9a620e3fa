"""Labels that would mislead: caught by verify, refused by those who use them. MoNuSeg: ``test_monuseg.py``."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from msal_deploy.cli import app
from msal_deploy.data import check_labels, open_dataset, open_scored_images, open_training_sets, rasterise, verify
from msal_deploy.data.annotations import Annotation, write_xml
from msal_deploy.data.images import read_label
from msal_deploy.data.label_checks import contrast, label_faults, offset, pieces_and_values
from msal_deploy.data.tissue import draw_tissue
from msal_deploy.errors import BadInput

SIZE = 384

Image8 = NDArray[np.uint8]
Labels = NDArray[np.int32]


def drawn(seed: int) -> tuple[Image8, tuple[NDArray[np.float64], ...], Labels]:
    image, outlines = draw_tissue(np.random.default_rng(seed), SIZE)
    return image, outlines, rasterise(outlines, (SIZE, SIZE))


IMAGE, OUTLINES, LABELS = drawn(11)
OTHER_IMAGE, OTHER_OUTLINES, OTHER = drawn(12)
MASK = ((LABELS > 0) * 255).astype(np.uint8)


def jpeg(quality: int) -> Image8:
    stream = io.BytesIO()
    Image.fromarray(MASK).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(resample: Image.Resampling, labels: NDArray[np.generic] = MASK) -> NDArray[np.generic]:
    small = Image.fromarray(labels).resize((SIZE // 2, SIZE // 2), resample)
    return np.asarray(small.resize((SIZE, SIZE), resample))


WRONG: dict[str, tuple[NDArray[np.generic], str]] = {
    "bicubic": (resized(Image.Resampling.BICUBIC), "blurred mask; threshold it at 128"),
    "bilinear": (resized(Image.Resampling.BILINEAR), "blurred mask; threshold it at 128"),
    "jpeg 95": (jpeg(95), "blurred mask; threshold it at 128"),
    "jpeg 50": (jpeg(50), "blurred mask; threshold it at 128"),
    "gaussian": (cv2.GaussianBlur(MASK, (0, 0), 1), "blurred mask; threshold it at 128"),
    "heat map": (cv2.GaussianBlur(MASK, (0, 0), 6) // 3, "looks resized, compressed, or like an image"),
    "resized instance map": (
        resized(Image.Resampling.BILINEAR, LABELS.astype(np.float32)).astype(np.uint16),
        "looks resized, compressed, or like an image",
    ),
    "the image itself": (IMAGE[..., 1], "looks resized, compressed, or like an image"),
    "classes": (np.where(LABELS > 0, LABELS % 3 + 1, 0).astype(np.uint8), "looks like classes"),
    "inverted": (255 - MASK, "invert the mask"),
    "everything": (np.full_like(MASK, 255), "labels cover 100% of the pixels"),
    "of another image": (OTHER.astype(np.uint16), "not on nuclei"),
    "mirrored": (np.fliplr(LABELS).astype(np.uint16), "they fit when mirrored left to right"),
    "upside down": (np.flipud(LABELS).astype(np.uint16), "they fit when mirrored top to bottom"),
    "transposed": (LABELS.T.astype(np.uint16), "they fit when transposed"),
    "rotated": (np.rot90(LABELS).astype(np.uint16), "they fit when rotated by 270°"),
    "right by 6, down by 20 px": (np.roll(LABELS, (20, 6), (0, 1)).astype(np.uint16), "offset by about (6, 20) px"),
    "left by 60 px": (np.roll(LABELS, -60, 1).astype(np.uint16), "offset by about (-60, 0) px"),
}


def write_set(folder: Path, wrong: NDArray[np.generic]) -> Path:
    """A right image "a", and an image "b" with wrong labels."""
    for stem, image, label in (("a", OTHER_IMAGE, OTHER.astype(np.uint16)), ("b", IMAGE, wrong)):
        for kind, values in (("images", image), ("labels", label)):
            path = folder / kind / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_wrong_labels_are_flagged_and_refused(name: str, tmp_path: Path) -> None:
    labels, words = WRONG[name]
    source = write_set(tmp_path / "set", labels)
    messages = verify(source).messages
    assert len(messages) == 1
    assert messages[0].startswith("b: its label") and words in messages[0]
    for opened in (lambda: open_scored_images(str(source)), lambda: open_training_sets([str(source)])):
        with pytest.raises(BadInput) as caught, opened():
            pass
        assert str(caught.value) == messages[0]


def test_right_labels_have_no_faults() -> None:
    for image, labels in ((IMAGE, LABELS), (OTHER_IMAGE, OTHER)):
        assert label_faults(image, labels) == ()
        assert label_faults(image, read_only(labels > 0)) == ()
    # one pixel beside them, as if vertices were counted from 0
    assert label_faults(IMAGE, np.roll(LABELS, (1, 1), (0, 1))) == ()


def read_only(mask: NDArray[np.bool_]) -> Labels:
    return np.asarray(cv2.connectedComponents(mask.astype(np.uint8))[1], dtype=np.int32)


def test_nuclei_that_share_values_are_only_warned_about(tmp_path: Path) -> None:
    labels = np.where(LABELS > 0, LABELS % 20 + 1, 0).astype(np.uint8)
    source = write_set(tmp_path / "set", labels)
    assert not verify(source).ok
    warnings: list[str] = []
    with open_scored_images(str(source), warnings.append) as images:
        assert len(images) == 2
    assert len(warnings) == 1
    assert warnings[0].startswith("b: its label map has 20 values in ")
    assert "nuclei share values" in warnings[0]


# --- outlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("move", "words"),
    [
        (lambda xy: xy + 30_000, "100% of its outlines are outside its 384×384 px"),
        (lambda xy: xy - 500, "100% of its outlines are outside"),
        (lambda xy: xy + 250, "outlines are outside"),
        (lambda xy: xy[:, ::-1], "they fit when transposed (x and y swapped)"),
        (lambda xy: xy * 0.25, "not on nuclei"),
        (lambda xy: xy * 1.1, "not on nuclei"),
        (lambda xy: xy + 12, "offset by about (12, 12) px"),
    ],
)
def test_outlines_in_other_coordinates(
    move: Callable[[NDArray[np.float64]], NDArray[np.float64]], words: str, tmp_path: Path
) -> None:
    for stem, image, outlines in (("a", OTHER_IMAGE, OTHER_OUTLINES), ("b", IMAGE, [move(xy) for xy in OUTLINES])):
        Image.fromarray(image).save(tmp_path / f"{stem}.png")
        write_xml(tmp_path / f"{stem}.xml", outlines)
    messages = verify(tmp_path).messages
    assert messages and all(message.startswith("b: ") for message in messages)
    assert words in " ".join(messages)
    with open_dataset(tmp_path) as dataset, pytest.raises(BadInput, match=r"^b: "):
        check_labels((*dataset.train, *dataset.test))


def test_a_fifth_of_the_outlines_outside_is_odd_and_most_of_them_are_wrong() -> None:
    inside = [np.array([[1.0, 1.0], [9.0, 1.0], [9.0, 9.0]])]
    image = np.full((16, 16, 3), 200, np.uint8)
    for outside, certain in ((1, []), (3, [False]), (10, [False]), (11, [True])):
        annotation = Annotation((*inside * 10, *[inside[0] + 100] * outside), 0, None)
        faults = label_faults(image, rasterise(annotation.polygons, (16, 16)), annotation)
        assert [fault.certain for fault in faults] == certain
    assert faults[0].cause == "52% of its outlines are outside its 16×16 px"


def test_labels_that_are_empty_everywhere(tmp_path: Path) -> None:
    write_set(tmp_path, np.zeros((SIZE, SIZE), np.uint8))
    assert verify(tmp_path).ok
    (tmp_path / "labels" / "a.png").unlink()
    (tmp_path / "labels" / "a.xml").write_text("<Annotations/>")
    report = verify(tmp_path)
    assert report.messages == ("images without a labelled nucleus, which are all: 2 (a, b); check the annotations",)
    with (
        pytest.raises(BadInput, match="None of the 2 images has a labelled nucleus"),
        open_scored_images(str(tmp_path)),
    ):
        pass


# --- the same image twice --------------------------------------------------------------------------------------------


def test_the_same_pixels_in_train_and_test_under_two_names(tmp_path: Path) -> None:
    for split, stem, suffix in (("train", "a", ".tif"), ("test", "renamed-a", ".png"), ("test", "other", ".png")):
        (tmp_path / split).mkdir(exist_ok=True)
        image, outlines = (OTHER_IMAGE, OTHER_OUTLINES) if stem == "other" else (IMAGE, OUTLINES)
        Image.fromarray(image).save(tmp_path / split / f"{stem}{suffix}")
        write_xml(tmp_path / split / f"{stem}.xml", outlines)
    assert verify(tmp_path).messages == ("the same pixels in train and in test: 1 (a = renamed-a); remove one of each",)
    with pytest.raises(BadInput, match="train/a and test/renamed-a have the same pixels"):
        open_scored_images(str(tmp_path)).__enter__()
    shutil.move(tmp_path / "train", tmp_path / "test" / "more")
    assert "the same pixels under two names: 1 (a = renamed-a)" in verify(tmp_path).messages[0]


# --- the numbers by hand ---------------------------------------------------------------------------------------------


def test_contrast_by_hand() -> None:
    image = np.full((100, 100, 3), 200, np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[40:70, 40:70] = True
    assert contrast(image, mask) == 0.5  # all equal: every pair is a tie
    image[40:70, 40:70, 0] = 100
    assert contrast(image, mask) == 1.0
    image[40:55, 40:70, 0] = 250  # the upper half of the labels is brighter than the ring, the lower half darker
    assert contrast(image, mask) == 0.5
    image[..., 1:] = 0  # green and blue do not count
    assert contrast(image, mask) == 0.5
    assert contrast(255 - image, mask) == 0.5
    mask[:] = False
    mask[0, :499] = True
    assert contrast(image, mask) is None  # too few
    assert contrast(image, np.ones((100, 100), bool)) is None  # nothing around


def test_pieces_by_hand() -> None:
    labels = np.array([[1, 0, 2, 2], [1, 0, 0, 0], [0, 3, 0, 1], [3, 0, 0, 1]], dtype=np.int32)
    assert pieces_and_values(labels) == (4, 3)  # 1 is in two places; 3 touches at a corner
    assert pieces_and_values(np.zeros((3, 3), np.int32)) == (0, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 5), (17, 31)])
def test_small_images_have_no_faults_that_chance_could_cause(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = np.zeros(size, np.int32)
    labels[: size[0] // 2] = 1
    assert label_faults(image, labels) == ()
    assert offset(image, labels > 0) == (0, 0)


def test_uniform_images_have_no_offset() -> None:
    assert offset(np.full((64, 64, 3), 255, np.uint8), np.eye(64, dtype=bool)) == (0, 0)


# --- what users see --------------------------------------------------------------------------------------------------


def test_verify_marks_odd_numbers_and_exits_with_1(tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", 255 - MASK)
    result = CliRunner().invoke(app, ["data", "verify", str(source)])
    assert result.exit_code == 1
    rows = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if line.count("│") == 4}
    odd = {name for name, row in rows.items() if "✗" in row}
    assert odd == {"nuclei darker than around, lowest", "pixels in nuclei"}  # 82% are labelled
    assert "✗ b: its labels are brighter than what is around them" in result.stdout


def test_labels_of_the_synthetic_set_are_right(official: Path) -> None:
    with open_dataset(official) as dataset:
        check_labels((*dataset.train, *dataset.test), pytest.fail)
    assert read_label(next(official.rglob("*.png"))).any()
