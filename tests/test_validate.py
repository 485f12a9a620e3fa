"""validate on fake engines with known faults. They use numpy only and take the probability from the image."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from rich.console import Console

from msal_deploy import metrics
from msal_deploy.data import Patch
from msal_deploy.errors import BadInput, GateFailed, MissingRequirement
from msal_deploy.recipe import PAPER
from msal_deploy.report import Report, save_report
from msal_deploy.runtimes import Engine
from msal_deploy.spec import ModelSpec
from msal_deploy.validate import Limits, compare, run, validate
from msal_deploy.validate.checks import Check

SIDE = 64
BUNDLE = SimpleNamespace(path=Path("bundle"), spec=ModelSpec())
MANIFEST = {"recipe": msgspec.to_builtins(PAPER), "licence": "CC0-1.0", "versions": {}, "artifacts": {}}


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
    monkeypatch.setattr(run, "open_engine", lambda bundle, name, threads=None: engines[name](bundle, "fp32", threads))
    monkeypatch.setattr(compare, "check_precision", lambda *_: Check("precision", True, "It is FP32"))
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


def test_validate_passes_an_engine_that_flips_no_pixel():
    report = validate(BUNDLE, ["noisy:fp32"], make_patches(), batch=3)
    noisy = report.engines["noisy:fp32"].pixels
    assert noisy.delta_dice == metrics.Interval(0, 0, 0)
    assert noisy.max_abs_delta_probability == pytest.approx(0.001, rel=1e-3)
    assert noisy.flipped_pixels == 0
    assert [check.name for check in report.engines["noisy:fp32"].checks] == ["precision", "batch", "crop", "repeat"]
    report.require_passed()


def test_validate_fails_a_shifted_engine_and_names_its_fault():
    report = validate(BUNDLE, ["noisy:fp32", "shifted:fp32"], make_patches())
    assert [result.passed for result in report.engines.values()] == [True, True, False]
    with pytest.raises(GateFailed) as caught:
        report.require_passed()
    assert caught.value.exit_code == 1
    assert "shifted:fp32: it loses more Dice than the budget of 0.002" in str(caught.value)
    assert "noisy" not in str(caught.value)


def test_the_reference_may_be_of_another_bundle(monkeypatch):
    opened = []
    engines = {"torch:fp32": Exact, "shifted:fp32": Shifted}

    def open_engine(bundle, name, threads=None):
        opened.append((bundle.path.name, name))
        return engines[name](bundle, "fp32", threads)

    monkeypatch.setattr(run, "open_engine", open_engine)
    full = SimpleNamespace(path=Path("full"), spec=ModelSpec())
    report = validate(BUNDLE, ["torch:fp32", "shifted:fp32"], make_patches(), against=full)
    assert opened == [("full", "torch:fp32"), ("bundle", "torch:fp32"), ("bundle", "shifted:fp32")]
    assert report.reference == "torch:fp32 of full"
    assert [result.passed for result in report.engines.values()] == [True, True, False]
    with pytest.raises(GateFailed, match="Not within budget of torch:fp32 of full: shifted:fp32: it loses"):
        report.require_passed()


def test_the_reference_of_another_bundle_has_the_same_specification():
    other = SimpleNamespace(path=Path("full"), spec=ModelSpec(threshold=0.4))
    with pytest.raises(BadInput, match="full has another input or output than bundle; export both alike"):
        validate(BUNDLE, ["torch:fp32"], make_patches(), against=other)


def test_gate_uses_the_bound_and_not_the_mean():
    patches = make_patches()
    delta = validate(BUNDLE, ["shifted:fp32"], patches).engines["shifted:fp32"].pixels.delta_dice
    assert delta.lower < delta.mean < 0
    at_mean, at_bound = (
        validate(BUNDLE, ["shifted:fp32"], patches, limits=Limits(budget=budget, worst_image=1))
        for budget in (-delta.mean, -delta.lower + 1e-9)
    )
    assert not at_mean.passed and at_bound.passed


def test_validate_fails_an_engine_with_one_nan():
    report = validate(BUNDLE, ["broken:fp32"], make_patches())
    broken = report.to_json()["engines"]["broken:fp32"]
    assert broken["delta_dice"]["mean"] == 0
    assert (broken["finite"], broken["passed"], broken["max_abs_delta_probability"]) == (False, False, None)
    with pytest.raises(GateFailed, match=r"broken:fp32: 10 of 40,960 probabilities are not finite"):
        report.require_passed()


def test_validate_fails_a_reference_with_nan():
    report = validate(BUNDLE, ["torch:fp32"], make_patches(), reference="broken:fp32")
    assert not report.passed


def test_json_has_no_nan():
    report = validate(BUNDLE, ["shifted:fp32", "broken:fp32"], make_patches())
    json.dumps(report.to_json(), allow_nan=False)


def test_reference_runs_once_even_if_it_is_listed():
    assert list(validate(BUNDLE, ["noisy:fp32", "torch:fp32"], make_patches()).engines) == ["torch:fp32", "noisy:fp32"]


def test_batch_does_not_change_the_report():
    patches = make_patches()
    one, seven = (validate(BUNDLE, ["shifted:fp32"], patches, batch=batch).to_json() for batch in (1, 7))
    assert one == seven


def test_table_has_every_engine_with_its_verdict():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(validate(BUNDLE, ["noisy:fp32", "shifted:fp32"], make_patches()).table())
    lines = console.export_text().splitlines()
    assert "✓" in next(line for line in lines if "noisy:fp32" in line)
    assert "✗" in next(line for line in lines if "shifted:fp32" in line)


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
    score = report.engines["shifted:fp32"].pixels
    mean, pooled = np.mean([f2(counts) for counts in score.confusions]), f2(metrics.pooled(score.confusions))
    value = report.to_json()

    json_score = value["engines"]["shifted:fp32"]
    assert (json_score["pixel_f2_mean"], json_score["pixel_f2_pooled"]) == pytest.approx((mean, pooled))

    columns = {column.header: list(column.cells) for column in report.table().columns}
    assert columns["F2\npooled"][1] == f"{mean:.4f}\n{pooled:.4f}"

    page = save_report(tmp_path, Report(title="t", manifest=MANIFEST, validation=value)).read_text(encoding="utf-8")
    assert "F2<br>mean</th>" in page and "F2<br>pooled</th>" in page
    assert f"<td>{mean:.4f}</td>\n<td>{pooled:.4f}</td>" in page
    assert "<dt>F2</dt><dd>Recall counts more.</dd>" in page
