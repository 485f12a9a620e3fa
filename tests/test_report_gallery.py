"""Which patches the page shows, and the pictures of a patch."""

import base64
import io

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image
from report_fixture import gallery, patches, tissue, validation

from msal_deploy.errors import BadInput
from msal_deploy.report import choose_patches, make_gallery
from msal_deploy.report.gallery import ENGINE, MAX_SIDE, REFERENCE, TRUTH, as_jpeg, as_png, outline, panels


def rows(*dices, flipped=None):
    flips = flipped or [0.0] * len(dices)
    return {
        "per_patch": [{"dice": dice, "flipped_pixels": share} for dice, share in zip(dices, flips, strict=True)],
    }


def chosen(reference, differing=2, **engines):
    values = {"reference": "r", "engines": {"r": reference, **engines}}
    return [(one.engine, one.index, one.reason) for one in choose_patches(values, differing=differing)]


def test_best_median_and_worst_of_the_first_engine():
    reference, same = rows(0.1, 0.2, 0.3, 0.4, 0.5), rows(0.6, 0.9, None, 0.7, 0.8)
    assert chosen(reference, a=same) == [("a", 1, "best"), ("a", 3, "median"), ("a", 0, "worst")]
    assert chosen(rows(0.6, 0.9, 0.7)) == [("r", 1, "best"), ("r", 2, "median"), ("r", 0, "worst")]


@pytest.mark.parametrize(
    ("dices", "expected"),
    [
        ((), []),
        ((None,), []),
        ((0.5,), [(0, "best")]),
        ((0.4, 0.5), [(1, "best"), (0, "worst")]),
        ((0.1, 0.2, 0.3, 0.4), [(3, "best"), (1, "median"), (0, "worst")]),
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), [(5, "best"), (2, "median"), (0, "worst")]),
    ],
)
def test_few_patches_are_not_shown_twice(dices, expected):
    assert [one[1:] for one in chosen(rows(*dices))] == expected


def test_the_patches_that_lose_most_dice_come_first():
    reference = rows(0.8, 0.8, 0.8, 0.8, None)
    a = rows(0.79, 0.6, 0.7, 0.1, None, flipped=[0.1, 0.1, 1e-4, 0.99e-4, 0.9])
    b = rows(0.8, 0.8, 0.8, 0.9, None, flipped=[0.1, 0.3, 0.2, 0.9, 0.25])
    differing = [one[:2] for one in chosen(reference, a=a, b=b) if one[2] == "differs"]
    assert differing == [("a", 1), ("a", 2), ("b", 1), ("b", 4)]
    (one,) = [one for one in chosen(reference, 1, a=a) if one[2] == "differs"]
    assert one == ("a", 1, "differs")
    three = [one[:2] for one in chosen(reference, 3, b=b) if one[2] == "differs"]
    assert three == [("b", 1), ("b", 4), ("b", 2)]


def test_two_patches_of_each_engine_by_default():
    reasons = [(one.engine, one.reason) for one in choose_patches(validation())]
    assert reasons.count(("openvino:int8", "differs")) == 2
    assert ("openvino:fp32", "differs") not in reasons  # no pixel differs


def test_the_gallery_has_the_pixels_and_the_numbers_of_the_chosen_patches():
    values = validation()
    cut, masks = patches(values)
    shown, chosen = make_gallery(values, cut, masks, weights="heavy", differing=1), choose_patches(values, differing=1)
    assert [(one.engine, one.reason) for one in shown] == [(one.engine, one.reason) for one in chosen]
    assert len(shown) == 6
    one, index = shown[3], chosen[3].index
    row = values["engines"]["openvino:int8"]["per_patch"][index]
    reference = values["engines"]["torch:fp32"]["per_patch"][index]
    assert (one.stem, one.corner, one.weights, one.reference) == (row["stem"], row["corner"], "heavy", "torch:fp32")
    assert (one.dice, one.reference_dice) == (row["dice"], reference["dice"])
    assert one.dice < one.reference_dice and one.flipped_pixels == row["flipped_pixels"] > 0
    image, truth, expected, predicted = tissue(index)
    for found, drawn in ((one.image, image), (one.truth, truth), (one.expected, expected), (one.predicted, predicted)):
        assert np.array_equal(found, drawn)


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def a_patch(**changes):
    return replace(gallery(validation())[3], **changes)


def test_the_four_panels_of_a_patch():
    patch = a_patch()
    truth, reference, engine, difference = panels(patch)
    assert [panel["label"] for panel in panels(patch)] == [
        "truth", "reference: torch:fp32", "engine: openvino:int8", "difference",
    ]  # fmt: skip
    layers = ((truth, patch.truth, TRUTH), (reference, patch.expected, REFERENCE), (engine, patch.predicted, ENGINE))
    for panel, mask, colour in layers:
        assert panel["source"] == as_jpeg(outline(patch.image, mask, colour))
    where = f"patch {patch.stem}, {patch.corner}"
    assert truth["alt"] == f"H&E {where}, with the outlines of the true nuclei"
    assert reference["alt"] == f"H&E {where}, with the outlines of what torch:fp32 found"
    assert engine["alt"] == f"H&E {where}, with the outlines of what openvino:int8 found"
    assert difference["alt"] == (
        f"Map of {where}: the pixels that only openvino:int8 or only torch:fp32 takes for nucleus: 0.210% of all"
    )
    assert difference["source"].startswith("data:image/png;base64,")


def test_large_pictures_are_scaled_down_and_small_ones_are_not():
    large = np.zeros((700, 350, 3), np.uint8)
    assert pixels(as_jpeg(large)).shape == (MAX_SIDE, MAX_SIDE // 2, 3)
    small = tissue()[0]
    assert (pixels(as_png(small)) == small).all()
    assert abs(pixels(as_jpeg(small)).astype(int) - small).mean() < 10


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"truth": np.zeros((160, 80), bool)}, "uint8[160, 80, 3] as the image of"),
        ({"expected": np.zeros((80, 160), bool)}, "bool[160, 160] as the expected of"),
        ({"predicted": np.zeros((160, 160), np.uint8)}, "got uint8[160, 160]"),
        ({"image": np.zeros((160, 160, 3), np.float32)}, "got float32[160, 160, 3]"),
    ],
)
def test_an_image_and_its_masks_have_the_same_pixels(changes, told):
    values = {name: getattr(a_patch(), name) for name in a_patch().__struct_fields__}
    with pytest.raises(BadInput, match=r"top-left|bottom-right") as caught:
        type(a_patch())(**values | changes)
    assert told in caught.value.cause and caught.value.remedy
