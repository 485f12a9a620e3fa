"""The gate on engines whose faults are known: each is numpy alone, and reads its probability off the image."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from msal_deploy import validate as stage
from msal_deploy.data import Patch
from msal_deploy.errors import BadInput, GateFailed, MissingRequirement
from msal_deploy.runtimes import Engine
from msal_deploy.spec import ModelSpec
from msal_deploy.validate import validate

SIDE = 64
BUNDLE = SimpleNamespace(spec=ModelSpec())
KEYS = {
    "pixel_dice_mean", "pixel_dice_pooled", "pixel_iou_mean", "pixel_iou_pooled", "precision", "recall", "delta_dice",
    "passed", "precision_pooled", "recall_pooled", "delta_iou", "smallest_detectable_drop", "per_patch",
    "max_abs_delta_probability", "flipped_pixels", "finite",
}  # fmt: skip


class Exact(Engine):
    """The reference: the probability is the first channel of the image."""

    runtime = "torch"
    opened = 0

    def _open(self):
        Exact.opened += 1
        assert Exact.opened == 1, "engines are open one at a time"

    def _infer(self, images):
        return images[..., 0][:, None].astype(np.float32) / 255

    def _close(self):
        Exact.opened -= 1


class Noisy(Exact):
    """Changes probabilities by 0.001, across the threshold nowhere."""

    runtime = "noisy"

    def _infer(self, images):
        return super()._infer(images) + np.float32(0.001)


class Shifted(Exact):
    """Moves every mask to the right by 2 px."""

    runtime = "shifted"

    def _infer(self, images):
        return np.roll(super()._infer(images), 2, axis=3)


class Broken(Exact):
    """Gives one NaN in each batch, in the background: the mask is as good as the reference's."""

    runtime = "broken"

    def _infer(self, images):
        probability = super()._infer(images).copy()
        probability[0, 0, 0, 0] = np.nan
        return probability


class Driverless(Exact):
    """Cannot be opened on this machine."""

    runtime = "driverless"

    def _open(self):
        raise MissingRequirement("No driver of a GPU is here")


@pytest.fixture(autouse=True)
def fake_engines(monkeypatch):
    engines = {f"{engine.runtime}:fp32": engine for engine in (Exact, Noisy, Shifted, Broken, Driverless)}
    monkeypatch.setattr(stage, "open_engine", lambda bundle, name, threads=None: engines[name](bundle, "fp32", threads))
    monkeypatch.setattr(Exact, "opened", 0)


def make_patches(images=5):
    rng = np.random.default_rng(0)
    return [make_patch(f"image-{k}", corner, rng) for k in range(images) for corner in ("top-left", "top-right")]


def make_patch(stem, corner, rng):
    mask = np.zeros((SIDE, SIDE), bool)
    y, x, height, width = rng.integers(8, 24, 4)
    mask[y : y + height, x : x + width] = True
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[..., 0] = np.where(mask, 230, 25)
    image[y, x : x + width, 0] = 25  # the reference misses a row
    return Patch(stem, corner, image, mask)


def test_an_engine_that_flips_no_pixel_passes():
    report = validate(BUNDLE, ["noisy:fp32"], make_patches(), batch=3)
    noisy = report.engines["noisy:fp32"]
    assert report.passed
    assert noisy.delta_dice.mean == noisy.delta_dice.lower == 0
    assert noisy.max_abs_delta_probability == pytest.approx(0.001, rel=1e-3)
    assert noisy.flipped_pixels == 0
    report.require_passed()


def test_a_shifted_engine_fails_the_gate_and_is_named_with_its_bound():
    patches = make_patches()
    report = validate(BUNDLE, ["noisy:fp32", "shifted:fp32"], patches)
    assert [score.passed for score in report.engines.values()] == [True, True, False]
    with pytest.raises(
        GateFailed, match=r"budget of 0\.002 Dice of torch:fp32: shifted:fp32 \(.*-0\.\d{4}\)"
    ) as caught:
        report.require_passed()
    assert caught.value.exit_code == 1
    assert "noisy" not in str(caught.value)


def test_a_shifted_engine_passes_where_the_budget_allows_its_bound():
    patches = make_patches()
    lower = validate(BUNDLE, ["shifted:fp32"], patches).engines["shifted:fp32"].delta_dice.lower
    assert validate(BUNDLE, ["shifted:fp32"], patches, budget=-lower + 1e-9).passed
    assert not validate(BUNDLE, ["shifted:fp32"], patches, budget=-lower - 1e-9).passed


def test_the_gate_is_on_the_bound_and_not_on_the_mean():
    patches = make_patches()
    delta = validate(BUNDLE, ["shifted:fp32"], patches).engines["shifted:fp32"].delta_dice
    assert delta.lower < delta.mean < 0
    assert not validate(BUNDLE, ["shifted:fp32"], patches, budget=-delta.mean).passed


def test_one_nan_fails_an_engine_whose_mask_is_perfect():
    report = validate(BUNDLE, ["broken:fp32"], make_patches())
    broken = report.to_json()["engines"]["broken:fp32"]
    assert broken["delta_dice"]["mean"] == 0
    assert (broken["finite"], broken["passed"], broken["max_abs_delta_probability"]) == (False, False, None)
    with pytest.raises(GateFailed, match=r"broken:fp32 .*finite"):
        report.require_passed()


def test_a_broken_reference_fails_too():
    report = validate(BUNDLE, ["torch:fp32"], make_patches(), reference="broken:fp32")
    assert not report.passed


def test_json_keeps_its_keys_and_has_no_nan():
    report = validate(BUNDLE, ["shifted:fp32", "broken:fp32"], make_patches(), label_convention="drawn by hand")
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert {key: value[key] for key in ("reference", "patches", "images", "budget", "threshold", "passed")} == {
        "reference": "torch:fp32", "patches": 10, "images": 5, "budget": 0.002, "threshold": 0.5, "passed": False,
    }  # fmt: skip
    assert value["label_convention"] == "drawn by hand"
    assert list(value["engines"]) == ["torch:fp32", "shifted:fp32", "broken:fp32"]
    for engine in value["engines"].values():
        assert set(engine) == KEYS
        assert set(engine["delta_dice"]) == {"mean", "lower"}
        assert [set(patch) for patch in engine["per_patch"]] == [{"stem", "corner", "dice", "iou"}] * 10


def test_scores_are_those_of_the_masks():
    value = validate(BUNDLE, [], make_patches()).to_json()["engines"]["torch:fp32"]
    assert value["precision"] == 1  # it misses a row and finds nothing that is not there
    assert 0 < value["recall"] < 1
    assert value["pixel_dice_mean"] == pytest.approx(np.mean([patch["dice"] for patch in value["per_patch"]]))
    assert value["smallest_detectable_drop"] == 0


def test_the_reference_runs_once_even_where_it_is_named():
    assert list(validate(BUNDLE, ["noisy:fp32", "torch:fp32"], make_patches()).engines) == ["torch:fp32", "noisy:fp32"]


def test_the_batch_changes_nothing():
    patches = make_patches()
    one, seven = (validate(BUNDLE, ["shifted:fp32"], patches, batch=batch).to_json() for batch in (1, 7))
    assert one == seven


def test_pick_finds_the_best_median_and_worst_patch():
    report = validate(BUNDLE, ["shifted:fp32"], make_patches())
    dice = [patch["dice"] for patch in report.to_json()["engines"]["shifted:fp32"]["per_patch"]]
    best, median, worst = (dice[index] for index in report.pick().values())
    assert list(report.pick()) == ["best", "median", "worst"]
    assert (best, worst) == (max(dice), min(dice))
    assert sum(value >= median for value in dice) >= 5 <= sum(value <= median for value in dice) + 1
    assert report.engines[report.judged].predictions.shape == (10, SIDE, SIDE)


def test_table_names_every_engine_and_its_verdict():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(validate(BUNDLE, ["noisy:fp32", "shifted:fp32"], make_patches()).table())
    lines = console.export_text().splitlines()
    assert "✓" in next(line for line in lines if "noisy:fp32" in line)
    assert "✗" in next(line for line in lines if "shifted:fp32" in line)


def test_a_reference_that_finds_nothing_judges_nobody():
    dark = [Patch(patch.stem, patch.corner, patch.image // 10, patch.mask) for patch in make_patches()]
    with pytest.raises(BadInput, match="finds no nucleus"):
        validate(BUNDLE, [], dark)


@pytest.mark.parametrize(
    ("engines", "patches", "options", "message"),
    [
        ([], [], {}, "at least two images"),
        ([], make_patches(1), {}, "at least two images"),
        (["noisy:fp32", "noisy:fp32"], make_patches(), {}, "noisy:fp32 is named more than once"),
        ([], make_patches(), {"budget": -0.1}, "The budget is -0.1"),
        ([], make_patches(), {"budget": float("nan")}, "The budget is nan"),
        ([], make_patches(), {"batch": 0}, "The batch is 0"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(engines, patches, options, message):
    with pytest.raises(BadInput, match=message):
        validate(BUNDLE, engines, patches, **options)


def test_an_engine_that_cannot_be_opened_is_told_before_the_reference_computes(monkeypatch):
    monkeypatch.setattr(Exact, "_infer", lambda engine, images: pytest.fail("it computed"))
    with pytest.raises(MissingRequirement, match="No driver"):
        validate(BUNDLE, ["noisy:fp32", "driverless:fp32"], make_patches())
