"""The bounds of a mean over images and the verdict: worked out by hand, and against another implementation."""

from fractions import Fraction as F
from math import isfinite, nan, sqrt
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from msal_deploy.errors import BadInput
from msal_deploy.metrics import (
    CONFIDENCE,
    MIN_IMAGES,
    Interval,
    clustered_interval,
    excludable_share,
    images_to_decide,
    verdict,
)
from msal_deploy.metrics.bound import MAX_IMAGES, SKEWNESS_FACTOR

# Of Student's t at 95%, one-sided, by degrees of freedom: from a printed table.
T = {1: 6.313752, 3: 2.353363, 4: 2.131847, 11: 1.795885, 12: 1.782288, 13: 1.770933}


def interval(images, **options):
    """Return the interval of images, each a list of its patches' deltas."""
    names = [f"image {k}" for k, image in enumerate(images) for _ in image]
    return clustered_interval([delta for image in images for delta in image], names, **options)


def by_definition(images, confidence=0.95):
    """The same in plain Python, an image at a time."""
    deltas = [delta for image in images for delta in image]
    mean, weights = fmean(deltas), [len(image) / len(deltas) for image in images]
    squares = sum(weight**2 for weight in weights)
    parts = [weight * (fmean(image) - mean) for weight, image in zip(weights, images, strict=True)]
    expected = [(1 - weight) ** 2 + squares - weight**2 for weight in weights]
    error = sqrt(sum(part**2 / one for part, one in zip(parts, expected, strict=True)))
    images_as_informative = max(2, 1 / squares)
    skewness = stats.skew(parts, bias=False) if len(images) > 2 else 0
    q = stats.t.ppf(confidence, images_as_informative - 1)
    further = 2.5 * skewness / sqrt(images_as_informative) * (1 + 2 * q**2) / 6
    return Interval(mean, mean - error * (q + max(0, -further)), mean + error * (q + max(0, further)))


def approx(expected, **tolerance):
    return pytest.approx((expected.mean, expected.lower, expected.upper), **tolerance)


def values(one):
    return (one.mean, one.lower, one.upper)


# --- the bounds ------------------------------------------------------------------------------------------------------


def test_two_images():
    """Deviation √2, standard error 1, one degree of freedom."""
    assert values(interval([[-1], [1]])) == pytest.approx((0, -T[1], T[1]), rel=1e-6)


def test_without_skewness_it_is_students_t():
    """Deviation √(10/4), standard error √(1/2), four degrees of freedom."""
    reach = T[4] / sqrt(2)
    assert values(interval([[1], [2], [3], [4], [5]])) == pytest.approx((3, 3 - reach, 3 + reach), rel=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_bound_on_the_side_of_the_long_tail_is_further_away(sign):
    """0, 0, 0, 4: mean 1, deviation 2, standard error 1, moments 3 and 6, skewness 6/3^1.5 · √12/2 = 2; by √4, 1."""
    further = 2.5 * (1 + 2 * T[3] ** 2) / 6
    mean, near, far = sign * 1, sign * (1 - T[3]), sign * (1 + T[3] + further)
    expected = (mean, min(near, far), max(near, far))
    assert values(interval([[0], [0], [0], [sign * 4]])) == pytest.approx(expected, rel=1e-6)
    assert far == pytest.approx(sign * 8.385297, rel=1e-6)


def test_an_image_with_more_patches_weighs_more():
    """Shares 2/3 and 1/3, mean 1, parts −2/3 and 2/3 with 2/9 and 8/9 of x's variance: (4/9)/(2/9) + (4/9)/(8/9)."""
    reach = T[1] * sqrt(2.5)  # 9/5 images' worth, but at least a degree of freedom
    assert values(interval([[0, 0], [3]])) == pytest.approx((1, 1 - reach, 1 + reach), rel=1e-6)


def test_three_images_with_different_numbers_of_patches():
    """Shares 1/2, 1/4, 1/4 are worth 8/3 images; parts 1/2, 1/4, −3/4; moments 7/24 and −3/32; variance 2/3 + 5/7."""
    error, q = sqrt(F(29, 21)), stats.t.ppf(0.95, 5 / 3)
    skewness = float(F(-3, 32)) / float(F(7, 24)) ** 1.5 * sqrt(6)
    further = -2.5 * skewness / sqrt(8 / 3) * (1 + 2 * q**2) / 6
    expected = (0, -error * (q + further), error * q)
    assert values(interval([[0.5, 1.5], [1], [-3]])) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@st.composite
def image_sets(draw):
    """From 2 to 20 images of 1 to 6 patches."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [list(rng.exponential(size=1) + rng.normal(size=size)) for size in sizes]


@settings(max_examples=80, deadline=None)
@given(image_sets(), st.sampled_from([0.6, 0.9, 0.95, 0.99]))
def test_it_is_the_definition_an_image_at_a_time(images, confidence):
    assert values(interval(images, confidence=confidence)) == approx(by_definition(images, confidence), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(image_sets(), st.floats(-10, 10), st.floats(0.001, 1000))
def test_the_interval_moves_and_grows_with_the_deltas(images, shift, scale):
    expected = [scale * value + shift for value in values(interval(images))]
    changed = [[scale * delta + shift for delta in image] for image in images]
    assert values(interval(changed)) == pytest.approx(expected, rel=1e-9, abs=1e-9 * (1 + scale))


@settings(max_examples=60, deadline=None)
@given(image_sets())
def test_opposite_deltas_have_the_opposite_interval(images):
    mean, lower, upper = values(interval(images))
    assert lower < mean < upper
    opposite = interval([[-delta for delta in image] for image in images])
    assert values(opposite) == pytest.approx((-mean, -upper, -lower), rel=1e-12, abs=1e-15)


@settings(max_examples=30, deadline=None)
@given(image_sets(), st.randoms())
def test_the_order_of_patches_and_the_names_of_images_do_not_matter(images, random):
    expected = interval(images)
    shuffled = [random.sample(image, len(image)) for image in random.sample(images, len(images))]
    assert values(interval(shuffled)) == approx(expected, rel=1e-9, abs=1e-12)
    patches = [(delta, f"{7 * k % 23}.tif") for k, image in enumerate(images) for delta in image]
    random.shuffle(patches)
    deltas, names = zip(*patches, strict=True)
    assert values(clustered_interval(deltas, names)) == approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(image_sets(), st.integers(2, 4))
def test_more_patches_of_the_same_images_are_no_more_evidence(images, times):
    assert values(interval([image * times for image in images])) == approx(interval(images), rel=1e-9, abs=1e-12)


def test_the_patches_of_an_image_are_not_independent():
    """As if each patch were an image, the interval would be narrower."""
    rng = np.random.default_rng(0)
    deltas = np.repeat(rng.normal(size=14), 4) + 0.5 * rng.normal(size=56)
    clustered = interval(deltas.reshape(14, 4))
    assert clustered.lower < interval(deltas.reshape(56, 1)).lower
    assert values(clustered) == approx(by_definition(deltas.reshape(14, 4)), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, -0.25, 0.1, -0.002, 1 / 3])
@pytest.mark.parametrize("sizes", [(4,) * 14, (1, 1), (3, 1, 2), (7, 7, 7, 7, 7)])
def test_without_a_spread_the_interval_is_the_value_itself(value, sizes):
    assert interval([[value] * size for size in sizes]) == Interval(value, value, value)


def test_images_with_the_same_mean_have_no_spread():
    assert interval([[-0.5, 0.5], [0.25, -0.25], [0.0, 0.0]]) == Interval(0, 0, 0)


def test_one_of_many_images_differs():
    """A studentized bootstrap has no finite bound here: a third of its resamples have no spread."""
    one = interval([[0.0] * 4] * 13 + [[-1e-5] * 4])
    assert all(map(isfinite, values(one)))
    assert -1e-5 < one.lower < one.mean < one.upper < 1e-6
    assert verdict(one, 0.002, 14) == "within"


@pytest.mark.parametrize("images", [2, 3, 4])
def test_few_images_have_a_wide_interval(images):
    rng = np.random.default_rng(images)
    drawn = rng.normal(size=(images, 4))
    one = interval(drawn)
    assert all(map(isfinite, values(one)))
    assert one.upper - one.lower > 4 * drawn.mean(1).std(ddof=1) / sqrt(images)


def test_an_image_with_nearly_all_patches_decides_nothing():
    rng = np.random.default_rng(1)
    drawn = [list(rng.normal(size=10_000)), *([value] for value in rng.normal(size=5))]
    one = interval(drawn)
    assert all(map(isfinite, values(one)))
    assert one.upper - one.lower > 1


def test_it_is_the_same_each_time_and_grows_with_the_confidence():
    images = np.random.default_rng(2).normal(size=(14, 4))
    assert interval(images) == interval(images) == interval(images, confidence=0.95)
    assert CONFIDENCE == 0.95
    wider = interval(images, confidence=0.99)
    assert wider.lower < interval(images).lower and wider.upper > interval(images).upper


def test_integers_and_tuples_are_deltas_too():
    assert clustered_interval((0, 0, 0, 4), ("a", "b", "c", "d")) == interval([[0.0], [0.0], [0.0], [4.0]])


@pytest.mark.parametrize(("deltas", "names"), [([0.1, 0.2], ["a", "a"]), ([0.1], ["a"]), ([], [])])
def test_bounds_need_two_images(deltas, names):
    for function in (clustered_interval, lambda *given: images_to_decide(*given, 0.002)):
        with pytest.raises(BadInput, match="at least two images") as caught:
            function(deltas, names)
        assert "at least two images" in caught.value.cause and caught.value.remedy == "add images"


def test_an_interval_cannot_be_changed():
    with pytest.raises(AttributeError):
        interval([[0], [1]]).lower = 0


# --- the verdict -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lower", "upper", "images", "expected"),
    [
        (-0.001, 0.001, 14, "within"),
        (-0.002, -0.001, 14, "within"),  # exactly the budget is not over it
        (-0.0021, -0.001, 14, "undecided"),
        (-0.003, -0.002, 14, "undecided"),
        (-0.003, -0.0021, 14, "over"),
        (-0.001, 0.001, 5, "within"),
        (-0.003, -0.0021, 5, "over"),
        (-0.001, 0.001, 4, "undecided"),
        (-0.003, -0.0021, 4, "undecided"),
        (0.0, 0.0, 2, "undecided"),
        (nan, nan, 14, "undecided"),
    ],
)
def test_verdicts(lower, upper, images, expected):
    assert verdict(Interval((lower + upper) / 2, lower, upper), 0.002, images) == expected


def test_five_images_are_needed():
    assert MIN_IMAGES == 5


# --- how many images would decide ------------------------------------------------------------------------------------

SPREAD = (-0.001, 0.001, 0.0, 0.001, -0.001)  # deviation 0.001, no skewness


def needed(deltas, budget=0.002, names="abcdefghijklmn"):
    return images_to_decide(deltas, list(names[: len(deltas)]), budget)


@pytest.mark.parametrize("mean", [-0.0015, -0.0025])
def test_the_number_of_images_that_would_decide(mean):
    """The mean is 0.0005 from the budget: t/√n must be at most 0.5, which 13 images reach and 12 do not."""
    assert T[12] / sqrt(13) < 0.5 < T[11] / sqrt(12)
    assert needed([mean + delta for delta in SPREAD]) == 13


def test_at_that_number_the_bound_is_clear_of_the_budget_and_before_it_is_not():
    deltas = np.array([0, 0, 0, -0.004, -0.001, 0.0005, -0.002])
    images, deviation = needed(deltas), deltas.std(ddof=1)
    skewness = stats.skew(deltas, bias=False)
    assert skewness < -0.5 and images > 7
    for count, clear in ((images - 1, False), (images, True)):
        q = stats.t.ppf(0.95, count - 1)
        reach = q - SKEWNESS_FACTOR * skewness / sqrt(count) * (1 + 2 * q**2) / 6
        assert bool(deltas.mean() - reach * deviation / sqrt(count) >= -0.002) is clear


def test_at_the_present_number_of_images_it_agrees_with_the_verdict():
    rng = np.random.default_rng(4)
    found = set()
    for _ in range(40):
        deltas, sizes = rng.normal(size=42), rng.integers(1, 6, 14)
        names = np.repeat([f"{k}" for k in range(14)], sizes)
        deltas, budget = rng.normal(-rng.choice([0, 0.4, 1.2]), 1, len(names)), 0.6
        told = verdict(clustered_interval(deltas, names), budget, 14)
        count = images_to_decide(deltas, names, budget)
        assert (count is not None and count <= 14) == (told != "undecided")
        found.add(told)
    assert found == {"within", "over", "undecided"}


def test_images_with_unequal_numbers_of_patches_are_worth_less():
    equal, names = [-0.0015 + delta for delta in SPREAD for _ in range(2)], [name for name in "abcde" for _ in range(2)]
    assert images_to_decide(equal, names, 0.002) == 13
    # Without the second patch of the middle image, shares are 2/9 and 1/9: worth 81/17 = 4.76 images of five.
    unequal, names = equal[:4] + equal[5:], names[:4] + names[5:]
    parts = [2 / 9 * delta for delta in SPREAD if delta]  # the middle image is at the mean
    squares = 4 * (2 / 9) ** 2 + (1 / 9) ** 2
    deviation = sqrt(sum(part**2 for part in parts) / (1 - 4 / 9 + squares) / squares)
    worth = 81 / 17 / 5
    reached = [stats.t.ppf(0.95, n * worth - 1) * deviation / sqrt(n * worth) <= 0.0005 for n in range(5, 40)]
    assert images_to_decide(unequal, names, 0.002) == 5 + reached.index(True) == 16


def test_no_spread_decides_at_once():
    assert needed([0.0] * 3) == needed([-0.002] * 3) == needed([-0.5] * 7) == 5


def test_a_small_spread_needs_the_fewest_images():
    assert needed([delta / 100 for delta in SPREAD]) == needed([delta / 100 for delta in SPREAD[:3]]) == 5


def test_a_mean_at_the_budget_is_never_decided():
    assert needed([delta - 0.002 for delta in SPREAD]) is None


@pytest.mark.parametrize("side", [1, -1])
def test_more_than_ten_thousand_images_are_none(side):
    """1.645006 is t at 9,999 degrees of freedom: the mean must be 1.645006 · 0.001 / 100 from the budget."""
    nearest = 1.645006e-5
    assert needed([side * 1.0001 * nearest - 0.002 + delta for delta in SPREAD]) in (9998, 9999)
    assert needed([side * 0.9999 * nearest - 0.002 + delta for delta in SPREAD]) is None
    assert MAX_IMAGES == 10_000


# --- what none of n images excludes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "confidence", "expected"),
    [(1, 0.95, 0.95), (2, 0.75, 0.5), (3, 0.875, 0.5), (5, 0.95, 0.450720), (14, 0.95, 0.192636)],
)
def test_the_share_of_ruined_images_that_is_excluded(images, confidence, expected):
    share = excludable_share(images, confidence)
    assert share == pytest.approx(expected, abs=1e-6)
    assert (1 - share) ** images == pytest.approx(1 - confidence)


def test_it_is_at_95_percent_unless_another_confidence_is_given():
    assert excludable_share(14) == excludable_share(14, 0.95)
