"""The verdict on the page, in words: worked out by hand for each state an engine can be in."""

import pytest
from report_fixture import FAILED, PASSED, STEMS, UNDECIDED, score, validation

from msal_deploy.report.verdict import compared, engine_state, mark, verdict

REFERENCE = "torch:fp32"
NOT_FINITE = score(finite=False, passed=False, failures=["its probabilities are not finite"])


def of(engines=None, rows=(), **changes):
    return verdict({"": validation(engines, **changes)}, rows)


UNDECIDED_AJI = {"dice": "within", "aji": "undecided"}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"passed": True}, "passed"),
        ({}, "undecided"),
        ({"verdicts": UNDECIDED_AJI}, "undecided"),
        ({"verdicts": {"dice": "undecided", "aji": "undecided"}, "failures": ["Dice", "AJI"]}, "undecided"),
        ({"verdicts": {"dice": "over", "aji": "undecided"}, "failures": ["Dice", "AJI"]}, "failed"),
        ({"verdicts": {"dice": "over"}}, "failed"),
        ({"verdicts": UNDECIDED_AJI, "failures": ["a check", "AJI"]}, "failed"),
        ({"verdicts": UNDECIDED_AJI, "failures": ["AJI", "a ruined image"]}, "failed"),
        ({"verdicts": {"dice": "within"}}, "failed"),
        ({"verdicts": {"dice": "within"}, "failures": []}, "failed"),
    ],
)
def test_the_state_of_an_engine(changes, state):
    assert engine_state(UNDECIDED | changes) == state


@pytest.mark.parametrize(
    ("state", "finite", "is_reference", "text"),
    [
        ("passed", True, False, "✓ passed"), ("failed", True, False, "✗ failed"),
        ("undecided", True, False, "? undecided"), ("failed", False, False, "✗ not finite"),
        ("passed", True, True, "reference"), ("undecided", True, True, "reference"), ("failed", True, True, "✗ failed"),
        ("failed", False, True, "✗ not finite"),
    ],
)  # fmt: skip
def test_the_mark_of_an_engine(state, finite, is_reference, text):
    assert mark(state, finite=finite, is_reference=is_reference) == text


def test_the_reference_is_compared_only_where_something_is_wrong_with_it():
    values = validation({"a:fp32": PASSED, "z:fp32": PASSED})
    assert list(compared(values)) == ["a:fp32", "z:fp32"]
    values["engines"][REFERENCE] = score(
        passed=False, verdicts={"dice": "undecided"}, failures=["its loss of Dice is undecided"]
    )
    assert list(compared(values)) == ["a:fp32", "z:fp32"]  # too few images to judge anything
    values["engines"][REFERENCE] = NOT_FINITE
    assert list(compared(values)) == [REFERENCE, "a:fp32", "z:fp32"]


@pytest.mark.parametrize(
    ("engines", "state", "headline"),
    [
        ({}, "passed", "torch:fp32 was scored alone"),
        ({"a": PASSED}, "passed", "a may replace torch:fp32"),
        ({"a": PASSED, "b": PASSED}, "passed", "Both engines may replace torch:fp32"),
        ({"a": PASSED, "b": PASSED, "c": PASSED}, "passed", "All 3 engines may replace torch:fp32"),
        ({"a": FAILED}, "failed", "a may not replace torch:fp32"),
        ({"a": FAILED, "b": FAILED}, "failed", "a and b may not replace torch:fp32"),
        ({"a": UNDECIDED}, "undecided", "undecided: a"),
        ({"a": UNDECIDED, "b": PASSED}, "undecided", "b may replace torch:fp32; undecided: a"),
        ({"a": UNDECIDED, "b": FAILED}, "failed", "b may not replace torch:fp32; undecided: a"),
        (
            {"a": PASSED, "b": FAILED, "c": UNDECIDED, "d": PASSED, "e": PASSED},
            "failed",
            "a, d and e may replace torch:fp32; b may not; undecided: c",
        ),
    ],
)
def test_the_headline_says_which_engine_may_be_used(engines, state, headline):
    found = of(engines)
    assert (found["state"], found["headline"]) == (state, headline)


def test_without_a_validation_there_is_no_verdict():
    found = verdict({})
    assert (found["state"], found["headline"], found["engines"], found["limits"]) == ("none", "Not validated", [], [])
    assert found["scope"] == ["No engine was compared with a reference."]


@pytest.mark.parametrize(
    ("changes", "budgets"),
    [
        ({"budget_aji": None}, "a mean loss of 0.0025 Dice, at 95% confidence; in"),
        ({"budget_aji": 0.01}, "a mean loss of 0.0025 Dice, at 95% confidence, and of 0.01 AJI; in"),
        (
            {"budget_aji": 0, "budget_pq": 0.03},
            "a mean loss of 0.0025 Dice, at 95% confidence, and of 0 AJI, and of 0.03 PQ; in",
        ),
    ],
)
def test_the_scope_names_the_images_the_reference_and_the_limits(changes, budgets):
    (text,) = of({"a": PASSED}, budget=0.0025, worst_image=0.07, **changes)["scope"]
    assert text == (
        "Judged on 14 patches of 7 images, where torch:fp32 has a Dice of 0.8118. "
        f"Budget: {budgets} no image more than 0.07 Dice."
    )


def interval(mean, lower, upper):
    return {"delta_dice": {"mean": mean, "lower": lower, "upper": upper}}


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (
            PASSED | interval(-0.0004, -0.0011, 0.0003),
            "Within budget: with 95% confidence, it loses at most 0.0011 Dice on average.",
        ),
        (PASSED | interval(0.001, 0.0002, 0.002), "Within budget: with 95% confidence, it loses no Dice on average."),
        (PASSED | interval(0.001, 0.0, 0.002), "Within budget: with 95% confidence, it loses no Dice on average."),
        (
            PASSED | interval(0.0, -3.14e-6, 1e-6),
            "Within budget: with 95% confidence, it loses at most 3.1e−06 Dice on average.",
        ),
        (
            FAILED | interval(-0.0136, -0.0200, -0.0072),
            "Over budget: with 95% confidence, it loses at least 0.0072 Dice on average.",
        ),
        (
            UNDECIDED,
            "Undecided: 7 images cannot show whether it loses more than 0.002 Dice on average. "
            "About 23 images would decide.",
        ),
        (
            UNDECIDED | {"images_to_decide": None},
            "Undecided: 7 images cannot show whether it loses more than 0.002 Dice on average. "
            "More images may not decide either: the loss is close to the budget.",
        ),
        (NOT_FINITE, "Its probabilities are not finite."),
    ],
)
def test_each_engine_has_a_sentence(one, text):
    (engine,) = of({"a": one})["engines"]
    assert engine["judged"] == text


def test_what_an_engine_costs_and_its_worst_image():
    found = of()["engines"]
    assert [(one["state"], one["mark"], one["name"]) for one in found] == [
        ("passed", "✓ passed", "openvino:fp32"), ("passed", "✓ passed", "openvino:int8"),
        ("undecided", "? undecided", "onnxruntime:fp16"), ("failed", "✗ failed", "onnxruntime:int8"),
    ]  # fmt: skip
    failed = found[3]
    assert failed["costs"] == "On average: Dice −0.0136, AJI −0.0163, PQ −0.0177."
    assert failed["worst"] == f"Worst image: {STEMS[6]} (Dice −0.0412)."
    assert failed["failures"] == FAILED["failures"]
    (engine,) = of({"a": FAILED | {"failures": ["it loses -0.5 in TCGA-44", "its Dice"]}})["engines"]
    assert engine["failures"] == ["It loses −0.5 in TCGA-44", "Its Dice"]
    (engine,) = of({"a": PASSED | {"worst_image": None}})["engines"]
    assert engine["worst"] == ""


def row(engine, **changes):
    return {"engine": engine, "latency_ms_p50": 44.72, "batch": 1, "speed_up": 5.38} | changes


def test_the_speed_of_an_engine():
    rows = [row("b"), row("c", speed_up=None, batch=4)]
    found = of({"a": PASSED, "b": PASSED, "c": PASSED}, rows)["engines"]
    assert [one["speed"] for one in found] == ["", "44.7 ms for 1 image, 5.4× as fast.", "44.7 ms for 4 images."]


def test_several_weights_are_told_apart():
    rows = [row("a", weights="light"), row("a", weights="heavy", speed_up=2.0)]
    both = {"heavy": validation({"a": PASSED}), "light": validation({"a": UNDECIDED})}
    found = verdict(both, rows)
    assert found["state"] == "undecided"
    assert found["headline"] == "heavy: a may replace torch:fp32; light: undecided: a"
    assert [text.partition(":")[0] for text in found["scope"]] == ["heavy", "light"]
    assert [text.partition(":")[0] for text in found["limits"]] == ["heavy", "light"]
    assert [(one["name"], one["speed"]) for one in found["engines"]] == [
        ("heavy: a", "44.7 ms for 1 image, 2.0× as fast."), ("light: a", "44.7 ms for 1 image, 5.4× as fast."),
    ]  # fmt: skip


EXCLUDES = (
    "(a loss of more than 0.02 Dice), which excludes at 95% confidence that more than 34.8% of such images are. "
    "A rarer failure can go unseen."
)


def test_what_so_few_images_can_exclude():
    assert of({"a": PASSED, "b": UNDECIDED})["limits"] == [f"None of 7 images was ruined by any engine {EXCLUDES}"]
    assert of({"a": PASSED})["limits"] == [f"None of 7 images was ruined by it {EXCLUDES}"]
    assert of({})["limits"] == []


def test_ruined_images_are_named():
    ruined = (
        f"onnxruntime:int8 ruined 2 of 7 images: it lost more than 0.02 Dice in {STEMS[6]} (−0.0412), "
        f"{STEMS[5]} (−0.0234)."
    )
    assert of()["limits"] == [ruined, f"None of 7 images was ruined by the other engines {EXCLUDES}"]
    assert of({"onnxruntime:int8": FAILED})["limits"] == [ruined]
