"""Separation of touching nuclei: hand-made shapes, properties, and the slow way, pixel by pixel."""

import cv2
import msgspec
import numpy as np
import pytest
from brute_force_separation import EIGHT, FOUR, filled, flood, slow_separate
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from msal_deploy.instances import Separation, separate
from msal_deploy.metrics import changes, count_nuclei, panoptic_quality

DEFAULTS = Separation(min_area=4.0, max_hole=30.0, smoothing=0.4, levels=(0.9, 0.95, 0.98), saddle=0.95)
QUICK = settings(max_examples=30, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
ANY_AREA = Separation(min_area=0.0)


def canvas(height=60, width=90):
    return np.zeros((height, width), np.float32)


def disc(image, x, y, radius, value=1.0):
    return cv2.circle(image, (x, y), radius, value, cv2.FILLED)


def rectangle(height, width, shape=(60, 90), corner=(10, 10)):
    image = np.zeros(shape, np.float32)
    image[corner[0] : corner[0] + height, corner[1] : corner[1] + width] = 1
    return image


def noise(seed, shape, blur=2.0):
    """A probability map with blobs of all shapes, saturated as a network's."""
    field = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal(shape, np.float32), (0, 0), blur)
    return (0.5 + 0.5 * np.tanh(2 * field / max(float(field.std()), 1e-6))).astype(np.float32)


def test_default_parameters_as_the_slow_way():
    probability = noise(1, (64, 80), 4.0)
    expected = slow_separate(probability, 0.5, 480, (0.9, 0.95, 0.98), 1.6, 0.95, 64)
    assert expected.max() >= 5
    assert np.array_equal(separate(probability), expected)


def test_many_merges_as_the_slow_way():
    probability = noise(5, (70, 90), 1.5)
    expected = slow_separate(probability, 0.3, 480, (0.9, 0.95, 0.98), 0.8, 0.3, 1)
    chosen = Separation(min_area=0.25, max_hole=120.0, saddle=0.3)
    found = separate(probability, threshold=0.3, microns_per_pixel=0.5, parameters=chosen)
    assert expected.max() >= 3
    assert np.array_equal(found, expected)


def test_parameters_cannot_be_altered():
    with pytest.raises(AttributeError):
        DEFAULTS.saddle = 0.5


def test_defaults():
    assert Separation() == DEFAULTS
    image = noise(3, (40, 50))
    assert np.array_equal(separate(image), separate(image, threshold=0.5, microns_per_pixel=0.25, parameters=DEFAULTS))


def test_background_only():
    labels = separate(canvas())
    assert labels.dtype == np.int32 and labels.shape == (60, 90) and not labels.any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (64, 64)])
def test_foreground_only_is_one_nucleus(shape):
    with np.errstate(all="raise"):
        assert np.array_equal(separate(np.ones(shape, np.float32), parameters=ANY_AREA), np.ones(shape, np.int32))


def test_a_plateau_is_one_nucleus():
    assert separate(np.ones((1, 40), np.float32), parameters=Separation(min_area=0.0, saddle=1.0)).max() == 1


def test_nuclei_apart_are_never_merged():
    assert separate(disc(disc(canvas(), 20, 30, 10), 60, 30, 10), parameters=Separation(saddle=0.0)).max() == 2


def test_overlapping_discs_are_two_nuclei():
    image = disc(disc(canvas(), 25, 30, 12), 44, 30, 12)
    labels = separate(image)
    assert labels.max() == 2
    assert labels[30, 20] == 1 and labels[30, 50] == 2
    assert np.array_equal(labels > 0, image > 0)
    columns = np.flatnonzero((labels[:, :-1] == 1).any(axis=0) & (labels[:, 1:] == 2).any(axis=0))
    assert abs(columns.mean() - 34) < 2  # they meet halfway


def test_the_first_of_equally_near_nuclei_gets_the_pixel():
    labels = separate(disc(disc(canvas(), 25, 30, 12), 45, 30, 12))
    assert set(labels[:, 34]) == set(labels[:, 35]) == {0, 1} and set(labels[:, 36]) == {0, 2}


def test_touching_nuclei_of_different_size():
    labels = separate(disc(disc(canvas(), 30, 30, 16), 53, 30, 8))
    assert labels.max() == 2
    assert np.bincount(labels.ravel())[1:].tolist() == pytest.approx([797, 197], rel=0.08)  # of the two discs


@pytest.mark.parametrize("angle", [0, 30, 90])
def test_an_ellipse_is_one_nucleus(angle):
    image = cv2.ellipse(canvas(), (45, 30), (26, 9), angle, 0, 360, 1.0, cv2.FILLED)
    assert np.array_equal(separate(image), (image > 0).astype(np.int32))


def test_a_dip_in_probability_separates_what_the_outline_does_not():
    image = rectangle(20, 40)
    assert separate(image).max() == 1
    image[10:30, 28:32] = 0.8  # above the threshold, below the levels
    assert separate(image).max() == 2
    assert separate(image, parameters=msgspec.structs.replace(DEFAULTS, levels=())).max() == 1


def test_a_pixel_at_a_level_is_inside_it():
    image = rectangle(20, 40)
    image[10:30, 28:32] = 0.75
    found = [separate(image, parameters=Separation(levels=(level,))).max() for level in (0.75, 0.76)]
    assert found == [1, 2]


def test_saddle_decides_what_is_merged():
    image = disc(disc(canvas(), 28, 30, 12), 44, 30, 12)
    found = [separate(image, parameters=Separation(saddle=saddle)).max() for saddle in (0.5, 0.8, 0.95, 1.0)]
    assert found[0] == 1 and found[-1] == 2
    assert sorted(found) == found


def test_border_between_rows_is_no_neighbourhood():
    image = canvas(40, 40)
    image[:20, 30:] = image[20:, :10] = 1
    labels = separate(image)
    assert labels[0, 39] == 1 and labels[39, 0] == 2 and labels.max() == 2


def test_pixels_that_touch_at_a_corner_are_two_nuclei():
    image = canvas(40, 40)
    image[:20, :20] = image[20:, 20:] = 1
    assert separate(image).max() == 2


def test_the_threshold_itself_is_foreground():
    image = np.where(rectangle(20, 20) > 0, np.float32(0.375), np.float32(0.25))
    assert np.count_nonzero(separate(image, threshold=0.375)) == 400
    assert not separate(image, threshold=0.376).any()
    assert not separate(image).any()
    assert separate(image, threshold=0.25).all()


@pytest.mark.parametrize(("microns_per_pixel", "pixels"), [(0.25, 64), (0.5, 16), (1.0, 4)])
def test_specks_below_four_square_microns_are_removed(microns_per_pixel, pixels):
    side = round(pixels**0.5)
    image = rectangle(side, side)
    labels = separate(image, microns_per_pixel=microns_per_pixel)
    assert np.count_nonzero(labels) == pixels
    image[10, 10] = 0
    assert not separate(image, microns_per_pixel=microns_per_pixel).any()


def test_minimum_area_is_not_rounded_down():
    image = rectangle(4, 11)  # 44 of at least 44.4 pixels
    assert not separate(image, microns_per_pixel=0.3).any()
    image[14, 10] = 1
    assert np.count_nonzero(separate(image, microns_per_pixel=0.3)) == 45


def test_a_single_pixel_can_be_a_nucleus():
    image = canvas(9, 9)
    image[4, 4] = image[0, 8] = 1
    assert separate(image, parameters=ANY_AREA).sum() == 1 + 2


def test_removed_specks_leave_no_gap_in_the_numbers():
    image = canvas()
    image[2:5, 2:5] = 1  # a speck first
    image[10:30, 50:70] = image[12:32, 10:30] = image[40:43, 60:63] = 1
    labels = separate(image)
    assert labels[10, 50] == 1 and labels[12, 10] == 2 and labels.max() == 2 and labels[2, 2] == 0


@pytest.mark.parametrize(("microns_per_pixel", "height", "width"), [(0.25, 20, 24), (0.5, 10, 12)])
def test_holes_of_thirty_square_microns_are_filled(microns_per_pixel, height, width):
    image = rectangle(40, 44)
    image[20 : 20 + height, 20 : 20 + width] = 0
    # Nothing but holes is of interest here: everything that touches is one nucleus.
    one = msgspec.structs.replace(DEFAULTS, saddle=0.0)
    found = separate(image, microns_per_pixel=microns_per_pixel, parameters=one) > 0
    assert np.array_equal(found, rectangle(40, 44) > 0)
    image[19, 20] = 0  # one pixel more
    found = separate(image, microns_per_pixel=microns_per_pixel, parameters=one) > 0
    assert np.array_equal(found, image > 0)


@pytest.mark.parametrize("side", [np.s_[0, 8], np.s_[19, 8], np.s_[8, 0], np.s_[8, 19]])
def test_a_bay_at_the_border_is_not_a_hole(side):
    image = np.ones((20, 20), np.float32)
    image[side] = 0
    assert np.array_equal(separate(image) > 0, image > 0)


@pytest.mark.parametrize("pixel", [(1, 8), (18, 8), (8, 1), (8, 18)])
def test_a_hole_beside_the_border_is_filled(pixel):
    image = np.ones((20, 20), np.float32)
    image[pixel] = 0
    assert separate(image).all()


def test_holes_that_touch_at_a_corner_are_one():
    image = np.ones((24, 24), np.float32)
    image[5:10, 5:10] = image[10:15, 10:15] = 0
    two = Separation(max_hole=49 * 0.25**2)
    assert not separate(image, parameters=two)[7, 7]
    assert separate(image, parameters=Separation(max_hole=50 * 0.25**2))[7, 7]


def test_a_scene_at_half_the_resolution_has_the_same_nuclei():
    fine = disc(disc(disc(canvas(120, 180), 50, 60, 24), 88, 60, 24), 145, 40, 16)
    coarse = fine[::2, ::2]
    at_fine, at_coarse = separate(fine, microns_per_pixel=0.125), separate(coarse, microns_per_pixel=0.25)
    assert at_fine.max() == at_coarse.max() == 3
    assert np.mean(at_fine[::2, ::2] == at_coarse) > 0.99


@pytest.mark.parametrize(("shape", "microns"), [((3, 4, 1), 0.25), ((4,), 0.25), ((4, 4), 0.0), ((4, 4), -0.25)])
def test_bad_input(shape, microns):
    with pytest.raises(ValueError, match=r"float\[H,W\] and a resolution over 0, got \("):
        separate(np.zeros(shape, np.float32), microns_per_pixel=microns)


maps = st.builds(
    noise,
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1.0, 2.0, 4.0]),
)


@QUICK
@given(maps, st.sampled_from([0.3, 0.5, 0.7]), st.sampled_from([0.2, 0.25, 0.5]), st.sampled_from([0.8, 0.95, 1.0]))
def test_same_labels_as_the_slow_way(probability, threshold, microns, saddle):
    chosen = msgspec.structs.replace(DEFAULTS, saddle=saddle, min_area=1.0, max_hole=2.0)
    labels = separate(probability, threshold=threshold, microns_per_pixel=microns, parameters=chosen)
    area = 1 / microns**2
    expected = slow_separate(probability, threshold, 2 * area, chosen.levels, 0.4 / microns, saddle, area)
    assert np.array_equal(labels, expected)


@QUICK
@given(maps)
def test_labels_are_connected_consecutive_and_cover_the_foreground(probability):
    before = probability.copy()
    labels = separate(probability, parameters=ANY_AREA)
    assert np.array_equal(probability, before)
    assert np.array_equal(labels > 0, filled(probability >= 0.5, 480))
    numbers, first = np.unique(labels[labels > 0], return_index=True)
    assert numbers.tolist() == list(range(1, len(numbers) + 1))
    assert np.all(np.diff(first) > 0)
    for number in numbers:
        where = labels == number
        start = tuple(int(i) for i in np.argwhere(where)[0])
        assert len(flood(where, start, FOUR)) == where.sum()


@QUICK
@given(maps)
def test_a_minimum_area_only_removes_nuclei(probability):
    every, large = separate(probability, parameters=ANY_AREA), separate(probability)
    areas = np.bincount(every.ravel())
    assert np.array_equal(large > 0, (every > 0) & (areas[every] >= 64))
    assert changes(every, large).gained == changes(every, large).merged == changes(every, large).split == 0


@QUICK
@given(st.integers(0, 2**32 - 1))
def test_turned_and_mirrored_images_have_the_same_nuclei(seed):
    """Up to ties, which scan order decides: a few pixels, or a merge at the limit."""
    probability = noise(seed, (96, 128), 4.0)
    labels = separate(probability)
    for turned, back in ((probability.T, lambda one: one.T), (probability[:, ::-1], lambda one: one[:, ::-1])):
        again = back(separate(np.ascontiguousarray(turned)))
        assert panoptic_quality(count_nuclei(labels, again)) > 0.9


def test_neighbourhoods_of_the_slow_way():
    assert len(EIGHT) == 8 and len(FOUR) == 4 and set(FOUR) < set(EIGHT)
