"""AJI, PQ, SQ, DQ, F1 and the changes of nuclei, counted by hand on strips of pixels, and against the slow way."""

from fractions import Fraction as F

import numpy as np
import pytest
from brute_force_nuclei import changed, counted
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from msal_deploy.metrics.nuclei import (
    NUCLEI_METRICS,
    Changes,
    NucleiCounts,
    aji,
    changes,
    count_nuclei,
    detection_quality,
    f1,
    panoptic_quality,
    pooled_nuclei,
    segmentation_quality,
)
from msal_deploy.metrics.pixels import averages

# Per patch: AJI 5/8 and 1/3, DQ 10/16 and 2/4, SQ 3/4 and 3/5, PQ 15/32 and 3/10. Pooled: counts added first.
FIRST, SECOND = NucleiCounts(30, 48, 5, 3.75, 7, 9), NucleiCounts(5, 15, 1, 0.6, 3, 1)
NOTHING = NucleiCounts(0, 0, 0, 0.0, 0, 0)


def strip(text):
    """A label map of one row: a digit is a label, a point is background."""
    return np.array([[int(character) if character != "." else 0 for character in text]], np.int32)


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        # the same; the numbers do not matter
        ("11.22", "77.55", NucleiCounts(4, 4, 2, 2.0, 2, 2)),
        # IoU 3/4 and 2/3
        ("1111.222", "111..22.", NucleiCounts(5, 7, 2, 3 / 4 + 2 / 3, 2, 2)),
        # merged: both true nuclei take the found one, and an IoU of exactly 1/2 is no match
        ("111222", "777777", NucleiCounts(6, 12, 0, 0.0, 2, 1)),
        # split in 4 and 2 of 6: IoU 4/6; the smaller piece counts as found elsewhere
        ("111111", "333344", NucleiCounts(4, 8, 1, 4 / 6, 1, 2)),
        # largest IoU (1/4), not largest overlap (3/13)
        ("1111.........", "2333333333333", NucleiCounts(1, 16, 0, 0.0, 1, 2)),
        # IoU 1/4 and 2/8: of equals, the lower label
        ("1111....", "3.555555", NucleiCounts(1, 10, 0, 0.0, 1, 2)),
        ("1111....", "5.333333", NucleiCounts(2, 9, 0, 0.0, 1, 2)),
        # not found, and found elsewhere
        ("11.22.....", "11.....333", NucleiCounts(2, 7, 1, 1.0, 2, 2)),
        ("11.22", ".....", NucleiCounts(0, 4, 0, 0.0, 2, 0)),
        (".....", "11.22", NucleiCounts(0, 4, 0, 0.0, 0, 2)),
        (".....", ".....", NOTHING),
        # no background at all
        ("1122", "1222", NucleiCounts(1 + 2, 2 + 3, 1, 2 / 3, 2, 2)),
        # found in the background only, from the first pixel on
        (".1", "1.", NucleiCounts(0, 2, 0, 0.0, 1, 1)),
    ],
)
def test_counts_by_hand(truth, found, expected):
    counts = count_nuclei(strip(truth), strip(found))
    assert counts == expected
    assert [type(value) for value in (counts.intersection, counts.union, counts.matched)] == [int] * 3


def test_labels_may_be_large_and_not_consecutive():
    truth = np.array([[2**31 - 1, 2**31 - 1, 0], [7, 0, 70000]], np.int32)
    found = np.array([[65536, 65536, 0], [2**31 - 1, 0, 3]], np.int32)
    assert count_nuclei(truth, found) == NucleiCounts(4, 4, 3, 3.0, 3, 3)
    assert changes(truth, found) == Changes(0, 0, 0, 0)


def test_label_maps_of_different_shape_are_refused():
    for function in (count_nuclei, changes):
        with pytest.raises(ValueError, match=r"same shape, got \(1, 2\) and \(1, 3\)"):
            function(strip("1."), strip("1.."))
        with pytest.raises(ValueError, match=r"same shape, got \(1, 3\) and \(1, 2\)"):
            function(strip("1.."), strip("1."))


def test_scores_by_hand():
    scores = [[float(score) for score in row] for row in zip(*BY_HAND.values(), strict=True)]
    for counts, expected in zip((FIRST, SECOND, pooled_nuclei([FIRST, SECOND])), scores, strict=True):
        assert [metric.score(counts) for metric in NUCLEI_METRICS] == pytest.approx(expected)


BY_HAND = {  # of FIRST, of SECOND, pooled: 35 of 63 pixels, 6 matches with 4.35 in all, of 10 true and 10 found
    "aji": (F(5, 8), F(1, 3), F(35, 63)),
    "pq": (F(15, 32), F(3, 10), F(87, 200)),
    "sq": (F(3, 4), F(3, 5), F(435, 600)),
    "dq": (F(5, 8), F(1, 2), F(3, 5)),
    "f1": (F(5, 8), F(1, 2), F(3, 5)),
}


def test_counts_and_changes_add_up():
    assert pooled_nuclei([FIRST, SECOND]) == FIRST + SECOND == NucleiCounts(35, 63, 6, 4.35, 10, 10)
    assert pooled_nuclei([]) == NOTHING
    assert [type(value) for value in astuple(pooled_nuclei([]))] == [int, int, int, float, int, int]
    assert Changes(1, 2, 3, 4) + Changes(10, 20, 30, 40) == Changes(11, 22, 33, 44)


def test_counts_and_changes_cannot_be_altered():
    with pytest.raises(AttributeError):
        NucleiCounts(1, 2, 3, 0.5, 4, 5).true = 0
    with pytest.raises(AttributeError):
        Changes(1, 2, 3, 4).lost = 0


@pytest.mark.parametrize("metric", NUCLEI_METRICS, ids=lambda metric: metric.name)
def test_conventions_without_nuclei(metric):
    assert metric.score(NOTHING) == 1
    assert metric.score(NucleiCounts(0, 9, 0, 0.0, 2, 0)) == 0
    assert metric.score(NucleiCounts(0, 9, 0, 0.0, 0, 2)) == 0
    assert metric.score(NucleiCounts(0, 9, 0, 0.0, 2, 2)) == 0


def test_list_of_metrics():
    assert [(one.name, one.label, one.score, one.mean_key, one.pooled_key) for one in NUCLEI_METRICS] == [
        ("aji", "AJI", aji, "aji_mean", "aji_pooled"),
        ("pq", "PQ", panoptic_quality, "pq_mean", "pq_pooled"),
        ("sq", "SQ", segmentation_quality, "sq_mean", "sq_pooled"),
        ("dq", "DQ", detection_quality, "dq_mean", "dq_pooled"),
        ("f1", "F1", f1, "f1_mean", "f1_pooled"),
    ]
    assert len({one.meaning for one in NUCLEI_METRICS}) == 5 and all(one.meaning for one in NUCLEI_METRICS)
    assert [one.page for one in NUCLEI_METRICS] == [("mean", "pooled")] * 2 + [("mean",)] * 2 + [()]
    assert [one.terminal for one in NUCLEI_METRICS] == [True, True, False, False, False]
    assert averages(aji, [FIRST, SECOND]) == {"mean": pytest.approx(23 / 48), "pooled": pytest.approx(35 / 63)}


@pytest.mark.parametrize(
    ("reference", "found", "expected"),
    [
        ("1111.22", "1111.22", (0, 0, 0, 0)),
        ("1111.22", "5555.33", (0, 0, 0, 0)),
        ("11112222", "77777777", (0, 1, 0, 0)),  # both lie in it
        ("112233..", "777777..", (0, 1, 0, 0)),  # three in one is one merged nucleus
        ("11112222", "11133444", (0, 0, 0, 1)),  # exactly half of 3 in each: it lies in neither
        ("1111.222", "1133.222", (1, 0, 0, 0)),
        ("1111.222", "1111....", (0, 0, 1, 0)),
        ("1111....", "1111.222", (0, 0, 0, 1)),
        ("1111....", "..2222..", (0, 0, 1, 1)),  # exactly half of each in the other
        ("1111....", "..222...", (0, 0, 0, 0)),  # two of three pixels lie in it
        ("111.....", ".2222222", (0, 0, 0, 0)),  # two of three pixels of the reference lie in it
        ("11111111", "22.33.44", (1, 0, 0, 0)),  # three pieces are one split nucleus
        ("11111111", "22......", (0, 0, 0, 0)),  # smaller, but found
        ("11112222..", ".777777...", (0, 1, 0, 0)),
        ("1111.2222.3333.4444.5..", "1122.7777777777.4444..9", (1, 1, 1, 1)),
        ("....", "....", (0, 0, 0, 0)),
        ("1.22", "....", (0, 0, 2, 0)),
        ("....", "1.22", (0, 0, 0, 2)),
    ],
)
def test_changes_by_hand(reference, found, expected):
    reference, found = strip(reference), strip(found)
    assert changes(reference, found) == Changes(*expected)
    split, merged, lost, gained = expected
    assert changes(found, reference) == Changes(merged, split, gained, lost)


def test_an_outline_moved_by_a_pixel_is_no_change():
    rows, columns = np.mgrid[:40, :40]
    distance = np.hypot(rows % 20 - 9.5, columns % 20 - 9.5)
    number = (rows // 20 * 2 + columns // 20 + 1).astype(np.int32)
    reference = np.where(distance < 7, number, 0)
    for found in (np.where(distance < 6, number, 0), np.where(distance < 8, number, 0), np.roll(reference, 1, axis=1)):
        assert not np.array_equal(reference, found)
        assert changes(reference, found) == Changes(0, 0, 0, 0)


@st.composite
def label_maps(draw):
    """Two label maps of the same shape with few or many labels, not consecutive, and with runs over the row's end."""
    shape = draw(st.tuples(st.integers(1, 7), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return tuple(
        np.sort(rng.integers(0, draw(st.integers(1, 8)), shape), axis=draw(st.sampled_from([0, 1]))).astype(np.int32)
        * 3
        for _ in range(2)
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(label_maps())
def test_random_maps_against_the_slow_way(maps):
    counts = count_nuclei(*maps)
    intersection, union, matched, matched_iou = counted(*maps)
    assert (counts.intersection, counts.union, counts.matched) == (intersection, union, matched)
    assert counts.matched_iou == pytest.approx(float(matched_iou), abs=1e-12)
    assert (counts.true, counts.found) == tuple(np.count_nonzero(np.unique(one)) for one in maps)
    found = changes(*maps)
    assert (found.split, found.merged, found.lost, found.gained) == changed(*maps)
    assert all(0 <= metric.score(counts) <= 1 for metric in NUCLEI_METRICS)
    assert panoptic_quality(counts) == pytest.approx(detection_quality(counts) * segmentation_quality(counts))
