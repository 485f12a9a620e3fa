"""Metrics against scikit-learn, and their identities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from msal_deploy.metrics import (
    METRICS,
    Confusion,
    averages,
    confusion,
    dice,
    iou,
    pooled,
    precision,
    recall,
    signed,
)

THEIRS = {dice: f1_score, iou: jaccard_score, precision: precision_score, recall: recall_score}


@st.composite
def mask_pairs(draw):
    """Two masks of the same shape, including empty and full masks."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return tuple(rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])) for _ in range(2))


@settings(max_examples=60, deadline=None)
@given(mask_pairs())
def test_metrics_match_scikit_learn(masks):
    truth, prediction = masks
    if not truth.any() and not prediction.any():
        return  # our own convention, see test_metrics_of_empty_masks
    counts = confusion(truth, prediction)
    for ours, score in THEIRS.items():
        expected = score(truth.ravel(), prediction.ravel(), zero_division=0)
        assert ours(counts) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(mask_pairs())
def test_metrics_satisfy_their_identities(masks):
    truth, prediction = masks
    counts, swapped = confusion(truth, prediction), confusion(prediction, truth)
    assert dice(counts) == dice(swapped)
    assert iou(counts) == iou(swapped)
    assert precision(counts) == recall(swapped)
    assert dice(counts) == pytest.approx(2 * iou(counts) / (1 + iou(counts)))
    assert all(0 <= score(counts) <= 1 for score in THEIRS)
    assert 0 <= iou(counts) <= dice(counts)


@settings(max_examples=30, deadline=None)
@given(mask_pairs())
def test_confusion_is_invariant_to_flips(masks):
    truth, prediction = masks
    expected = confusion(truth, prediction)
    assert confusion(truth[::-1], prediction[::-1]) == expected
    assert confusion(truth[:, ::-1], prediction[:, ::-1]) == expected
    assert confusion(truth.T, prediction.T) == expected


@pytest.mark.parametrize("score", THEIRS)
def test_metrics_of_empty_masks(score):
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert score(confusion(empty, empty)) == 1
    assert score(confusion(full, empty)) == 0
    assert score(confusion(empty, full)) == 0
    assert score(confusion(full, full)) == 1


def test_pooled_dice_weights_patches_by_their_pixels():
    small, large = Confusion(tp=1, fp=1, fn=0), Confusion(tp=90, fp=0, fn=0)
    assert pooled([small, large]) == Confusion(91, 1, 0)
    assert dice(pooled([small, large])) == pytest.approx(182 / 183)
    assert dice(pooled([small, large])) > (dice(small) + dice(large)) / 2


def test_averages_are_the_mean_over_patches_and_the_pooled_score():
    patches = [Confusion(tp=6, fp=2, fn=4), Confusion(tp=0, fp=1, fn=1)]
    assert averages(iou, patches) == {"mean": 0.25, "pooled": pytest.approx(6 / 14)}


def test_metrics_have_distinct_names_and_json_keys():
    assert [metric.score for metric in METRICS] == [dice, iou, precision, recall]
    assert {(metric.mean_key, metric.pooled_key) for metric in METRICS} == {
        ("pixel_dice_mean", "pixel_dice_pooled"),
        ("pixel_iou_mean", "pixel_iou_pooled"),
        ("precision", "precision_pooled"),
        ("recall", "recall_pooled"),
    }
    assert len({metric.name for metric in METRICS}) == len({metric.label for metric in METRICS}) == len(METRICS)


def test_confusion_rejects_masks_of_different_shapes():
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        confusion(np.zeros((2, 2), bool), np.zeros((1, 2), bool))


def test_metrics_are_immutable():
    for frozen, name in ((Confusion(1, 2, 3), "tp"), (METRICS[0], "name")):
        with pytest.raises(AttributeError):
            setattr(frozen, name, 4)


def test_names_of_the_metrics_in_files_and_tables():
    names = [(one.name, one.label, one.score, one.mean_key, one.pooled_key, one.page, one.terminal) for one in METRICS]
    both = ("mean", "pooled")
    assert names == [
        ("pixel_dice", "Dice", dice, "pixel_dice_mean", "pixel_dice_pooled", both, True),
        ("pixel_iou", "IoU", iou, "pixel_iou_mean", "pixel_iou_pooled", both, True),
        ("precision", "precision", precision, "precision", "precision_pooled", ("mean",), False),
        ("recall", "recall", recall, "recall", "recall_pooled", ("mean",), False),
    ]
    assert all(len(one.meaning.split()) > 3 for one in METRICS)
    assert [(one.key("mean"), one.key("pooled")) for one in METRICS] == [row[3:5] for row in names]


@pytest.mark.parametrize(("truth", "prediction"), [((2, 2), (1, 2)), ((1, 2), (2, 2)), ((2, 2), (2, 1))])
def test_masks_must_not_be_stretched_to_each_other(truth, prediction):
    with pytest.raises(ValueError):
        confusion(np.zeros(truth, bool), np.zeros(prediction, bool))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.00123, "+0.0012"), (-0.002, "-0.0020"), (-3.14e-6, "-3.1e-06"), (5e-5, "+0.0001")],
)
def test_signed(value, text):
    assert signed(value) == text
