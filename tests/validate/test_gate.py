"""The judgement on one engine, from scores that are given."""

import json
from types import SimpleNamespace

import pytest

from msal_deploy.data import Patch
from msal_deploy.errors import BadInput
from msal_deploy.metrics import Interval, clustered_interval, images_to_decide
from msal_deploy.validate.gate import ImageLoss, Limits, judge, unjudged

STEMS = list("abcdef")


def scores(deltas, by_image=None, stems=STEMS):
    """Pixel scores with one patch for each image."""
    return SimpleNamespace(
        scored=tuple(range(len(stems))),
        deltas_dice=tuple(deltas),
        delta_dice=clustered_interval(deltas, stems),
        by_image=by_image or dict(zip(stems, deltas, strict=True)),
    )


def nuclei(aji, pq):
    return SimpleNamespace(
        deltas_aji=tuple(aji),
        deltas_pq=tuple(pq),
        delta_aji=clustered_interval(aji, STEMS),
        delta_pq=clustered_interval(pq, STEMS),
    )


def patches(stems=STEMS):
    return [Patch(stem, "whole", None, None) for stem in stems]


NO_LOSS = [0.0] * 6
LOSS = [-0.003, -0.004, -0.0035, -0.003, -0.004, -0.0035]  # of 0.0035 on average
SPREAD = [-0.003, 0.001, -0.004, 0.002, -0.001, -0.001]  # of 0.001 on average, and undecided
SAME_NUCLEI = nuclei(NO_LOSS, NO_LOSS)


def judged(deltas, limits=None, aji=NO_LOSS, pq=NO_LOSS):
    return judge(patches(), scores(deltas), nuclei(aji, pq), limits or Limits())


def test_an_engine_that_loses_nothing():
    found = judged(NO_LOSS)
    assert (found.verdict, found.verdicts, found.failures, found.lossy) == ("within", {"dice": "within"}, (), False)
    assert (found.images_to_decide, found.ruined_images) == (None, ())
    assert found.worst_image == ImageLoss("a", 0.0)


def test_an_engine_over_budget():
    found = judged(LOSS)
    interval = clustered_interval(LOSS, STEMS)
    assert (found.verdict, found.lossy, found.images_to_decide) == ("over", True, None)
    assert found.failures == (
        f"it loses more Dice than the budget of 0.002: the mean ΔDice is -0.0035, its 95% upper bound "
        f"{interval.upper:+.4f}",
    )
    assert found.worst_image == ImageLoss("b", -0.004)


def test_an_undecided_engine_is_told_how_many_images_would_decide():
    found, interval = judged(SPREAD), clustered_interval(SPREAD, STEMS)
    needed = images_to_decide(SPREAD, STEMS, 0.002)
    assert needed > 6
    assert (found.verdict, found.lossy, found.images_to_decide) == ("undecided", False, needed)
    assert found.failures == (
        f"its loss of Dice is undecided for the budget of 0.002: the mean ΔDice is between {interval.lower:+.4f} and "
        f"{interval.upper:+.4f}; about {needed} images would decide",
    )


def test_a_loss_equal_to_the_budget_is_decided_by_no_number_of_images():
    deltas = [-0.001, -0.003] * 3
    found = judged(deltas)
    assert (found.verdict, found.images_to_decide) == ("undecided", None)
    assert found.failures[0].endswith("; no feasible number of images would decide")


def test_few_images_decide_nothing():
    stems = list("abcd")
    found = judge(patches(stems), scores([0.0] * 4, stems=stems), SAME_NUCLEI, Limits())
    assert found.verdict == "undecided"
    assert found.failures == ("its loss of Dice is undecided: 4 images are too few for a verdict, 5 are needed",)
    assert found.images_to_decide == 5


def test_five_images_are_enough():
    stems = list("abcde")
    found = judge(patches(stems), scores(SPREAD[:5], stems=stems), SAME_NUCLEI, Limits())
    assert found.verdict == "undecided" and "too few" not in found.failures[0]


def test_nothing_in_it_can_be_changed():
    found = judged(NO_LOSS)
    for frozen, name in ((Limits(), "budget"), (found, "verdicts"), (found.worst_image, "stem")):
        with pytest.raises(AttributeError):
            setattr(frozen, name, 1)


def test_patches_of_an_image_are_one_image():
    stems = list("aabbccdd")
    found = judge(patches(stems), scores([0.0] * 8, dict.fromkeys("abcd", 0.0), stems), SAME_NUCLEI, Limits())
    assert found.verdict == "undecided"


def test_only_scored_patches_are_judged():
    pixels = scores([0.0] * 5, stems=list("bcdef"))
    pixels.scored = (1, 2, 3, 4, 5)  # the first patch has no nucleus
    assert judge(patches(), pixels, SAME_NUCLEI, Limits()).verdict == "within"


@pytest.mark.parametrize(("limit", "ruined"), [(0.03, 0), (0.029, 1), (0.02, 1), (0.0009, 2)])
def test_an_image_that_loses_more_than_the_limit_is_named(limit, ruined):
    deltas = [0.0, -0.03, 0.0, -0.001, 0.0, 0.0]
    found = judged(deltas, Limits(budget=1, worst_image=limit))
    assert found.verdict == "within"
    assert [one.stem for one in found.ruined_images] == ["b", "d"][:ruined]
    assert found.worst_image == ImageLoss("b", -0.03)
    assert found.lossy is bool(ruined)
    assert len(found.failures) == bool(ruined)


def test_the_sentence_on_ruined_images():
    one = judged([0.0, -0.03, 0.0, 0.0, 0.0, 0.0], Limits(budget=1))
    assert one.failures == ("1 image loses more than 0.02 Dice: b (-0.0300)",)
    three = judged([-0.05, -0.03, -0.04, 0.0, 0.0, 0.0], Limits(budget=1))
    assert three.failures == ("3 images lose more than 0.02 Dice: a (-0.0500), c (-0.0400), b (-0.0300)",)
    four = judged([-0.05, -0.03, -0.04, 0.0, -0.06, 0.0], Limits(budget=1))
    assert four.failures == ("4 images lose more than 0.02 Dice: e (-0.0600), a (-0.0500), c (-0.0400) and 1 more",)


def test_aji_and_pq_gate_only_with_a_budget():
    assert judged(NO_LOSS, aji=LOSS, pq=LOSS).failures == ()
    found = judged(NO_LOSS, Limits(budget_aji=0.002), aji=LOSS, pq=SPREAD)
    assert found.verdicts == {"dice": "within", "aji": "over"}
    assert found.failures[0].startswith("it loses more AJI than the budget of 0.002: the mean ΔAJI is -0.0035")
    found = judged(NO_LOSS, Limits(budget_aji=0.01, budget_pq=0.002), aji=LOSS, pq=SPREAD)
    assert found.verdicts == {"dice": "within", "aji": "within", "pq": "undecided"}
    assert found.images_to_decide == images_to_decide(SPREAD, STEMS, 0.002)
    assert found.failures[0].startswith("its loss of PQ is undecided for the budget of 0.002: the mean ΔPQ")


def test_the_number_of_images_decides_all_verdicts():
    limits = Limits(budget=0.002, budget_aji=0.0025)
    found = judged(SPREAD, limits, aji=SPREAD)
    assert found.images_to_decide == max(images_to_decide(SPREAD, STEMS, budget) for budget in (0.002, 0.0025))
    endless = judged(SPREAD, Limits(budget=0.002, budget_aji=0.002), aji=[-0.001, -0.003] * 3)
    assert endless.images_to_decide is None


def test_the_json():
    judgement = judged([0.0, -0.03, 0.0, 0.0, 0.0, 0.0], Limits(budget=1))
    assert json.loads(json.dumps(judgement.to_json())) == {
        "verdict": "within",
        "verdicts": {"dice": "within"},
        "images_to_decide": None,
        "worst_image": {"stem": "b", "delta_dice": -0.03},
        "ruined_images": [{"stem": "b", "delta_dice": -0.03}],
        "failures": ["1 image loses more than 0.02 Dice: b (-0.0300)"],
    }


def test_the_reference_is_not_judged():
    found = unjudged(scores([-1.0] * 6))
    assert (found.verdict, found.failures, found.worst_image) == ("within", (), ImageLoss("a", 0.0))
    assert (found.ruined_images, found.images_to_decide) == ((), None)
    assert found.to_json()["verdicts"] == {"dice": "within"}


@pytest.mark.parametrize("limit", ["budget", "worst_image", "budget_aji", "budget_pq"])
@pytest.mark.parametrize("value", [-0.001, float("nan")])
def test_a_limit_below_zero_is_refused(limit, value):
    message = f"^Expected --{limit.replace('_', '-')} of at least 0, got {value:g}; set the acceptable loss, as 0.002$"
    with pytest.raises(BadInput, match=message):
        Limits(**{limit: value}).check()
    Limits(**{limit: 0}).check()


def test_the_defaults():
    assert Limits() == Limits(budget=0.002, worst_image=0.02, budget_aji=None, budget_pq=None)
    assert Limits(0.1, 0.2, 0.3, 0.4).budgets() == {"dice": 0.1, "aji": 0.3, "pq": 0.4}
    Limits().check()


def test_a_bound_equal_to_the_budget_is_within():
    pixels = scores(NO_LOSS)
    pixels.delta_dice = Interval(0.0, -0.25, 0.25)
    assert judge(patches(), pixels, SAME_NUCLEI, Limits(budget=0.25)).verdict == "within"
