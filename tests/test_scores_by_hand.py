"""Every number that validate reports, counted by hand: in its JSON and in the terminal.

Five images, seven patches, one of which has no true nucleus. The counts of pixels below are all that goes in; the
expected scores are fractions that were worked out from them on paper. Columns are read by their headers. Bounds are
those of `clustered_interval`, which has its own tests, for the differences and images below.
"""

import json
from fractions import Fraction as F
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from columns import assert_layout, by_name, numbers_in, printed, terminal_rows
from msgspec.structs import replace
from scipy.ndimage import label

from msal_deploy import metrics
from msal_deploy.data import Patch
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.metrics import clustered_interval, images_to_decide
from msal_deploy.runtimes import Engine
from msal_deploy.scoring import nuclei_score, score_pixels
from msal_deploy.spec import ModelSpec
from msal_deploy.validate import Limits, compare, run, validate
from msal_deploy.validate.checks import Check

SIDE = 32
PIXELS = 7 * SIDE * SIDE

# image, corner, then tp, fp, fn of the reference and of the engine. The nuclei are tp + fn in both.
COUNTED = (
    ("a", "top-left", (8, 2, 2), (6, 1, 4)),
    ("a", "top-right", (9, 1, 3), (9, 3, 3)),
    ("b", "top-left", (15, 5, 5), (16, 1, 4)),
    ("b", "top-right", (0, 3, 0), (0, 1, 0)),  # no true nucleus: only in the pooled scores
    ("c", "top-left", (4, 0, 1), (3, 0, 2)),
    ("d", "top-left", (27, 3, 3), (28, 2, 2)),
    ("e", "top-left", (10, 2, 5), (12, 1, 3)),
)
SCORED, STEMS = (0, 1, 2, 4, 5, 6), list("aabcde")
# Dice is 2 tp / (2 tp + fp + fn), IoU tp / (tp + fp + fn), precision tp / (tp + fp), recall tp / (tp + fn).
REFERENCE_DICE = (F(16, 20), F(18, 22), F(30, 40), F(8, 9), F(54, 60), F(20, 27))
REFERENCE_IOU = (F(8, 12), F(9, 13), F(15, 25), F(4, 5), F(27, 33), F(10, 17))
ENGINE_DICE = (F(12, 17), F(18, 24), F(32, 37), F(6, 8), F(56, 60), F(24, 28))
ENGINE_IOU = (F(6, 11), F(9, 15), F(16, 21), F(3, 5), F(28, 32), F(12, 16))
# The first tp pixels of the one true nucleus are found, so it matches with tp / (tp + fn); false positives are another
# nucleus. PQ is 2 · IoU / (true + found). In d, the reference's third false positive is below the nucleus and joins it.
REFERENCE_PQ = (F(8, 10) * 2 / 3, F(9, 12) * 2 / 3, F(15, 20) * 2 / 3, F(4, 5), F(27, 31) * 2 / 3, F(10, 15) * 2 / 3)
ENGINE_PQ = (F(6, 10) * 2 / 3, F(9, 12) * 2 / 3, F(16, 20) * 2 / 3, F(3, 5), F(28, 30) * 2 / 3, F(12, 15) * 2 / 3)
# Pooled: tp 8 + 9 + 15 + 4 + 27 + 10 = 73; fp 2 + 1 + 5 + 3 + 0 + 3 + 2 = 16; fn 2 + 3 + 5 + 1 + 3 + 5 = 19.
REFERENCE = {
    "pixel_dice_mean": sum(REFERENCE_DICE) / 6,
    "pixel_dice_pooled": F(146, 146 + 16 + 19),
    "pixel_iou_mean": sum(REFERENCE_IOU) / 6,
    "pixel_iou_pooled": F(73, 73 + 16 + 19),
    "precision": (F(8, 10) + F(9, 10) + F(15, 20) + F(4, 4) + F(27, 30) + F(10, 12)) / 6,
    "precision_pooled": F(73, 73 + 16),
    "recall": (F(8, 10) + F(9, 12) + F(15, 20) + F(4, 5) + F(27, 30) + F(10, 15)) / 6,
    "recall_pooled": F(73, 73 + 19),
    "aji_mean": sum(REFERENCE_IOU) / 6,  # each true nucleus has one partner, and all other pixels are in the union
    "aji_pooled": F(73, 73 + 16 + 19),
    "pq_mean": sum(REFERENCE_PQ) / 6,
    # 6 matched of 6 true and 12 found: two in five of the six patches, one in c, one in the empty patch
    "pq_pooled": 2 * (F(8, 10) + F(9, 12) + F(15, 20) + F(4, 5) + F(27, 31) + F(10, 15)) / 18,
    "sq_mean": (F(8, 10) + F(9, 12) + F(15, 20) + F(4, 5) + F(27, 31) + F(10, 15)) / 6,
    "sq_pooled": (F(8, 10) + F(9, 12) + F(15, 20) + F(4, 5) + F(27, 31) + F(10, 15)) / 6,
    "dq_mean": (5 * F(2, 3) + 1) / 6,
    "dq_pooled": F(12, 18),
    "f1_mean": (5 * F(2, 3) + 1) / 6,
    "f1_pooled": F(12, 18),
    "smallest_detectable_drop": F(0),
    "max_abs_delta_probability": F(0),
    "flipped_pixels": F(0),
}
DELTAS_DICE = [a - b for a, b in zip(ENGINE_DICE, REFERENCE_DICE, strict=True)]
DELTAS_IOU = [a - b for a, b in zip(ENGINE_IOU, REFERENCE_IOU, strict=True)]  # and of the AJI
DELTAS_PQ = [a - b for a, b in zip(ENGINE_PQ, REFERENCE_PQ, strict=True)]
DELTA_DICE, DELTA_IOU, DELTA_PQ = (
    clustered_interval([float(delta) for delta in deltas], STEMS) for deltas in (DELTAS_DICE, DELTAS_IOU, DELTAS_PQ)
)
ENGINE = {  # pooled: tp 6 + 9 + 16 + 3 + 28 + 12 = 74; fp 1 + 3 + 1 + 1 + 0 + 2 + 1 = 9; fn 4 + 3 + 4 + 2 + 2 + 3 = 18
    "pixel_dice_mean": sum(ENGINE_DICE) / 6,
    "pixel_dice_pooled": F(148, 148 + 9 + 18),
    "pixel_iou_mean": sum(ENGINE_IOU) / 6,
    "pixel_iou_pooled": F(74, 74 + 9 + 18),
    "precision": (F(6, 7) + F(9, 12) + F(16, 17) + F(3, 3) + F(28, 30) + F(12, 13)) / 6,
    "precision_pooled": F(74, 74 + 9),
    "recall": (F(6, 10) + F(9, 12) + F(16, 20) + F(3, 5) + F(28, 30) + F(12, 15)) / 6,
    "recall_pooled": F(74, 74 + 18),
    "aji_mean": sum(ENGINE_IOU) / 6,
    "aji_pooled": F(74, 74 + 9 + 18),
    "pq_mean": sum(ENGINE_PQ) / 6,
    "pq_pooled": 2 * (F(6, 10) + F(9, 12) + F(16, 20) + F(3, 5) + F(28, 30) + F(12, 15)) / 18,
    "sq_mean": (F(6, 10) + F(9, 12) + F(16, 20) + F(3, 5) + F(28, 30) + F(12, 15)) / 6,
    "sq_pooled": (F(6, 10) + F(9, 12) + F(16, 20) + F(3, 5) + F(28, 30) + F(12, 15)) / 6,
    "dq_mean": (5 * F(2, 3) + 1) / 6,
    "dq_pooled": F(12, 18),
    "f1_mean": (5 * F(2, 3) + 1) / 6,
    "f1_pooled": F(12, 18),
    "smallest_detectable_drop": DELTA_DICE.mean - DELTA_DICE.lower,
    "max_abs_delta_probability": F(128 - 8, 256),  # where the engine misses what the reference finds
    "flipped_pixels": F(3 + 2 + 5 + 2 + 1 + 2 + 3, PIXELS),
}
FLIPS = (3, 2, 5, 2, 1, 2, 3)
WORST = ("c", F(6, 8) - F(8, 9))  # −0.139; then a with (12/17 − 16/20 + 18/24 − 18/22) / 2 = −0.081
SECOND = ("a", (F(12, 17) - F(16, 20) + F(18, 24) - F(18, 22)) / 2)
LIMITS = Limits(budget=0.0625, worst_image=0.125)
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
    """The reference's mask, with an eighth more in the background."""

    runtime, levels = "same", (64, 128, 128, 64)


class Infinite(Counted):
    """The reference's mask, with infinite probabilities in nuclei."""

    runtime, levels = "infinite", (32, np.inf, 128, 32)


@pytest.fixture(autouse=True)
def fake_engines(monkeypatch):
    engines = {f"{engine.runtime}:fp32": engine for engine in (Counted, Lossy, Same, Infinite)}
    monkeypatch.setattr(run, "open_engine", lambda bundle, name, threads=None: engines[name](bundle, "fp32", threads))
    # These have their own tests. Nuclei are separated where they do not touch, so that they can be counted.
    monkeypatch.setattr(compare, "check_engine", lambda *_: ())
    monkeypatch.setattr(compare, "check_precision", lambda *_: Check("precision", True, "It is FP32"))
    monkeypatch.setattr(compare, "diagnose", lambda *_: None)
    monkeypatch.setattr(
        nuclei_score, "separate", lambda one, threshold, **_: label(one >= threshold)[0].astype(np.int32)
    )


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
BUNDLE = SimpleNamespace(path=Path("bundle"), spec=ModelSpec())


def judge(*engines, **options):
    return validate(BUNDLE, engines, PATCHES, **{"limits": LIMITS, "batch": 2, "label_convention": "by hand"} | options)


def written(report):
    return json.loads(json.dumps(report.to_json(), allow_nan=False))


def approximate(value):
    return pytest.approx({key: float(number) for key, number in value.items()}, rel=1e-12, abs=1e-15)


def test_the_patches_have_the_counts_that_they_are_said_to_have():
    for one, (_, _, *expected) in zip(PATCHES, COUNTED, strict=True):
        codes = one.image[..., 0]
        for finds, counts in zip(("reference", "engine"), expected, strict=True):
            found = (codes == CODES["both"]) | (codes == CODES[finds])
            tp, fp, fn = (found & one.mask).sum(), (found & ~one.mask).sum(), (~found & one.mask).sum()
            assert (tp, fp, fn) == counts


NOTHING = {"mean": 0, "lower": 0, "upper": 0}


def as_json(interval):
    return {"mean": interval.mean, "lower": interval.lower, "upper": interval.upper}


@pytest.mark.parametrize(
    ("engine", "scores", "dices", "ious", "pqs", "deltas", "flips"),
    [
        ("torch:fp32", REFERENCE, REFERENCE_DICE, REFERENCE_IOU, REFERENCE_PQ, [NOTHING] * 3, (0,) * 7),
        (
            "lossy:fp32",
            ENGINE,
            ENGINE_DICE,
            ENGINE_IOU,
            ENGINE_PQ,
            [as_json(DELTA_DICE), as_json(DELTA_IOU), as_json(DELTA_PQ)],
            FLIPS,
        ),
    ],
)
def test_the_scores_of_an_engine(engine, scores, dices, ious, pqs, deltas, flips):
    value = written(judge("lossy:fp32"))["engines"][engine]
    assert {key: value[key] for key in scores} == approximate(scores)
    for key, delta in zip(
        ("delta_dice", "delta_iou", "delta_aji", "delta_pq"), (*deltas[:2], *deltas[1:]), strict=True
    ):
        assert value[key] == approximate(delta), key
    assert value["nuclei"] == {"true": 6, "found": 12, "split": 0, "merged": 0, "lost": 0, "gained": 0}
    rows = value["per_patch"]
    assert [(row.pop("stem"), row.pop("corner")) for row in rows] == [counted[:2] for counted in COUNTED]
    assert [row.pop("flipped_pixels") for row in rows] == [count / SIDE**2 for count in flips]
    assert rows.pop(3) == {"dice": None, "iou": None, "aji": None, "pq": None}
    expected = [{"dice": d, "iou": i, "aji": i, "pq": q} for d, i, q in zip(dices, ious, pqs, strict=True)]
    assert rows == [approximate(row) for row in expected]


def test_the_judgement_of_an_engine():
    value = written(judge("lossy:fp32"))["engines"]["lossy:fp32"]
    deltas = [float(delta) for delta in DELTAS_DICE]
    judged = ("finite", "passed", "verdict", "verdicts", "images_to_decide", "worst_image", "ruined_images", "cause")
    assert {key: value[key] for key in judged if key in value} == {
        "finite": True,
        "passed": False,
        "verdict": "undecided",
        "verdicts": {"dice": "undecided"},
        "images_to_decide": images_to_decide(deltas, STEMS, 0.0625),
        "worst_image": {"stem": "c", "delta_dice": pytest.approx(float(WORST[1]))},
        "ruined_images": [{"stem": "c", "delta_dice": pytest.approx(float(WORST[1]))}],
    }
    assert value["checks"] == [Check("precision", True, "It is FP32").to_json()]
    undecided, ruined = value["failures"]
    assert undecided.startswith("its loss of Dice is undecided for the budget of 0.0625")
    assert ruined == "1 image loses more than 0.125 Dice: c (-0.1389)"
    reference = written(judge("lossy:fp32"))["engines"]["torch:fp32"]
    assert (reference["passed"], reference["verdict"], reference["failures"]) == (True, "within", [])
    assert reference["worst_image"] == {"stem": "a", "delta_dice": 0}


def test_the_keys_of_an_engine():
    value = written(judge("lossy:fp32"))["engines"]
    keys = {"delta_dice", "delta_iou", "delta_aji", "delta_pq", "nuclei", "finite", "passed", "verdict", "verdicts"}
    keys |= {"images_to_decide", "worst_image", "ruined_images", "failures", "checks", "differences", "per_patch"}
    assert {name: set(engine) - set(ENGINE) for name, engine in value.items()} == dict.fromkeys(value, keys)


def test_the_json_of_the_report():
    value = written(judge("lossy:fp32", "same:fp32"))
    assert list(value.pop("engines")) == ["torch:fp32", "lossy:fp32", "same:fp32"]
    assert value.pop("excludable_share") == pytest.approx(1 - 0.05 ** (1 / 5))
    assert value == {
        "reference": "torch:fp32", "protocol": "corners", "patch": 512, "patches": 7, "images": 5,
        "empty_patches": [{"stem": "b", "corner": "top-right"}], "budget": 0.0625, "worst_image": 0.125,
        "budget_aji": None, "budget_pq": None, "confidence": 0.95, "threshold": 0.5, "label_convention": "by hand",
        "passed": False, "protocols": [],
    }  # fmt: skip
    assert written(judge("same:fp32"))["passed"] is True


def test_a_difference_that_flips_nothing():
    value = written(judge("same:fp32"))["engines"]["same:fp32"]
    assert value["max_abs_delta_probability"] == 0.125
    assert value["flipped_pixels"] == 0
    assert {key: value[key] for key in REFERENCE if "max_abs" not in key} == approximate(
        {key: number for key, number in REFERENCE.items() if "max_abs" not in key}
    )
    assert (value["verdict"], value["worst_image"]["delta_dice"], value["ruined_images"]) == ("within", 0, [])


def test_a_probability_that_is_not_finite():
    value = written(judge("infinite:fp32"))["engines"]["infinite:fp32"]
    assert (value["finite"], value["passed"], value["max_abs_delta_probability"]) == (False, False, None)
    assert value["pixel_dice_mean"] == pytest.approx(float(REFERENCE["pixel_dice_mean"]))
    assert value["failures"] == [f"{70 + 7} of 7,168 probabilities are not finite"]  # found by both: 70 tp and 7 fp


@pytest.mark.filterwarnings("error")
def test_two_infinite_probabilities_have_no_difference_and_no_warning():
    value = written(judge("infinite:fp32", reference="infinite:fp32"))["engines"]["infinite:fp32"]
    assert (value["finite"], value["passed"], value["max_abs_delta_probability"]) == (False, False, None)


def test_a_probability_out_of_range(monkeypatch):
    monkeypatch.setattr(Same, "levels", (-64, 512, 128, -64))
    value = written(judge("same:fp32"))["engines"]["same:fp32"]
    (failure,) = value["failures"]
    assert (value["finite"], value["passed"], list(numbers_in(failure))) == (True, False, ["0", "1", "-0.25", "2"])


def test_a_budget_of_nothing_allows_nothing_and_takes_the_same_mask():
    report = judge("same:fp32", "lossy:fp32", limits=Limits(0, 0, 0, 0))
    assert [result.passed for result in report.engines.values()] == [True, True, False]
    assert report.engines["same:fp32"].judgement.verdicts == dict.fromkeys(("dice", "aji", "pq"), "within")


def test_an_engine_that_answers_too_few_patches_is_refused(monkeypatch):
    monkeypatch.setattr(Lossy, "_infer", lambda engine, images: Counted._infer(engine, images)[:1])
    with pytest.raises(BadInput, match=r"from lossy:fp32, got float32\[1, 1, 32, 32\]"):
        judge("lossy:fp32")


def test_what_is_not_given():
    report = validate(BUNDLE, ["lossy:fp32"], PATCHES)
    assert (report.reference, report.limits, report.label_convention) == ("torch:fp32", Limits(0.002, 0.02), "")
    assert (report.protocol, report.size, dict(report.protocol_patches)) == ("corners", 512, {})


@pytest.mark.parametrize(("options", "batches"), [({"batch": 2}, [2, 2, 2, 1]), ({}, [1] * 7), ({"batch": 9}, [7])])
def test_patches_are_given_in_batches(monkeypatch, options, batches):
    seen = []
    infer = Counted._infer
    monkeypatch.setattr(Counted, "_infer", lambda engine, images: seen.append(len(images)) or infer(engine, images))
    monkeypatch.setattr(compare, "probe_reference", lambda *_: None)
    validate(BUNDLE, [], PATCHES, **options)
    assert seen == batches


def test_patches_of_another_size_are_another_batch(monkeypatch):
    seen = []
    infer = Counted._infer
    monkeypatch.setattr(Counted, "_infer", lambda engine, images: seen.append(images.shape) or infer(engine, images))
    monkeypatch.setattr(compare, "probe_reference", lambda *_: None)
    monkeypatch.setattr(compare, "choose_tiles", lambda *_: None)
    validate(BUNDLE, [], [*PATCHES[:-1], taller(PATCHES[-1])], batch=4)
    assert seen == [(4, 32, 32, 3), (2, 32, 32, 3), (1, 64, 32, 3)]


def taller(one):
    return Patch(one.stem, one.corner, np.repeat(one.image, 2, axis=0), np.repeat(one.mask, 2, axis=0))


def padded(one):
    """The same patch with a margin in which the engines find nuclei that nobody labelled."""
    image = np.pad(one.image, [(0, 32), (0, 32), (0, 0)], constant_values=CODES["engine"])
    return Patch(one.stem, one.corner, image, one.mask)


def test_padding_is_left_out_of_every_score():
    report = validate(
        BUNDLE, ["lossy:fp32"], [padded(one) for one in PATCHES], limits=LIMITS, label_convention="by hand"
    )
    assert written(report) == written(judge("lossy:fp32"))


def test_whole_images_are_seen_in_tiles(monkeypatch):
    seen = []
    infer = Lossy._infer
    monkeypatch.setattr(Lossy, "_infer", lambda engine, images: seen.append(images.shape) or infer(engine, images))
    report = judge("lossy:fp32", protocol="tiles", size=32, batch=1)
    assert seen == [(1, 32, 32, 3)] * 7
    wide = [Patch(one.stem, "whole", np.tile(one.image, (1, 3, 1)), np.tile(one.mask, (1, 3))) for one in PATCHES]
    seen.clear()
    validate(BUNDLE, ["lossy:fp32"], wide, protocol="tiles", size=64, batch=2)
    assert set(seen) == {(2, 32, 64, 3)}
    assert written(report)["protocol"] == "tiles" and written(report)["patch"] == 32
    assert report.engines["lossy:fp32"].pixels.averages() == judge("lossy:fp32").engines["lossy:fp32"].pixels.averages()


def test_other_protocols_are_scored_and_not_judged():
    halves = [
        Patch(one.stem, "whole", one.image, one.mask[:16], scale=2.0) for one in PATCHES
    ]  # which hold all nuclei, and half of the background
    report = judge("lossy:fp32", also={"resize": halves})
    (row,) = written(report)["protocols"]
    assert (row["protocol"], row["patches"], list(row["engines"])) == ("resize", 7, ["torch:fp32", "lossy:fp32"])
    for name, scores in (("torch:fp32", REFERENCE), ("lossy:fp32", ENGINE)):
        averages = {key: number for key, number in scores.items() if key in row["engines"][name]}
        assert row["engines"][name] == approximate(averages) and len(averages) == 18
    assert written(report)["engines"] == written(judge("lossy:fp32"))["engines"]


def test_nuclei_are_separated_at_the_pixel_size_of_the_patch(monkeypatch):
    seen = []

    def separate(one, threshold, microns_per_pixel):
        seen.append((one.shape, threshold, microns_per_pixel))
        return np.zeros(one.shape, np.int32)

    monkeypatch.setattr(nuclei_score, "separate", separate)
    bundle = SimpleNamespace(path=Path("bundle"), spec=ModelSpec(microns_per_pixel=0.375, threshold=0.4))
    patches = [replace(one, scale=2.0) if one.stem == "e" else one for one in PATCHES]
    validate(bundle, [], patches)
    assert seen == [((32, 32), 0.4, 0.375)] * 6 + [((32, 32), 0.4, 0.75)]


def test_each_engine_is_opened_with_the_threads_that_are_asked_for(monkeypatch):
    opened = []

    def open_engine(bundle, name, threads=None):
        opened.append((bundle, name, threads))
        return {"torch:fp32": Counted, "same:fp32": Same}[name](bundle, "fp32", threads)

    monkeypatch.setattr(run, "open_engine", open_engine)
    judge("same:fp32", "torch:fp32", threads=3)
    assert opened == [(BUNDLE, "torch:fp32", 3), (BUNDLE, "same:fp32", 3)]


def test_a_second_build_of_each_engine_is_compared(monkeypatch):
    compared = []

    def compare_builds(first, second, tiles):
        compared.append((first.id, first.bundle, second.id, second.bundle, second.threads, tiles.shape))
        return Check("rebuild", False, "They differ")

    monkeypatch.setattr(compare, "compare_builds", compare_builds)
    other = SimpleNamespace(path=Path("bundle"), spec=ModelSpec())
    report = judge("same:fp32", second_build=other, threads=2)
    assert compared == [("same:fp32", BUNDLE, "same:fp32", other, 2, (4, 32, 32, 3))]
    assert report.engines["same:fp32"].failures == ("They differ",)
    assert not report.passed


def test_failed_checks_and_the_likely_cause_are_reasons_not_to_pass(monkeypatch):
    asked = []
    monkeypatch.setattr(compare, "check_engine", lambda engine, probe: (Check("batch", engine.id[0] != "s", "Row 2"),))
    monkeypatch.setattr(
        compare, "diagnose", lambda engine, probe: asked.append(engine.id) or "Red and blue are swapped"
    )
    report = judge("same:fp32", "lossy:fp32")
    assert report.engines["torch:fp32"].checks == (Check("batch", True, "Row 2"),)
    assert report.engines["same:fp32"].failures == ("Row 2",)
    assert report.engines["lossy:fp32"].failures[-1] == "Red and blue are swapped"
    assert asked == ["lossy:fp32"]  # costs inference, so only where there is a loss to explain
    assert [check.name for check in report.engines["same:fp32"].checks] == ["precision", "batch"]


def test_engines_are_tried_before_the_reference_computes(monkeypatch):
    opened = []
    monkeypatch.setattr(Counted, "_open", lambda engine: opened.append(engine.id))
    judge("same:fp32", "lossy:fp32")
    assert opened == ["same:fp32", "lossy:fp32", "torch:fp32", "same:fp32", "lossy:fp32"]


def test_one_engine_is_open_at_a_time(monkeypatch):
    opened = []

    def enter(engine):
        assert not opened
        opened.append(engine.id)

    monkeypatch.setattr(Counted, "_open", enter)
    monkeypatch.setattr(Counted, "_close", lambda engine: opened.remove(engine.id))
    assert list(judge("same:fp32", "lossy:fp32").engines) == ["torch:fp32", "same:fp32", "lossy:fp32"]


@pytest.mark.parametrize(
    ("engines", "patches", "options", "told"),
    [
        ([], PATCHES[:2], {}, "1"),  # two corners of one image
        ([], [], {}, "0"),
        ([], [Patch(one.stem, one.corner, one.image, 0 * one.mask > 0) for one in PATCHES], {}, "0 of 5"),
        ([], [PATCHES[0], PATCHES[3]], {}, "1 of 2"),
        (["same:fp32", "same:fp32"], PATCHES, {}, "same:fp32"),
        ([], PATCHES, {"limits": Limits(budget=-0.5)}, "--budget of at least 0, got -0.5"),
        ([], PATCHES, {"limits": Limits(worst_image=float("nan"))}, "--worst-image of at least 0, got nan"),
        ([], PATCHES, {"limits": Limits(budget_aji=-1)}, "--budget-aji of at least 0, got -1"),
        ([], PATCHES, {"limits": Limits(budget_pq=-2)}, "--budget-pq of at least 0, got -2"),
        ([], PATCHES, {"batch": 0}, "0"),
        ([], [Patch(one.stem, one.corner, 0 * one.image, one.mask) for one in PATCHES], {}, "torch:fp32"),
    ],
)
def test_a_refusal_has_a_cause_with_what_was_given_and_a_remedy(engines, patches, options, told):
    with pytest.raises(BadInput) as caught:
        validate(BUNDLE, engines, patches, **options)
    assert told in caught.value.cause
    assert caught.value.remedy and "Expected" not in caught.value.remedy and "torch" not in caught.value.remedy


@pytest.mark.parametrize(("found", "refused"), [(1, True), (2, False)])
def test_a_reference_that_scores_near_zero_is_refused(found, refused):
    """Of 31 pixels, 1 has a Dice of 2 / 32 and 2 have one of 4 / 33, either side of a tenth."""
    weak = [patch(stem, "top-left", (found, 0, 31 - found), (found, 0, 31 - found)) for stem in "abcde"]
    if refused:
        with pytest.raises(BadInput, match=r"torch:fp32 has a mean Dice of 0\.0625, so there is nothing to lose"):
            validate(BUNDLE, [], weak)
    else:
        assert validate(BUNDLE, [], weak).passed


def test_two_images_are_scored_and_decide_nothing():
    report = validate(BUNDLE, ["same:fp32"], [PATCHES[0], PATCHES[2]])
    assert (report.images, report.passed) == (2, False)
    (failure,) = report.engines["same:fp32"].failures
    assert failure == "its loss of Dice is undecided: 2 images are too few for a verdict, 5 are needed"
    assert validate(BUNDLE, [], [PATCHES[0], PATCHES[2]]).passed  # the reference has nothing to lose


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
    result = report.engines["lossy:fp32"]
    for frozen, name in (
        (report, "limits"),
        (report.limits, "budget"),
        (result, "findings"),
        (result.judgement, "verdicts"),
        (result.judgement.worst_image, "stem"),
        (result.pixels, "flips"),
        (result.nuclei, "counts"),
        (result.pixels.delta_dice, "lower"),
        (result.pixels.confusions[0], "tp"),
    ):
        with pytest.raises(AttributeError):
            setattr(frozen, name, 1)
    assert report == report and report != again and report != replace(report)
    other = again.engines["lossy:fp32"]
    assert result == result and result != other  # whose masks would have to be compared
    assert result.pixels != other.pixels and result.nuclei != other.nuclei


def test_progress_is_shown_on_stderr_and_only_where_it_is_asked_for(capsys):
    judge("lossy:fp32")
    assert capsys.readouterr() == ("", "")
    judge("lossy:fp32", progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "torch:fp32" in err and "lossy:fp32" in err


def test_the_threshold_is_the_bundle_s():
    bundle = SimpleNamespace(path=Path("bundle"), spec=ModelSpec(threshold=0.51))  # above what the reference gives
    with pytest.raises(BadInput, match=r"mean Dice of 0\.0000"):
        validate(bundle, ["lossy:fp32"], PATCHES)
    bundle = SimpleNamespace(
        path=Path("bundle"), spec=ModelSpec(threshold=0.2)
    )  # below what the engine gives to the background
    value = validate(bundle, ["lossy:fp32"], PATCHES).to_json()
    assert value["threshold"] == 0.2
    # Everything is a nucleus but what the reference alone finds: 2 nuclei of a and 1 of c; 1 + 4 + 2 + 1 + 1 others.
    precision = value["engines"]["lossy:fp32"]["precision_pooled"]
    assert precision == pytest.approx((92 - 3) / (PIXELS - 3 - 9))


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
        assert row["AJI PQ"] == both(scores, "aji_mean", "pq_mean")
    lossy = rows.pop("lossy:fp32")
    assert lossy["ΔDice lower"] == f"{signed(DELTA_DICE.mean)} {signed(DELTA_DICE.lower)}"
    assert lossy["ΔAJI ΔPQ"] == f"{signed(DELTA_IOU.mean)} {signed(DELTA_PQ.mean)}"
    assert (lossy["worst image"], lossy[""]) == ("-0.1389", "✗")
    for row in rows.values():
        assert (row["ΔDice lower"], row["ΔAJI ΔPQ"], row["worst image"]) == ("0 0", "0 0", "0")
    assert [row[""] for row in rows.values()] == ["✓", "✓", "✗ NaN"]
    assert list(numbers_in(str(report.table().title))) == ["32", "7", "5"]  # torch:fp32, patches, images
    caption = ["95%", "−0.0625", "1", "5", "−0.125", "95%", "45%"]
    assert list(numbers_in(str(report.table().caption))) == caption
    assert all(name in printed(report.table()) for name in rows)
    assert_layout(report.table())
    assert "left out" not in str(judge_without_empty().table().caption)


def judge_without_empty():
    return validate(BUNDLE, ["lossy:fp32"], [PATCHES[k] for k in SCORED])


def test_the_mark_of_an_undecided_engine():
    report = validate(BUNDLE, ["lossy:fp32"], PATCHES, limits=Limits(0.0625, worst_image=1))
    assert by_name(terminal_rows(report.table()))["lossy:fp32"][""] == "?"


def test_without_empty_patches_none_is_named():
    report = judge_without_empty()
    assert (report.empty_patches, report.images) == ([], 5)


def test_the_refusal_names_each_engine_with_its_reasons():
    with pytest.raises(GateFailed) as caught:
        judge("lossy:fp32", "same:fp32", "infinite:fp32").require_passed()
    text = str(caught.value)
    assert "lossy:fp32: its loss of Dice is undecided" in text and "c (-0.1389)" in text
    assert "infinite:fp32: 77 of 7,168 probabilities are not finite" in text
    assert "same:fp32" not in text
    assert caught.value.remedy == (
        "use a higher precision or find the layers with --bisect and validate on more images"
    )
    judge("same:fp32").require_passed()


def test_maps_of_other_patches_are_refused():
    maps = [np.zeros((SIDE, SIDE), np.float32)] * 8
    with pytest.raises(ValueError, match="zip"):
        score_pixels(PATCHES, maps, maps, 0.5)
    labels = [np.zeros((SIDE, SIDE), np.int32)] * 8
    with pytest.raises(ValueError, match="zip"):
        nuclei_score.score_nuclei(PATCHES, labels, labels)
    with pytest.raises(ValueError, match="zip"):
        nuclei_score.find_nuclei(PATCHES, maps, ModelSpec())


def test_nuclei_are_compared_with_the_reference():
    """One is split in two, one is lost, and one of the truth is missed by both."""
    reference, found, truth = (np.zeros((8, 16), np.int32) for _ in range(3))
    reference[1:3, 1:9], reference[5:7, 1:5] = 1, 2
    found[1:3, 1:5], found[1:3, 5:9] = 1, 2
    truth[1:3, 1:9], truth[5:7, 1:5], truth[5:7, 10:14] = 1, 2, 3
    image = np.zeros((8, 16, 3), np.uint8)
    patches = [Patch(stem, "whole", image, truth > 0, truth) for stem in "ab"]
    score = nuclei_score.score_nuclei(patches, [found, reference], [reference, reference])
    assert metrics.Changes(split=1, merged=0, lost=1, gained=0) == score.changes
    # The truth has 16 + 8 + 8 pixels; the reference finds two of three nuclei, the engine half of one in the first.
    assert score.deltas_aji == pytest.approx((8 / 40 - 24 / 32, 0))
    assert score.deltas_pq == pytest.approx((0 - 2 * 2 / 5, 0))
