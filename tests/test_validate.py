"""The gate on fake engines with known faults. They use numpy only and take the probability from the image."""

import io
import json
import re
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from rich.console import Console

from msal_deploy import metrics
from msal_deploy import validate as stage
from msal_deploy.data import Patch
from msal_deploy.errors import BadInput, GateFailed, MissingRequirement
from msal_deploy.recipe import PAPER
from msal_deploy.report import write_report
from msal_deploy.runtimes import Engine
from msal_deploy.spec import ModelSpec
from msal_deploy.validate import validate

SIDE = 64
BUNDLE = SimpleNamespace(spec=ModelSpec())
MANIFEST = {"recipe": msgspec.to_builtins(PAPER), "licence": "CC0-1.0", "versions": {}, "artifacts": {}}
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
        assert Exact.opened == 1, "only one engine may be open at a time"

    def _infer(self, images):
        return images[..., 0][:, None].astype(np.float32) / 255

    def _close(self):
        Exact.opened -= 1


class Noisy(Exact):
    """Adds 0.001 to the probabilities; no pixel crosses the threshold."""

    runtime = "noisy"

    def _infer(self, images):
        return super()._infer(images) + np.float32(0.001)


class Shifted(Exact):
    """Moves masks to the right by 2 px."""

    runtime = "shifted"

    def _infer(self, images):
        return np.roll(super()._infer(images), 2, axis=3)


class Broken(Exact):
    """Returns a NaN in the background of each batch; the masks equal the reference's."""

    runtime = "broken"

    def _infer(self, images):
        probability = super()._infer(images).copy()
        probability[0, 0, 0, 0] = np.nan
        return probability


class Driverless(Exact):
    """Cannot be opened on this machine."""

    runtime = "driverless"

    def _open(self):
        raise MissingRequirement("A GPU driver is not installed", "install one")


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


def small_patch():
    return Patch("image-0", "small", np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), bool))


def test_validate_passes_an_engine_that_flips_no_pixel():
    report = validate(BUNDLE, ["noisy:fp32"], make_patches(), batch=3)
    noisy = report.engines["noisy:fp32"]
    assert report.passed
    assert noisy.delta_dice.mean == noisy.delta_dice.lower == 0
    assert noisy.max_abs_delta_probability == pytest.approx(0.001, rel=1e-3)
    assert noisy.flipped_pixels == 0
    report.require_passed()


def test_validate_fails_a_shifted_engine_and_reports_its_bound():
    patches = make_patches()
    report = validate(BUNDLE, ["noisy:fp32", "shifted:fp32"], patches)
    assert [score.passed for score in report.engines.values()] == [True, True, False]
    with pytest.raises(
        GateFailed, match=r"budget of 0\.002 compared with torch:fp32: shifted:fp32 \(.*-0\.\d{4}\)"
    ) as caught:
        report.require_passed()
    assert caught.value.exit_code == 1
    assert "noisy" not in str(caught.value)


def test_gate_failure_has_both_causes():
    report = validate(BUNDLE, ["shifted:fp32", "broken:fp32"], make_patches())
    with pytest.raises(GateFailed) as caught:
        report.require_passed()
    assert re.fullmatch(
        r"Dice loss exceeds .*: shifted:fp32 \([^)]*\)\. Probabilities are not finite: broken:fp32",
        caught.value.cause,
    )
    assert caught.value.remedy == "use a higher precision or validate on more images"


def test_validate_passes_an_engine_if_the_budget_covers_its_bound():
    patches = make_patches()
    lower = validate(BUNDLE, ["shifted:fp32"], patches).engines["shifted:fp32"].delta_dice.lower
    assert validate(BUNDLE, ["shifted:fp32"], patches, budget=-lower + 1e-9).passed
    assert not validate(BUNDLE, ["shifted:fp32"], patches, budget=-lower - 1e-9).passed


def test_gate_uses_the_bound_and_not_the_mean():
    patches = make_patches()
    delta = validate(BUNDLE, ["shifted:fp32"], patches).engines["shifted:fp32"].delta_dice
    assert delta.lower < delta.mean < 0
    assert not validate(BUNDLE, ["shifted:fp32"], patches, budget=-delta.mean).passed


def test_validate_fails_an_engine_with_one_nan():
    report = validate(BUNDLE, ["broken:fp32"], make_patches())
    broken = report.to_json()["engines"]["broken:fp32"]
    assert broken["delta_dice"]["mean"] == 0
    assert (broken["finite"], broken["passed"], broken["max_abs_delta_probability"]) == (False, False, None)
    with pytest.raises(GateFailed, match=r"^Probabilities are not finite: broken:fp32; use a higher precision$"):
        report.require_passed()


def test_validate_fails_a_reference_with_nan():
    report = validate(BUNDLE, ["torch:fp32"], make_patches(), reference="broken:fp32")
    assert not report.passed


def test_json_has_its_keys_and_no_nan():
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


def test_json_scores_match_the_masks():
    value = validate(BUNDLE, [], make_patches()).to_json()["engines"]["torch:fp32"]
    assert value["precision"] == 1  # it misses a row and has no false positives
    assert 0 < value["recall"] < 1
    assert value["pixel_dice_mean"] == pytest.approx(np.mean([patch["dice"] for patch in value["per_patch"]]))
    assert value["smallest_detectable_drop"] == 0


def test_reference_runs_once_even_if_it_is_listed():
    assert list(validate(BUNDLE, ["noisy:fp32", "torch:fp32"], make_patches()).engines) == ["torch:fp32", "noisy:fp32"]


def test_batch_does_not_change_the_report():
    patches = make_patches()
    one, seven = (validate(BUNDLE, ["shifted:fp32"], patches, batch=batch).to_json() for batch in (1, 7))
    assert one == seven


def test_pick_returns_the_best_median_and_worst_patch():
    report = validate(BUNDLE, ["shifted:fp32"], make_patches())
    dice = [patch["dice"] for patch in report.to_json()["engines"]["shifted:fp32"]["per_patch"]]
    best, median, worst = (dice[index] for index in report.pick().values())
    assert list(report.pick()) == ["best", "median", "worst"]
    assert (best, worst) == (max(dice), min(dice))
    assert sum(value >= median for value in dice) >= 5 <= sum(value <= median for value in dice) + 1
    assert report.engines[report.example_engine].predictions.shape == (10, SIDE, SIDE)


def test_table_has_every_engine_with_its_verdict():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(validate(BUNDLE, ["noisy:fp32", "shifted:fp32"], make_patches()).table())
    lines = console.export_text().splitlines()
    assert "✓" in next(line for line in lines if "noisy:fp32" in line)
    assert "✗" in next(line for line in lines if "shifted:fp32" in line)


def test_validate_rejects_a_reference_that_predicts_no_nuclei():
    dark = [Patch(patch.stem, patch.corner, patch.image // 10, patch.mask) for patch in make_patches()]
    with pytest.raises(BadInput, match="predicts no nucleus"):
        validate(BUNDLE, [], dark)


@pytest.mark.parametrize(
    ("engines", "patches", "options", "message"),
    [
        ([], [], {}, "at least two images"),
        ([], make_patches(1), {}, "at least two images"),
        (["noisy:fp32", "noisy:fp32"], make_patches(), {}, "got noisy:fp32 more than once"),
        ([], [*make_patches(), small_patch()], {}, "got 16×16 and 64×64"),
        ([], make_patches(), {"budget": -0.1}, "got -0.1"),
        ([], make_patches(), {"budget": float("nan")}, "got nan"),
        ([], make_patches(), {"batch": 0}, "batch of at least 1, got 0"),
    ],
)
def test_validate_rejects_bad_input(engines, patches, options, message):
    with pytest.raises(BadInput, match=message):
        validate(BUNDLE, engines, patches, **options)


def test_validate_opens_all_engines_before_the_reference_runs(monkeypatch):
    monkeypatch.setattr(Exact, "_infer", lambda engine, images: pytest.fail("an engine ran"))
    with pytest.raises(MissingRequirement, match="driver is not installed"):
        validate(BUNDLE, ["noisy:fp32", "driverless:fp32"], make_patches())


def test_one_entry_in_the_table_of_metrics_adds_a_metric_everywhere(monkeypatch, tmp_path):
    def f2(counts):  # in none of the other columns: recall weighs more than precision
        return 5 * counts.tp / (5 * counts.tp + 4 * counts.fn + counts.fp)

    entry = metrics.Metric("pixel_f2", "F2", f2, "pixel_f2_mean", "pixel_f2_pooled", "Recall counts more.")
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, entry))
    report = validate(BUNDLE, ["shifted:fp32"], make_patches())
    score = report.engines["shifted:fp32"]
    mean, pooled = np.mean([f2(counts) for counts in score.confusions]), f2(metrics.pooled(score.confusions))
    value = report.to_json()

    json_score = value["engines"]["shifted:fp32"]
    assert (json_score["pixel_f2_mean"], json_score["pixel_f2_pooled"]) == pytest.approx((mean, pooled))

    columns = {column.header: list(column.cells) for column in report.table().columns}
    assert columns["F2\npooled"][1] == f"{mean:.4f}\n{pooled:.4f}"

    write_report(tmp_path / "report.html", title="t", manifest=MANIFEST, validation=value)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "F2<br>mean</th>" in page and "F2<br>pooled</th>" in page
    assert f"<td>{mean:.4f}</td>\n<td>{pooled:.4f}</td>" in page
    assert "<dt>F2</dt><dd>Recall counts more.</dd>" in page
