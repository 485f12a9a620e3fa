"""The checks without labels, on fake engines with known faults."""

import math

import numpy as np
import pytest
from fake_engine import Fake, first_channel, noise
from msgspec.structs import replace
from pytest import approx

from msal_deploy.data import Patch
from msal_deploy.spec import Axis, ModelSpec, TensorSpec
from msal_deploy.trt.plan_metadata import Profile
from msal_deploy.validate.checks import Check, check_engine, compare_builds, tolerance
from msal_deploy.validate.probe import Probe, choose_tiles, mosaic, probe_reference, quadrants, rows

SIDE = 32
TILES = noise(4, SIDE, SIDE)


def probe(tiles=TILES):
    with Fake() as reference:
        return probe_reference(reference, tiles)


def check(engine, given=None):
    """Check an engine, and return name -> its checks."""
    found = {}
    with engine:
        for one in check_engine(engine, given or probe()):
            found.setdefault(one.name, []).append(one)
    return found


def only(engine, name, given=None):
    (one,) = check(engine, given)[name]
    return one


def in_batches(change):
    """Change the rows of outputs float32[N,H,W] in place when there are several."""

    def compute(images):
        p = first_channel(images)
        if len(p) > 1:
            change(p[:, 0])
        return p

    return compute


def by_size(small, large):
    """Add one number to the probabilities of tiles and another to those of larger images."""
    return lambda images: first_channel(images) + np.float32(small if images.shape[1] == SIDE else large)


# Tiles


def test_the_reference_computes_the_tiles_alone_and_side_by_side():
    engine = Fake()
    with engine:
        made = probe_reference(engine, TILES)
    assert engine.shapes == [(1, SIDE, SIDE)] * 4 + [(1, 2 * SIDE, 2 * SIDE)]
    assert np.array_equal(made.tiles, TILES)
    assert np.array_equal(made.expected, TILES[..., 0] / np.float32(256))
    assert np.array_equal(made.expected_whole[:SIDE, SIDE:], made.expected[1])
    assert np.array_equal(made.expected_whole[SIDE:, :SIDE], made.expected[2])


def test_quadrants_undo_mosaic():
    tiles = np.arange(4 * 2 * 3).reshape(4, 2, 3)
    whole = mosaic(tiles)
    assert whole.tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]
    assert np.array_equal(quadrants(whole), tiles)


def test_rows_are_cropped_or_continued_and_repeated_ones_are_shifted():
    image = np.arange(2 * 40).reshape(2, 40, 1).astype(np.uint8)
    other = image + 100
    batch = rows([image, other], (5, 3, 38))
    assert batch.shape == (5, 3, 38, 1)
    assert np.array_equal(batch[0, :2], image[:, :38])
    assert np.array_equal(batch[0, 2], image[0, :38])
    assert np.array_equal(batch[1, 0], other[0, :38])
    assert batch[2, 0, 37, 0] == image[0, 0, 0]  # moved by 37 px
    assert batch[3, 1, 37, 0] == other[1, 0, 0]
    assert batch[4, 0, 37, 0] == image[0, 3, 0]  # moved by 74 px
    assert rows([image], (1, 2, 45))[0, 1, :, 0].tolist() == [*range(40, 80), *range(40, 45)]


def patches_of(*images, stem="a"):
    return [Patch(stem, str(k), image, np.zeros(image.shape[:2], bool)) for k, image in enumerate(images)]


def test_tiles_are_the_first_four_patches_of_the_image_with_the_most_contrast():
    flat, rich, few = noise(4, 70, 100, seed=1) // 4, noise(5, 70, 100, seed=2), noise(3, 70, 100, seed=3)
    patches = patches_of(*flat, stem="flat") + patches_of(*rich, stem="rich") + patches_of(*few, stem="few")
    tiles = choose_tiles(patches)
    assert np.array_equal(tiles, rich[:4, :64, :96])
    assert np.array_equal(choose_tiles(patches, size=64), rich[:4, :64, :64])
    assert np.array_equal(choose_tiles(patches_of(*flat)), flat[:, :64, :96])
    assert choose_tiles(patches_of(*noise(4, 600, 500))).shape == (4, 512, 480, 3)


def test_contrast_is_that_of_every_eighth_pixel():
    hidden = noise(4, 64, 64)
    hidden[:, ::8, ::8] = 0
    seen = np.zeros_like(hidden)
    seen[:, ::8, ::8] = 9
    seen[:, ::16] = 0
    assert np.array_equal(choose_tiles(patches_of(*hidden, stem="hidden") + patches_of(*seen, stem="seen")), seen)


def test_patches_of_several_sizes_are_cropped_to_the_smallest():
    images = [noise(100, 100), noise(64, 130), noise(130, 70), noise(100, 100)]
    tiles = choose_tiles(patches_of(*images))
    assert tiles.shape == (4, 64, 64, 3)
    assert np.array_equal(tiles[2], images[2][:64, :64])


def test_tiles_are_quadrants_if_no_image_has_four_patches():
    plain, rich = noise(140, 200) // 4, noise(140, 200, seed=1)
    patches = patches_of(plain, plain, plain) + patches_of(rich, stem="b")
    tiles = choose_tiles(patches)
    assert tiles.shape == (4, 64, 96, 3)
    assert np.array_equal(tiles[0], rich[:64, :96])
    assert np.array_equal(tiles[3], rich[64:128, 96:192])
    assert choose_tiles(patches, size=64).shape == (4, 64, 64, 3)
    assert choose_tiles(patches_of(noise(1200, 1000))).shape == (4, 512, 480, 3)


def test_a_small_patch_is_continued():
    image = noise(40, 33)
    tiles = choose_tiles(patches_of(image))
    assert tiles.shape == (4, 32, 32, 3)
    assert np.array_equal(tiles[3][0], image[32][[32, *range(31)]])


# Tolerances


@pytest.mark.parametrize(
    ("engine_id", "limit"),
    [
        ("torch:fp32", 1e-4),
        ("onnxruntime:fp16", 0.05),
        ("openvino:bf16", 0.05),
        ("openvino:int8", 0.05),
        ("tensorrt:fp32", 1e-4),
        ("tensorrt:fp16", 0.05),
        ("tensorrt:int8", 0.3),
        ("triton:localhost", 0.3),
        ("unknown:fp32", 1e-4),
        ("unknown:int8", 0.05),
    ],
)
def test_the_tolerance_depends_on_precision_and_device(engine_id, limit):
    assert tolerance(Fake(engine_id=engine_id)) == limit


# Batch


def test_a_correct_engine_passes_with_13_tiles():
    engine = Fake()
    found = check(engine)
    assert engine.shapes == [(1, SIDE, SIDE)] * 4 + [(4, SIDE, SIDE), (1, 2 * SIDE, 2 * SIDE), (1, SIDE, SIDE)]
    assert list(found) == ["batch", "crop", "repeat"]
    assert found["batch"] == [
        Check(
            "batch", True, "Each tile alone and in a batch of 4 × 32 × 32 px: at most 0 apart", 0.0, 1e-4,
            "row 1 of a batch of 4",
        )
    ]  # fmt: skip
    assert found["repeat"] == [Check("repeat", True, "The same tile twice: at most 0 apart", 0.0, 0.0, "tile 1")]
    assert found["crop"] == [
        Check(
            "crop", True,
            "Tiles of 32×32 px against the same pixels in an image of 64×64 px: the difference from the reference "
            "changes by 0 in the mean (tolerance 1e-05)",
            0.0, None, "top left tile", 0.0, 1e-5,
        )
    ]  # fmt: skip


@pytest.mark.parametrize("row", range(4))
def test_a_wrong_row_is_named(row):
    def change(p):
        p[row, 3, 5] += 0.25

    one = only(Fake(in_batches(change)), "batch")
    assert one == Check(
        "batch",
        False,
        f"Each tile alone and in a batch of 4 × 32 × 32 px: 0.25 apart at row {row + 1} of a batch of 4 "
        "(tolerance 0.0001)",
        approx(0.25),
        1e-4,
        f"row {row + 1} of a batch of 4",
    )


def test_all_wrong_rows_are_named_and_the_worst_is_the_position():
    def change(p):
        p[1] -= 0.125
        p[3, 0, 0] += 0.5

    one = only(Fake(in_batches(change)), "batch")
    assert "0.5 apart at row 2 of a batch of 4, row 4 of a batch of 4 (tolerance 0.0001)" in one.text
    assert one.position == "row 4 of a batch of 4"


def test_a_row_with_the_result_of_another_is_named():
    def change(p):
        p[2] = p[0]

    assert only(Fake(in_batches(change)), "batch").text.endswith("; row 3 has the result of row 1")

    def swap(p):
        p[[1, 3]] = p[[3, 1]]

    text = only(Fake(in_batches(swap)), "batch").text
    assert text.endswith("; row 2 has the result of row 4; row 4 has the result of row 2")


def test_a_difference_within_the_tolerance_passes():
    def change(by):
        return in_batches(lambda p: p.__iadd__(np.float32(by)))

    assert only(Fake(change(0.9e-4)), "batch").passed
    assert not only(Fake(change(1.1e-4)), "batch").passed
    assert only(Fake(change(0.25), "tensorrt:int8"), "batch").passed


def test_nan_in_a_batch_fails():
    def change(p):
        p[0] += 0.5
        p[2, 0, 0] = math.nan

    one = only(Fake(in_batches(change)), "batch")
    assert not one.passed
    assert one.position == "row 3 of a batch of 4"
    assert "nan apart at row 1 of a batch of 4, row 3 of a batch of 4" in one.text
    assert one.to_json() == {
        "name": "batch",
        "passed": False,
        "text": one.text,
        "max_abs_difference": None,
        "tolerance": 1e-4,
        "position": one.position,
        "mean_abs_difference": None,
        "mean_tolerance": None,
    }


def test_each_point_of_a_profile_is_checked():
    def change(p):
        if len(p) == 6:
            p[4] += 0.5

    engine = Fake(in_batches(change), "tensorrt:fp32", Profile((2, 32, 32), (4, 32, 32), (6, 64, 96)))
    found = check(engine)
    assert [one.passed for one in found["batch"]] == [True, True, False]
    assert [one.text.partition(":")[0] for one in found["batch"]] == [
        f"Each tile alone and in a batch of {shape} px" for shape in ("4 × 32 × 32", "2 × 32 × 32", "6 × 64 × 96")
    ]
    assert found["batch"][2].position == "row 5 of a batch of 6"
    # alone means in the smallest batch
    assert engine.shapes == [
        *[(2, 32, 32)] * 4, (4, 32, 32), *[(2, 32, 32)] * 2, (2, 32, 32), *[(2, 64, 96)] * 6, (6, 64, 96), (2, 64, 64),
        (2, 32, 32),
    ]  # fmt: skip


def test_a_fixed_profile_is_checked_once():
    """A plan for 8 images of the tiles' size: alone means eight times the same tile."""
    engine = Fake(engine_id="tensorrt:fp32", profile=Profile((8, 32, 32), (8, 32, 32), (8, 32, 32)))
    found = check(engine)
    assert [one.position for one in found["batch"]] == ["row 1 of a batch of 8"]
    assert set(engine.shapes) == {(8, 32, 32)}
    assert found["crop"][0].passed
    assert found["crop"][0].text.endswith(
        "in an image of 64×64 px: not checked, because tensorrt:fp32 does not take images of that size"
    )
    assert found["crop"][0].max_abs_difference is None


# Crop


def test_a_difference_that_is_another_one_in_larger_images_fails():
    one = only(Fake(by_size(0, 0.25)), "crop")
    assert not one.passed
    assert (one.max_abs_difference, one.mean_abs_difference, one.tolerance) == (0.25, 0.25, None)
    assert one.mean_tolerance == 1e-5
    assert one.text.endswith("changes by 0.25 in the mean (tolerance 1e-05), most in the top left tile")
    assert not only(Fake(by_size(0.25, 0)), "crop").passed


@pytest.mark.parametrize(
    ("large", "passes"), [(0.125, True), (0.25, True), (0.3125, True), (0.375, True), (0.4375, False)]
)
def test_the_change_may_be_twice_the_smaller_difference(large, passes):
    """Of 0.125 alone and 0.375 in the larger image, the change is 0.25: twice 0.125."""
    one = only(Fake(by_size(0.125, large)), "crop")
    assert one.passed is passes
    assert one.mean_tolerance == 0.25
    assert one.mean_abs_difference == large - 0.125
    assert only(Fake(by_size(large, 0.125)), "crop").passed is passes


@pytest.mark.parametrize(
    ("engine_id", "floor"),
    [("torch:fp32", 1e-5), ("onnxruntime:fp16", 1e-3), ("openvino:int8", 1e-3), ("triton:localhost", 1e-3)],
)
def test_the_smallest_tolerance_of_a_crop(engine_id, floor):
    assert only(Fake(engine_id=engine_id), "crop").mean_tolerance == floor


@pytest.mark.parametrize(("quadrant", "name"), enumerate(("top left", "top right", "bottom left", "bottom right")))
def test_the_tile_with_the_largest_change_is_named(quadrant, name):
    def compute(images):
        p = first_channel(images)
        if images.shape[1] > SIDE:
            y, x = divmod(quadrant, 2)
            p[:, :, y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE] += 0.5
        return p

    one = only(Fake(compute), "crop")
    assert one.position == f"{name} tile"
    assert one.text.endswith(f", most in the {name} tile")
    assert one.mean_abs_difference == 0.125
    assert one.max_abs_difference == 0.5


def test_a_crop_is_not_checked_if_the_graph_does_not_take_the_larger_image():
    def spec(height, width):
        axes = (Axis("batch", 1, 4), Axis("height", 32, height, 32), Axis("width", 32, width, 32), 3)
        return replace(ModelSpec(), image=TensorSpec("image", "uint8", axes))

    assert only(Fake(spec=spec(64, 64)), "crop").max_abs_difference == 0.0
    assert only(Fake(spec=spec(32, 64)), "crop").max_abs_difference is None
    assert only(Fake(spec=spec(64, 32)), "crop").max_abs_difference is None


def test_a_fixed_axis_takes_its_size_only():
    axes = (Axis("batch", 1, 4), 32, 32, 3)
    fixed = replace(ModelSpec(), image=TensorSpec("image", "uint8", axes))
    assert only(Fake(spec=fixed), "crop").max_abs_difference is None


def test_nan_in_the_larger_image_fails():
    one = only(Fake(by_size(0, math.nan)), "crop")
    assert not one.passed
    assert one.to_json()["mean_abs_difference"] is None


def test_tiles_need_not_be_square():
    given = probe(noise(4, 32, 64))
    assert "Tiles of 64×32 px against the same pixels in an image of 128×64 px" in only(Fake(), "crop", given).text


# Repeat and rebuild


def counting(amount):
    """Add `amount` to the second result for the same single tile."""
    seen = []

    def compute(images):
        seen.append(images.tobytes())
        return first_channel(images) + np.float32(amount * (seen.count(seen[-1]) - 1))

    return compute


def test_the_same_tile_twice_gives_the_same_bits():
    one = only(Fake(counting(2**-20)), "repeat")
    assert not one.passed
    assert one.text == f"The same tile twice: {2**-20:.2g} apart at tile 1 (tolerance 0)"
    assert one.max_abs_difference == approx(2**-20, rel=0.1)


def test_a_server_may_compute_the_same_tile_in_another_batch():
    assert only(Fake(counting(0.25), "triton:localhost"), "repeat").passed
    assert not only(Fake(counting(0.375), "triton:localhost"), "repeat").passed
    assert only(Fake(counting(0.25), "triton:localhost"), "repeat").tolerance == 0.3


def test_two_builds():
    def third_tile(images):
        return first_channel(images) + np.float32(0.5 if np.array_equal(images[0], TILES[2]) else 0)

    one = compare_builds(Fake(folder="one"), Fake(third_tile, folder="two"), TILES)
    assert one == Check(
        "rebuild", False, "Two builds of torch:fp32: 0.5 apart at tile 3 (tolerance 0.0001)", 0.5, 1e-4, "tile 3"
    )
    same = compare_builds(Fake(folder="one"), Fake(folder="two"), TILES)
    assert same == Check("rebuild", True, "Two builds of torch:fp32: at most 0 apart", 0.0, 1e-4, "tile 1")


def test_a_graph_opened_twice():
    first, second = Fake(), Fake()
    assert compare_builds(first, second, TILES[:2]).text == "torch:fp32 opened twice: at most 0 apart"
    assert first.shapes == second.shapes == [(1, SIDE, SIDE)] * 2
    assert not first.is_open
    assert not second.is_open


def test_probe_holds_what_it_is_given():
    assert Probe(TILES, TILES[..., 0], TILES[0]).expected is not None
