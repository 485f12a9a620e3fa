"""Where an engine differs from the reference, every number worked out by hand."""

import math

import numpy as np
import pytest
from pytest import approx

from msal_deploy.data import Patch
from msal_deploy.validate.differences import (
    CalibrationBin,
    Differences,
    DistanceBin,
    boundary_distance,
    differences,
)

THRESHOLD = 0.5


def patch_of(labels, instances=True, padded=0):
    """A patch whose image has `padded` more rows and columns than the labels."""
    labels = np.atleast_2d(np.asarray(labels, np.int32))
    image = np.zeros((labels.shape[0] + padded, labels.shape[1] + padded, 3), np.uint8)
    return Patch("a", "whole", image, labels > 0, labels if instances else None)


def maps(*rows):
    return [np.atleast_2d(np.float32(row)) for row in rows]


def compare(labels, probability, expected, microns=0.25, **kwargs):
    return differences([patch_of(labels, **kwargs)], maps(probability), maps(expected), THRESHOLD, microns)


def counts(found):
    return [(one.pixels, one.flipped) for one in found.flips_by_distance]


def test_distances_to_the_boundary_in_a_row():
    assert boundary_distance(np.int32([[0, 0, 0, 1, 1, 2, 2, 2, 2, 0]])).tolist() == [
        [2.5, 1.5, 0.5, 0.5, 0.5, 0.5, 1.5, 1.5, 0.5, 0.5]
    ]


def test_distances_to_the_boundary_in_a_column():
    assert boundary_distance(np.int32([[0], [0], [3], [3], [3]])).tolist() == [[1.5], [0.5], [0.5], [1.5], [2.5]]


def test_distances_are_euclidean():
    labels = np.zeros((4, 4), np.int32)
    labels[0, 0] = 1
    # the nearest zero of the distance transform: the nucleus and its two neighbours at (0, 1) and (1, 0)
    assert boundary_distance(labels)[3, 3] == approx(math.hypot(2, 3) + 0.5, abs=1e-6)
    assert boundary_distance(labels)[1, 1] == approx(1.5)


def test_without_a_boundary_every_distance_is_infinite():
    for labels in (np.zeros((2, 3), np.int32), np.ones((2, 3), bool)):
        assert np.isinf(boundary_distance(labels)).all()
        assert boundary_distance(labels).shape == (2, 3)
        assert boundary_distance(labels).dtype == np.float32


def test_flips_by_distance_at_a_straight_boundary():
    """20 px of background and 3 of a nucleus, at 0.25 µm: pixel k of a side is (k + 0.5) / 4 µm from the boundary."""
    labels = [0] * 20 + [1] * 3
    expected = np.array(labels, np.float32)
    probability = expected.copy()
    probability[[0, 11, 12, 13, 16, 19, 20, 22]] = 1 - probability[[0, 11, 12, 13, 16, 19, 20, 22]]
    # k of the background is 19 − index: pixels 0 (k 19: 4.9 µm), 11 (8: 2.1), 12 (7: 1.9), 13 (6), 16 (3: 0.9), 19 (0);
    # of the nucleus index − 20: pixels 20 (0: 0.1) and 22 (2: 0.6)
    found = compare(labels, probability, expected)
    assert found.flips_by_distance == (
        DistanceBin(0.0, 0.5, 4, 2),  # k 0 and 1 on both sides
        DistanceBin(0.5, 1.0, 3, 2),  # k 2 and 3, and k 2 of the nucleus
        DistanceBin(1.0, 2.0, 4, 2),  # k 4 to 7
        DistanceBin(2.0, 4.0, 8, 1),  # k 8 to 15
        DistanceBin(4.0, math.inf, 4, 1),  # k 16 to 19
    )
    assert [one.share for one in found.flips_by_distance] == [2 / 4, 2 / 3, 2 / 4, 1 / 8, 1 / 4]


def test_a_bin_includes_its_start_and_not_its_end():
    """At 1 µm the distances are 0.5, 1.5, 2.5, 3.5, 4.5: the first is not in the bin from 0 to 0.5."""
    labels = [0] * 5 + [1]
    found = compare(labels, np.zeros(6), np.zeros(6), microns=1.0)
    assert counts(found) == [(0, 0), (2, 0), (1, 0), (2, 0), (1, 0)]
    assert found.flips_by_distance[0].share is None


def test_components_of_the_mask_stand_in_for_unknown_nuclei():
    labels, zeros = [0, 1, 1, 2, 2, 2, 2, 2], np.zeros(8)
    assert counts(compare(labels, zeros, zeros, microns=1 / 3))[0] == (4, 0)
    assert counts(compare(labels, zeros, zeros, microns=1 / 3, instances=False))[0] == (2, 0)


def test_a_patch_without_nuclei_is_far_from_every_boundary():
    found = compare([0, 0, 0], [1, 0, 0], [0, 0, 0])
    assert counts(found) == [(0, 0)] * 4 + [(3, 1)]


def test_a_pixel_at_the_threshold_is_a_nucleus():
    assert sum(flipped for _, flipped in counts(compare([0, 1], [0.5, 0.49], [0.5, 0.5]))) == 1


def test_several_patches_of_several_sizes_and_their_padding():
    patches = [patch_of([0, 1], padded=3), patch_of([[0, 0, 1], [0, 0, 1]])]
    found = np.ones((4, 5), np.float32)
    found[0, :2] = (0.25, 1.0)
    probability = [found, np.zeros((2, 3), np.float32)]
    expected = [np.zeros((4, 5), np.float32), np.float32([[0, 0, 0.5], [0, 0, 0]])]
    result = differences(patches, probability, expected, THRESHOLD, 0.25)
    assert counts(result) == [(8, 2), (0, 0), (0, 0), (0, 0), (0, 0)]
    # |Δp| of the 8 scored pixels, sorted: 0 five times, 0.25, 0.5, 1
    assert dict(result.quantiles) == {0.5: 0.0, 0.9: 1.0, 0.99: 1.0, 0.999: 1.0, 1.0: 1.0}
    assert sum(one.pixels for one in result.calibration) == 8


def test_lists_of_another_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        differences([patch_of([0, 1])], maps([0, 1], [0, 1]), maps([0, 1]), THRESHOLD, 0.25)


def test_quantiles_of_a_thousand_differences():
    """|Δp| of k/1024 for k from 1 to 1000, in any order: the share q is reached at k = 1000 q."""
    deltas = np.random.default_rng(0).permutation(np.arange(1, 1001)) / 1024
    found = compare(np.zeros(1000), np.zeros(1000), deltas)
    assert found.quantiles == tuple(
        (q, k / 1024) for q, k in ((0.5, 500), (0.9, 900), (0.99, 990), (0.999, 999), (1.0, 1000))
    )


def test_a_quantile_is_a_difference_that_occurs():
    assert dict(compare([0] * 3, [0.0, 0.25, 1.0], [0, 0, 0]).quantiles)[0.5] == 0.25  # 1.5 of 3 pixels: the second
    assert dict(compare([0] * 4, [0.0, 0.25, 0.5, 1.0], [0] * 4).quantiles)[0.5] == 0.25  # 2 of 4: the second
    assert dict(compare([0], [0.75], [0.5]).quantiles) == dict.fromkeys((0.5, 0.9, 0.99, 0.999, 1.0), 0.25)


@pytest.mark.parametrize("spread", [1e-7, 1e-3, 1.0])
def test_quantiles_agree_with_numpy(spread):
    rng = np.random.default_rng(1)
    a, b = (rng.normal(0, spread, (3, 40, 50)).astype(np.float32) for _ in range(2))
    found = differences([patch_of(np.zeros((40, 50)))] * 3, a, b, THRESHOLD, 0.25)
    for share, delta in found.quantiles:
        assert delta == np.quantile(np.abs(a - b), share, method="inverted_cdf")


def test_quantiles_of_numbers_with_the_same_upper_bits():
    """1 + k/2²³ for k from 0 to 9 share their upper 16 bits."""
    deltas = 1 + np.arange(10) / 2**23
    assert dict(compare([0] * 10, deltas, [0] * 10).quantiles) == {
        0.5: deltas[4], 0.9: deltas[8], 0.99: deltas[9], 0.999: deltas[9], 1.0: deltas[9]
    }  # fmt: skip


def test_nan_is_the_largest_difference_and_null_in_the_json():
    found = compare([0] * 4, [0, 0.25, 0.5, math.nan], [0] * 4)
    assert found.quantiles[0] == (0.5, 0.25)
    assert math.isnan(found.quantiles[-1][1])
    assert found.to_json()["quantiles"][-1] == {"share": 1.0, "delta": None}
    assert sum(one.pixels for one in found.calibration) == 3


def test_the_calibration_curve():
    truth = [1, 0, 0, 1, 1, 1, 0, 1, 1]
    p = [0.0, 0.0625, 0.125, 0.5, 0.5625, 0.9375, 1.0, 1.5, -0.5]
    bins = compare(truth, p, np.zeros(9)).calibration
    assert len(bins) == 10
    assert [(one.low, one.high) for one in bins] == [(k / 10, (k + 1) / 10) for k in range(10)]
    assert bins[0] == CalibrationBin(0.0, 0.1, 3, approx((0 + 0.0625 - 0.5) / 3), approx(2 / 3))
    assert bins[1] == CalibrationBin(0.1, 0.2, 1, 0.125, 0.0)
    assert bins[5] == CalibrationBin(0.5, 0.6, 2, approx(0.53125), 1.0)
    assert bins[9] == CalibrationBin(0.9, 1.0, 3, approx((0.9375 + 1 + 1.5) / 3), approx(2 / 3))
    assert [one.pixels for one in bins] == [3, 1, 0, 0, 0, 2, 0, 0, 0, 3]
    assert (bins[2].predicted, bins[2].observed) == (None, None)


def test_the_expected_calibration_error():
    """Bin 1: 2 pixels of 0.125, one of them nucleus: 0.375 apart. Bin 7: 4 of 0.75, one nucleus: 0.5 apart."""
    found = compare([1, 0, 1, 0, 0, 0], [0.125] * 2 + [0.75] * 4, np.zeros(6))
    assert found.expected_calibration_error == approx((2 * 0.375 + 4 * 0.5) / 6)
    assert found.to_json()["expected_calibration_error"] == approx(2.75 / 6)


def test_nothing_to_compare():
    found = differences([], [], [], THRESHOLD, 0.25)
    assert counts(found) == [(0, 0)] * 5
    assert found.expected_calibration_error is None
    assert [one["delta"] for one in found.to_json()["quantiles"]] == [None] * 5
    assert [share for share, _ in found.quantiles] == [0.5, 0.9, 0.99, 0.999, 1.0]


def test_the_json():
    found = Differences(
        (DistanceBin(2.0, 4.0, 8, 2), DistanceBin(4.0, math.inf, 0, 0)),
        ((0.5, 0.25),),
        (CalibrationBin(0.0, 0.1, 2, 0.05, 0.5),),
    )
    assert found.to_json() == {
        "flips_by_distance": [
            {"from_um": 2.0, "to_um": 4.0, "pixels": 8, "flipped": 2, "share": 0.25},
            {"from_um": 4.0, "to_um": None, "pixels": 0, "flipped": 0, "share": None},
        ],
        "quantiles": [{"share": 0.5, "delta": 0.25}],
        "calibration": [{"from": 0.0, "to": 0.1, "pixels": 2, "predicted": 0.05, "observed": 0.5}],
        "expected_calibration_error": approx(0.45),
    }


@pytest.mark.parametrize(
    "result", [compare([0, 1], [0, 1], [0, 1]), DistanceBin(0.0, 0.5, 1, 0), CalibrationBin(0.0, 0.1, 0, None, None)]
)
def test_results_do_not_change(result):
    with pytest.raises(AttributeError, match="immutable"):
        setattr(result, result.__struct_fields__[0], None)
