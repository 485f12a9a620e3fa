"""The arithmetic of rounding errors, against values computed by hand."""

import math

import numpy as np
import pytest

from msal_deploy.validate.bisect.rounding import Affine, added, combined, relative_rms, round_to_half

SIGNED = Affine(scale=0.5, zero=0, low=-128, high=127)
UNSIGNED = Affine(scale=0.5, zero=10, low=0, high=255)


def test_signed_rounding_is_to_the_nearest_step_with_ties_to_even():
    values = np.array([0.24, 0.26, 0.25, 0.75, -0.75, 1.0])
    np.testing.assert_array_equal(SIGNED.round(values), [0.0, 0.5, 0.0, 1.0, -1.0, 1.0])


def test_signed_rounding_clips_at_both_ends():
    np.testing.assert_array_equal(SIGNED.round(np.array([63.5, 64.0, 1e6, -64.0, -65.0])), [63.5, 63.5, 63.5, -64, -64])


def test_unsigned_rounding_shifts_by_the_zero_point():
    np.testing.assert_array_equal(UNSIGNED.round(np.array([-5.0, -6.0, 122.5, 123.0])), [-5.0, -5.0, 122.5, 122.5])


@pytest.mark.parametrize(
    ("affine", "values", "expected"),
    [
        (SIGNED, [-1.0, 63.5], 1.0),
        (SIGNED, [-1.0, 254.0], 0.25),
        (SIGNED, [-64.0, 1.0], 1.0),
        (SIGNED, [-256.0, 1.0], 0.25),
        (UNSIGNED, [0.0, 122.5], 1.0),
        (UNSIGNED, [-10.0, 122.5], 0.5),
        (Affine(0.5, 0, 0, 255), [-10.0, 510.0], 0.25),  # nothing below 0 is represented: Relu clips it
        (Affine(0.5, 255, 0, 255), [-127.5, 10.0], 1.0),
    ],
)
def test_scale_ratio_is_relative_to_the_smallest_scale_that_clips_nothing(affine, values, expected):
    assert affine.scale_ratio(np.array(values)) == pytest.approx(expected, rel=1e-12)


def test_scale_ratio_of_zeros_is_infinite():
    assert SIGNED.scale_ratio(np.zeros(3)) == math.inf
    assert Affine(0.5, 0, 0, 255).scale_ratio(np.array([-1.0, 0.0])) == math.inf
    assert Affine(0.5, 0, 0, 255).scale_ratio(np.array([-2.0, -1.0])) == math.inf


def test_a_scale_ratio_below_one_is_not_infinite():
    assert SIGNED.scale_ratio(np.array([1e-3, 1e-3])) == pytest.approx(0.5 * 127 / 1e-3)


def test_affine_is_a_value():
    with pytest.raises(AttributeError):
        SIGNED.scale = 1.0  # type: ignore[misc]


def test_half_keeps_the_type_and_overflows():
    rounded = round_to_half(np.array([65504.0, 65520.0, -7e4, 1 + 2**-12], np.float32))
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded, [65504, np.inf, -np.inf, 1])


def test_relative_rms():
    assert relative_rms(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)
    assert relative_rms(np.array([0.0, 0.0]), np.array([3.0, 4.0])) == 1.0
    assert relative_rms(np.array([3.0, 4.0]), np.array([3.0, 4.0])) == 0.0


def test_relative_rms_of_what_does_not_fit_is_infinite():
    assert relative_rms(np.array([np.inf, 1.0]), np.array([1.0, 1.0])) == math.inf
    assert relative_rms(np.array([np.nan, 1.0]), np.array([1.0, 1.0])) == math.inf
    assert relative_rms(np.array([1e-9]), np.array([0.0])) == math.inf
    assert relative_rms(np.array([0.0]), np.array([0.0])) == 0.0


def test_relative_rms_of_large_float32_values_does_not_overflow():
    assert relative_rms(np.array([2e30], np.float32), np.array([1e30], np.float32)) == pytest.approx(1.0)


def test_combined():
    assert combined([0.3, 0.4]) == pytest.approx(0.5)
    assert combined([]) == 0.0
    assert combined([0.3, math.inf]) == math.inf


def test_added():
    assert added(0.5, [0.3, 0.1]) == pytest.approx(0.4)
    assert added(0.5, []) == 0.5
    assert added(0.3, [0.3]) == 0.0
    assert added(0.1, [0.3]) == 0.0


def test_an_overflow_is_added_where_it_arises():
    assert added(math.inf, [0.3]) == math.inf
    assert added(math.inf, [0.3, math.inf]) == 0.0
    assert added(0.5, [math.inf]) == 0.0


def test_what_does_not_fit_is_no_numerical_error():
    with np.errstate(all="raise"):
        assert np.isinf(round_to_half(np.array([7e4])))
        assert relative_rms(np.array([np.inf]), np.array([np.inf])) == math.inf
        assert relative_rms(np.array([1e200]), np.array([1.0])) == math.inf


def test_small_numbers_are_not_rounded_away():
    assert relative_rms(np.array([0.3]), np.array([0.1])) == pytest.approx(2.0)
    assert added(0.05, [0.03]) == pytest.approx(0.04)
