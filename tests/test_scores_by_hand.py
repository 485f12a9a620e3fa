"""Every number that validate reports, counted by hand: in its JSON, in the terminal and on the page.

Four images, five patches. The counts of pixels below are all that goes in; the expected scores are fractions that were
worked out from them on paper, and no two of them are written alike. Columns are read by their headers.
"""

import json
import re
from fractions import Fraction as F
from types import SimpleNamespace

import numpy as np
import pytest
from columns import assert_layout, by_name, numbers_in, page_facts, page_tables, printed, terminal_rows
from msgspec.structs import replace

from msal_deploy import metrics
from msal_deploy import validate as stage
from msal_deploy.data import Patch
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.report import plots, write_report
from msal_deploy.runtimes import Engine
from msal_deploy.spec import ModelSpec
from msal_deploy.validate import validate

SIDE = 32
PIXELS = 5 * SIDE * SIDE

# image, corner, then tp, fp, fn of the reference and of the engine. The nuclei are tp + fn in both.
COUNTED = (
    ("a", "top-left", (8, 2, 2), (6, 1, 4)),
    ("a", "top-right", (9, 1, 3), (9, 3, 3)),
    ("b", "top-left", (15, 5, 5), (16, 1, 4)),
    ("c", "top-left", (4, 0, 1), (3, 0, 2)),
    ("d", "top-left", (27, 3, 3), (28, 2, 2)),
)
# Dice is 2 tp / (2 tp + fp + fn), IoU tp / (tp + fp + fn), precision tp / (tp + fp), recall tp / (tp + fn).
REFERENCE_DICE = (F(16, 20), F(18, 22), F(30, 40), F(8, 9), F(54, 60))
REFERENCE_IOU = (F(8, 12), F(9, 13), F(15, 25), F(4, 5), F(27, 33))
ENGINE_DICE = (F(12, 17), F(18, 24), F(32, 37), F(6, 8), F(56, 60))
ENGINE_IOU = (F(6, 11), F(9, 15), F(16, 21), F(3, 5), F(28, 32))
REFERENCE = {  # pooled: 8 + 9 + 15 + 4 + 27 = 63 tp, 2 + 1 + 5 + 0 + 3 = 11 fp, 2 + 3 + 5 + 1 + 3 = 14 fn
    "pixel_dice_mean": sum(REFERENCE_DICE) / 5,
    "pixel_dice_pooled": F(126, 126 + 11 + 14),
    "pixel_iou_mean": sum(REFERENCE_IOU) / 5,
    "pixel_iou_pooled": F(63, 63 + 11 + 14),
    "precision": (F(8, 10) + F(9, 10) + F(15, 20) + F(4, 4) + F(27, 30)) / 5,
    "precision_pooled": F(63, 63 + 11),
    "recall": (F(8, 10) + F(9, 12) + F(15, 20) + F(4, 5) + F(27, 30)) / 5,
    "recall_pooled": F(63, 63 + 14),
    "smallest_detectable_drop": F(0),
    "max_abs_delta_probability": F(0),
    "flipped_pixels": F(0),
}
# Of five patches: a has two, the others one each, so a resample of the images (c, c, c, d) has four patches.
DELTA_C, DELTA_D = F(6, 8) - F(8, 9), F(56, 60) - F(54, 60)
IOU_DELTA_C, IOU_DELTA_D = F(3, 5) - F(4, 5), F(28, 32) - F(27, 33)
DELTA_DICE = {"mean": sum(ENGINE_DICE) / 5 - sum(REFERENCE_DICE) / 5, "lower": (3 * DELTA_C + DELTA_D) / 4}
DELTA_IOU = {"mean": sum(ENGINE_IOU) / 5 - sum(REFERENCE_IOU) / 5, "lower": (3 * IOU_DELTA_C + IOU_DELTA_D) / 4}
ENGINE = {  # pooled: 6 + 9 + 16 + 3 + 28 = 62 tp, 1 + 3 + 1 + 0 + 2 = 7 fp, 4 + 3 + 4 + 2 + 2 = 15 fn
    "pixel_dice_mean": sum(ENGINE_DICE) / 5,
    "pixel_dice_pooled": F(124, 124 + 7 + 15),
    "pixel_iou_mean": sum(ENGINE_IOU) / 5,
    "pixel_iou_pooled": F(62, 62 + 7 + 15),
    "precision": (F(6, 7) + F(9, 12) + F(16, 17) + F(3, 3) + F(28, 30)) / 5,
    "precision_pooled": F(62, 62 + 7),
    "recall": (F(6, 10) + F(9, 12) + F(16, 20) + F(3, 5) + F(28, 30)) / 5,
    "recall_pooled": F(62, 62 + 15),
    "smallest_detectable_drop": DELTA_DICE["mean"] - DELTA_DICE["lower"],
    "max_abs_delta_probability": F(128 - 8, 256),  # where the engine misses what the reference finds
    "flipped_pixels": F(3 + 2 + 5 + 1 + 2, PIXELS),
}
# The lower bounds of ΔDice at other confidences, each the mean of a resample: all 4⁴ are counted below.
DELTAS = {
    "a": (F(12, 17) - F(16, 20), F(18, 24) - F(18, 22)),
    "b": (F(32, 37) - F(30, 40),),
    "c": (DELTA_C,),
    "d": (DELTA_D,),
}
BOUNDS = {0.80: "abcc", 0.90: "accd", 0.95: "cccd", 0.99: "accc"}
BUDGET = 0.0625  # the engine loses more, and 1/16 is exact
CODES = {"nothing": 0, "both": 1, "reference": 2, "engine": 3}
REFERENCE_LEVELS = (32, 128, 128, 32)  # of 256, by code: 128 is the threshold itself, and counts as a nucleus
ENGINE_LEVELS = (56, 128, 8, 128)


class Counted(Engine):
    """Writes levels of probability where the image says who finds a nucleus."""

    runtime = "torch"
    levels = REFERENCE_LEVELS

    def _open(self):
        pass

    def _infer(self, images):
        return (np.take(self.levels, images[..., 0])[:, None] / 256).astype(np.float32)

    def _close(self):
        pass


class Lossy(Counted):
    runtime, levels = "lossy", ENGINE_LEVELS


class Same(Counted):
    """The reference's mask, with one probability of an eighth more in the background."""

    runtime = "same"

    def _infer(self, images):
        probability = super()._infer(images)
        probability[-1, 0, -1, -1] += 0.125
        return probability


class Infinite(Counted):
    """The reference's mask, with an infinite probability in a nucleus."""

    runtime = "infinite"

    def _infer(self, images):
        probability = super()._infer(images)
        probability[0, 0, 0, 0] = np.inf
        return probability


@pytest.fixture(autouse=True)
def fake_engines(monkeypatch):
    engines = {f"{engine.runtime}:fp32": engine for engine in (Counted, Lossy, Same, Infinite)}
    monkeypatch.setattr(stage, "open_engine", lambda bundle, name, threads=None: engines[name](bundle, "fp32", threads))
    monkeypatch.setattr(plots, "delta_plot", lambda *_: "data:")


def patch(stem, corner, reference, engine):
    """Lay pixels out in a row: first the nuclei, of which each finds the first ones, then the false positives."""
    nuclei = reference[0] + reference[2]
    assert nuclei == engine[0] + engine[2]
    mask, image = np.zeros((2, SIDE * SIDE), np.uint8)
    mask[:nuclei] = 1
    for start, found, also_found in ((0, reference[0], engine[0]), (nuclei, reference[1], engine[1])):
        image[start : start + max(found, also_found)] = CODES["reference" if found > also_found else "engine"]
        image[start : start + min(found, also_found)] = CODES["both"]
    pixels = np.repeat(image.reshape(SIDE, SIDE, 1), 3, axis=2)
    return Patch(stem, corner, pixels, mask.reshape(SIDE, SIDE).astype(bool))


PATCHES = [patch(*counted) for counted in COUNTED]
BUNDLE = SimpleNamespace(spec=ModelSpec())


def judge(*engines, **options):
    return validate(BUNDLE, engines, PATCHES, **{"budget": BUDGET, "batch": 2, "label_convention": "by hand"} | options)


def written(report):
    return json.loads(json.dumps(report.to_json(), allow_nan=False))


def page_of(report, tmp_path):
    network = {"backbone": "resnet18", "dense_dilated": True, "channel_attention": True, "boundary_refinement": True}
    manifest = {"recipe": {"name": "r", "network": network}, "licence": "l", "versions": {}, "artifacts": {}}
    write_report(tmp_path / "report.html", title="t", manifest=manifest, validation=written(report))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def parity_table(page):
    (rows,) = [rows for rows in page_tables(page).values() if "Flipped pixels" in rows[0]]
    return by_name(rows)


def approximate(value):
    return pytest.approx({key: float(number) for key, number in value.items()}, rel=1e-12, abs=1e-15)


def test_no_two_of_the_expected_numbers_are_written_alike():
    for scores in (REFERENCE, ENGINE):
        numbers = [*scores.values(), *DELTA_DICE.values(), *DELTA_IOU.values()] if scores is ENGINE else scores.values()
        texts = [f"{abs(float(number)):.4f}" for number in numbers if number]
        assert len(set(texts)) == len(texts), texts


def test_the_patches_have_the_counts_that_they_are_said_to_have():
    for one, (_, _, *expected) in zip(PATCHES, COUNTED, strict=True):
        codes = one.image[..., 0]
        for finds, counts in zip(("reference", "engine"), expected, strict=True):
            found = (codes == CODES["both"]) | (codes == CODES[finds])
            tp, fp, fn = (found & one.mask).sum(), (found & ~one.mask).sum(), (~found & one.mask).sum()
            assert (tp, fp, fn) == counts


@pytest.mark.parametrize(
    ("engine", "scores", "dices", "ious", "delta_dice", "delta_iou"),
    [
        ("torch:fp32", REFERENCE, REFERENCE_DICE, REFERENCE_IOU, {"mean": 0, "lower": 0}, {"mean": 0, "lower": 0}),
        ("lossy:fp32", ENGINE, ENGINE_DICE, ENGINE_IOU, DELTA_DICE, DELTA_IOU),
    ],
)
def test_the_json_of_an_engine(engine, scores, dices, ious, delta_dice, delta_iou):
    value = written(judge("lossy:fp32"))["engines"][engine]
    assert {key: value.pop(key) for key in scores} == approximate(scores)
    assert value.pop("delta_dice") == approximate(delta_dice)
    assert value.pop("delta_iou") == approximate(delta_iou)
    assert (value.pop("finite"), value.pop("passed")) == (True, engine == "torch:fp32")
    per_patch = value.pop("per_patch")
    assert [(row.pop("stem"), row.pop("corner")) for row in per_patch] == [counted[:2] for counted in COUNTED]
    expected = [{"dice": dice, "iou": iou} for dice, iou in zip(dices, ious, strict=True)]
    assert per_patch == [approximate(row) for row in expected]
    assert value == {}


def test_the_json_of_the_report():
    value = written(judge("lossy:fp32", "same:fp32"))
    assert list(value.pop("engines")) == ["torch:fp32", "lossy:fp32", "same:fp32"]
    assert value == {
        "reference": "torch:fp32", "patches": 5, "images": 4, "budget": 0.0625, "confidence": 0.95, "threshold": 0.5,
        "label_convention": "by hand", "passed": False,
    }  # fmt: skip
    assert written(judge("same:fp32"))["passed"] is True


def test_a_difference_that_flips_nothing():
    value = written(judge("same:fp32"))["engines"]["same:fp32"]
    assert value["max_abs_delta_probability"] == 0.125
    assert value["flipped_pixels"] == 0
    assert {key: value[key] for key in REFERENCE if "delta" not in key} == approximate(
        {key: number for key, number in REFERENCE.items() if "delta" not in key}
    )


def test_a_probability_that_is_not_finite():
    value = written(judge("infinite:fp32"))["engines"]["infinite:fp32"]
    assert (value["finite"], value["passed"], value["max_abs_delta_probability"]) == (False, False, None)
    assert value["pixel_dice_mean"] == pytest.approx(float(REFERENCE["pixel_dice_mean"]))


@pytest.mark.filterwarnings("error")
def test_two_infinite_probabilities_have_no_difference_and_no_warning():
    value = written(judge("infinite:fp32", reference="infinite:fp32"))["engines"]["infinite:fp32"]
    assert (value["finite"], value["max_abs_delta_probability"]) == (False, None)


def test_a_budget_of_nothing_allows_nothing_and_takes_the_same_mask():
    report = judge("same:fp32", "lossy:fp32", budget=0)
    assert [score.passed for score in report.engines.values()] == [True, True, False]


def test_the_bound_has_the_confidence_that_is_reported(monkeypatch):
    monkeypatch.setattr("msal_deploy.scoring.CONFIDENCE", 0.8)
    assert judge("lossy:fp32").engines["lossy:fp32"].delta_dice.lower == pytest.approx(float(mean_of(BOUNDS[0.8])))


def test_an_engine_that_answers_too_few_patches_is_not_scored(monkeypatch):
    monkeypatch.setattr(Lossy, "_infer", lambda engine, images: Counted._infer(engine, images)[:1])
    with pytest.raises(ValueError):
        judge("lossy:fp32")


def test_what_is_not_given():
    report = validate(BUNDLE, ["lossy:fp32"], PATCHES)
    assert (report.reference, report.budget, report.label_convention) == ("torch:fp32", 0.002, "")


@pytest.mark.parametrize(("options", "batches"), [({"batch": 2}, [2, 2, 1]), ({}, [1] * 5), ({"batch": 9}, [5])])
def test_patches_are_given_in_batches(monkeypatch, options, batches):
    seen = []
    infer = Counted._infer
    monkeypatch.setattr(Counted, "_infer", lambda engine, images: seen.append(len(images)) or infer(engine, images))
    validate(BUNDLE, [], PATCHES, **options)
    assert seen == batches


def test_each_engine_is_opened_with_the_threads_that_are_asked_for(monkeypatch):
    opened = []

    def open_engine(bundle, name, threads=None):
        opened.append((bundle, name, threads))
        return {"torch:fp32": Counted, "same:fp32": Same}[name](bundle, "fp32", threads)

    monkeypatch.setattr(stage, "open_engine", open_engine)
    judge("same:fp32", "torch:fp32", threads=3)
    assert opened == [(BUNDLE, "torch:fp32", 3), (BUNDLE, "same:fp32", 3)]


def test_engines_are_tried_before_the_reference_computes(monkeypatch):
    opened = []
    monkeypatch.setattr(Counted, "_open", lambda engine: opened.append(engine.id))
    judge("same:fp32", "lossy:fp32")
    assert opened == ["same:fp32", "lossy:fp32", "torch:fp32", "same:fp32", "lossy:fp32"]


def test_the_example_is_the_first_engine_after_the_reference():
    assert judge().example_engine == "torch:fp32"
    report = judge("lossy:fp32", "same:fp32", reference="lossy:fp32")
    assert (list(report.engines), report.example_engine) == (["lossy:fp32", "same:fp32"], "same:fp32")


def resized(one):
    return Patch(one.stem, one.corner, np.repeat(one.image, 2, axis=0), np.repeat(one.mask, 2, axis=0))


@pytest.mark.parametrize(
    ("engines", "patches", "options", "told"),
    [
        ([], PATCHES[:2], {}, "1"),  # two corners of one image
        ([], [], {}, "0"),
        ([], [*PATCHES[:-1], resized(PATCHES[-1])], {}, "64"),
        (["same:fp32", "same:fp32"], PATCHES, {}, "same:fp32"),
        ([], PATCHES, {"budget": -0.5}, "-0.5"),
        ([], PATCHES, {"batch": 0}, "0"),
        ([], [Patch(one.stem, one.corner, 0 * one.image, one.mask) for one in PATCHES], {}, "torch:fp32"),
    ],
)
def test_a_refusal_has_a_cause_with_what_was_given_and_a_remedy(engines, patches, options, told):
    with pytest.raises(BadInput) as caught:
        validate(BUNDLE, engines, patches, **options)
    assert told in caught.value.cause
    assert caught.value.remedy and "Expected" not in caught.value.remedy and "torch" not in caught.value.remedy


def test_two_images_are_enough():
    assert validate(BUNDLE, ["same:fp32"], [PATCHES[0], PATCHES[2]]).images == 2


def test_a_metric_may_have_no_column_in_the_terminal(monkeypatch):
    before = [column.header for column in judge().table().columns]
    hidden = replace(metrics.METRICS[0], terminal=False, mean_key="hidden_mean", pooled_key="hidden_pooled")
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, hidden))
    report = judge("lossy:fp32")
    assert [column.header for column in report.table().columns] == before
    assert len(terminal_rows(report.table())[0]) == len(before)
    hidden_mean = report.to_json()["engines"]["lossy:fp32"]["hidden_mean"]
    assert hidden_mean == pytest.approx(float(ENGINE["pixel_dice_mean"]))


def test_what_was_scored_cannot_be_changed_and_equals_itself_only():
    report, again = judge("lossy:fp32"), judge("lossy:fp32")
    score = report.engines["lossy:fp32"]
    for frozen, name in (
        (report, "budget"),
        (score, "passed"),
        (score.delta_dice, "lower"),
        (score.confusions[0], "tp"),
    ):
        with pytest.raises(AttributeError):
            setattr(frozen, name, 1)
    assert report == report and report != again and report != replace(report)
    assert score == score and score != again.engines["lossy:fp32"]  # whose masks would have to be compared


def test_progress_is_shown_on_stderr_and_only_where_it_is_asked_for(capsys):
    judge("lossy:fp32")
    assert capsys.readouterr() == ("", "")
    judge("lossy:fp32", progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "torch:fp32" in err and "lossy:fp32" in err


def test_the_threshold_is_the_bundle_s():
    bundle = SimpleNamespace(spec=ModelSpec(threshold=0.51))  # above what the reference gives
    with pytest.raises(Exception, match="no nucleus"):
        validate(bundle, ["lossy:fp32"], PATCHES)
    bundle = SimpleNamespace(spec=ModelSpec(threshold=0.2))  # below what the engine gives to the background
    value = validate(bundle, ["lossy:fp32"], PATCHES, budget=BUDGET).to_json()
    assert value["threshold"] == 0.2
    # Everything is a nucleus but what the reference alone finds: 2 nuclei of a and 1 of c; 1 + 4 + 1 others of a, b, d.
    precision = value["engines"]["lossy:fp32"]["precision_pooled"]
    assert precision == pytest.approx((77 - 3) / (PIXELS - 3 - 6))


def signed(value):
    return f"{float(value):+.4f}"


def test_the_table_in_the_terminal():
    report = judge("lossy:fp32", "same:fp32", "infinite:fp32")
    rows = by_name(terminal_rows(report.table()))

    def both(scores, key, total):
        return f"{float(scores[key]):.4f} {float(scores[total]):.4f}"

    for name, scores in (("torch:fp32", REFERENCE), ("lossy:fp32", ENGINE)):
        row = rows[name]
        assert row["Dice pooled"] == both(scores, "pixel_dice_mean", "pixel_dice_pooled")
        assert row["IoU pooled"] == both(scores, "pixel_iou_mean", "pixel_iou_pooled")
        assert row["precision pooled"] == both(scores, "precision", "precision_pooled")
        assert row["recall pooled"] == both(scores, "recall", "recall_pooled")
    assert rows["lossy:fp32"]["ΔDice lower"] == f"{signed(DELTA_DICE['mean'])} {signed(DELTA_DICE['lower'])}"
    assert rows["lossy:fp32"]["flipped pixels"] == "0.254%"  # 13 of 5,120
    assert [row["ΔDice lower"] for name, row in rows.items() if name != "lossy:fp32"] == ["0 0"] * 3
    assert [row["flipped pixels"] for name, row in rows.items() if name != "lossy:fp32"] == ["0.000%"] * 3
    assert [row[""] for row in rows.values()] == ["✓", "✗", "✓", "✗ NaN"]
    assert list(numbers_in(str(report.table().title))) == ["32", "5", "4"]  # torch:fp32, patches, images
    assert list(numbers_in(str(report.table().caption))) == ["95%", "−0.0625"]
    assert all(name in printed(report.table()) for name in rows)
    assert_layout(report.table())


def test_the_table_on_the_page(tmp_path):
    rows = parity_table(page_of(judge("lossy:fp32", "same:fp32", "infinite:fp32"), tmp_path))
    columns = {
        "Dice mean": "pixel_dice_mean",
        "Dice pooled": "pixel_dice_pooled",
        "IoU mean": "pixel_iou_mean",
        "IoU pooled": "pixel_iou_pooled",
        "Precision": "precision",
        "Recall": "recall",
    }
    for name, scores in (("torch:fp32", REFERENCE), ("lossy:fp32", ENGINE)):
        for header, key in columns.items():
            assert rows[name][header] == f"{float(scores[key]):.4f}", (name, header)
    rest = ("ΔDice mean", "ΔDice lower", "Detectable drop", "Flipped pixels", "Largest |Δp|")
    assert [rows["torch:fp32"][header] for header in rest] == ["–"] * 5
    # 4.0041 / 5 − 4.1571 / 5, the bound (−5/12 + 1/30) / 4, and their difference
    assert [rows["lossy:fp32"][header] for header in rest] == ["−0.0306", "−0.0958", "6.5e−02", "0.254%", "4.7e−01"]
    assert [rows["same:fp32"][header] for header in rest] == ["0", "0", "0", "0.000%", "1.2e−01"]
    assert rows["infinite:fp32"]["Largest |Δp|"] == "not finite"
    assert set(rows["torch:fp32"]) == {"Engine", "Verdict", *columns, *rest}
    verdicts = [row["Verdict"].split()[0] for row in rows.values()]
    assert verdicts == ["reference", "✗", "✓", "✗"]


def test_the_head_of_the_page(tmp_path):
    page = page_of(judge("lossy:fp32", "same:fp32"), tmp_path)
    scored = next(text for text in page_facts(page).values() if "threshold" in text)
    assert list(numbers_in(scored)) == ["5", "4", "0.5"]
    verdict = re.sub(r"<[^>]*>", " ", page.partition('<div class="verdict failed">')[2].partition("</div>")[0])
    # of the headline: lossy:fp32, the budget, torch:fp32, patches and images; then what decides
    headline = ["32", "0.0625", "32", "5", "4"]
    deciding = ["32", f"{float(REFERENCE['pixel_dice_mean']):.4f}", "95%", "−0.0958", "32", "−0.0625"]
    assert list(numbers_in(verdict)) == headline + deciding


def mean_of(resample):
    drawn = [delta for image in resample for delta in DELTAS[image]]
    return sum(drawn) / len(drawn)


def test_the_refusal_has_the_bound_and_the_budget():
    with pytest.raises(GateFailed) as caught:
        judge("lossy:fp32", "same:fp32").require_passed()
    assert list(numbers_in(str(caught.value))) == ["0.0625", "32", "32", "-0.0958"]


def test_the_best_median_and_worst_patch():
    """By the engine's Dice: 0.7059, 0.75, 0.8649, 0.75, 0.9333."""
    assert judge("lossy:fp32").pick() == {"best": 4, "median": 1, "worst": 0}
