"""The page: it parses, needs nothing from outside, shows each number, and no text of the data becomes markup."""

import re
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest

from msal_deploy.recipe import PAPER
from msal_deploy.report import Overlay, write_report
from msal_deploy.report.overlays import (
    BACKGROUND,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    PREDICTION,
    TRUE_POSITIVE,
    TRUTH,
    disagreement,
    outlines,
)

MANIFEST = {
    "recipe": msgspec.to_builtins(PAPER),
    "licence": "CC-BY-NC-SA-4.0",
    "versions": {"torch": "2.15.0"},
    "artifacts": {"checkpoint.safetensors": {"sha256": "abcdef0123456789" * 4, "made_from": []}},
}
HOSTILE = '<script>alert("x")</script>'
VOID = {"meta", "img", "br", "link", "input", "hr"}


def score(dice, lower, **changes):
    per_patch = [{"stem": f"image-{k}", "corner": "top-left", "dice": dice + k / 100, "iou": 0.6} for k in range(2)]
    return {
        "pixel_dice_mean": dice, "pixel_dice_pooled": 0.8123, "pixel_iou_mean": 0.6543, "pixel_iou_pooled": 0.6611,
        "precision": 0.7712, "precision_pooled": 0.77, "recall": 0.8834, "recall_pooled": 0.88,
        "delta_dice": {"mean": lower / 2, "lower": lower}, "delta_iou": {"mean": 0.0, "lower": 0.0},
        "smallest_detectable_drop": -lower / 2, "max_abs_delta_probability": 0.031, "flipped_pixels": 0.0123,
        "finite": True, "passed": lower >= -0.002, "per_patch": per_patch,
    } | changes  # fmt: skip


def validation(**engines):
    return {
        "reference": "torch:fp32", "patches": 2, "images": 2, "budget": 0.002, "confidence": 0.95, "threshold": 0.5,
        "label_convention": "vertices count from 1", "passed": True,
        "engines": {
            "torch:fp32": score(0.8, 0.0),
            **{name.replace("_", ":"): value for name, value in engines.items()},
        },
    }  # fmt: skip


def bench():
    rows = [
        ("torch:fp32", 1, 446.2),
        ("openvino:int8", 1, 71.3),
        ("torch:fp32", 4, 1702.4),
        ("openvino:int8", 4, 268.9),
    ]
    return {
        "results": [
            {
                "engine": engine, "batch": batch, "size": [512, 512], "threads": None, "runs": 37, "stable": batch == 1,
                "latency_ms": {"p50": p50, "p90": p50 + 1, "p95": p50 + 2, "p99": p50 + 3, "mean": p50 + 0.5},
                "images_per_s": 2.25, "megapixels_per_s": 0.59, "coefficient_of_variation": 0.013,
            }
            for engine, batch, p50 in rows
        ],
        "environment": {"processor": "Some CPU", "memory_gib": 15.6, "versions": {"numpy": "2.4"}, "load_average": [0]},
    }  # fmt: skip


def overlay(stem="image-0", rank="best"):
    truth, prediction = np.zeros((2, 64, 64), bool)
    truth[10:30, 10:30] = prediction[15:35, 10:30] = True
    image = np.full((64, 64, 3), 200, np.uint8)
    return Overlay(stem, "top-left", rank, 0.75, image, truth, prediction, "openvino:int8")


class Page(HTMLParser):
    """Parses a page and holds its text, its attributes and the elements left open."""

    def __init__(self, path):
        super().__init__()
        self.open, self.attributes, self.texts, self.tags = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def values(self, tag, name):
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    history = [{"epoch": k, "train_loss": 1 / k, "validation_dice": 0.7 if k % 2 else None} for k in range(1, 6)]
    write_report(
        path,
        title="A report",
        manifest=MANIFEST,
        validation=validation(openvino_int8=score(0.7991, -0.0011), onnxruntime_fp32=score(0.8001, -3.1e-6)),
        bench=bench(),
        training=history,
        overlays=[overlay(), overlay(HOSTILE, "worst")],
        data="MoNuSeg test",
        command="msal-deploy run --out here",
        notes=["A note & more"],
    )
    return Page(path)


def test_page_is_well_formed_and_needs_nothing_from_outside(page):
    assert page.open == []
    assert "http:" not in page.source.replace("http-equiv", "")
    assert "https:" not in page.source
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(value.startswith("data:image/") for value in page.values("img", "src"))
    assert "@import" not in page.source
    assert "url(" not in page.source


def test_every_picture_has_a_text_for_those_who_do_not_see_it(page):
    sources, texts = page.values("img", "src"), page.values("img", "alt")
    assert len(sources) == len(texts) == 3 + 2 * 3
    assert all(len(text) > 10 for text in texts)


def test_hostile_text_stays_text(page):
    assert HOSTILE not in page.source
    assert HOSTILE in page.text


@pytest.mark.parametrize(
    "text",
    [
        "Passed. 2 engines within 0.002 Dice of torch:fp32 on 2 patches of 2 images",
        "Dice of torch:fp32: 0.8000. Lowest 95% lower bound",
        "−0.0011 (openvino:int8); the gate is −0.002",
        "0.7991", "0.8123", "0.6543", "0.6611", "0.7712", "0.8834", "−0.0011", "−3.1e−06", "5.5e−04",
        "1.230%", "3.1e−02",
        "446.2", "447.2", "448.2", "449.2", "446.7", "2.25", "0.59", "6.26×", "6.33×", "37", "1.3% unstable",
        "SHA-256 abcdef012345…", "resnet34", "paper", "CC-BY-NC-SA-4.0", "MoNuSeg test", "vertices count from 1",
        "Some CPU", "Memory GiB", "torch 2.15.0", "msal-deploy run --out here", "A note & more", "Dice 0.7500",
    ],
)  # fmt: skip
def test_page_shows(page, text):
    assert text in page.text


def test_a_failed_gate_is_said_at_the_top(tmp_path):
    failing = validation(openvino_int8=score(0.79, -0.011), onnxruntime_fp32=score(0.8, 0.0))
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST, validation=failing)
    page = Page(tmp_path / "r.html")
    assert "Failed. openvino:int8: not within 0.002 Dice of torch:fp32" in page.text
    assert "−0.0110 (openvino:int8)" in page.text
    assert "verdict failed" in page.values("div", "class")


def test_an_engine_with_nan_is_said_at_the_top(tmp_path):
    broken = score(0.8, 0.0, finite=False, passed=False, max_abs_delta_probability=None)
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST, validation=validation(openvino_fp16=broken))
    text = Page(tmp_path / "r.html").text
    assert "The probabilities of openvino:fp16 are not all finite numbers" in text
    assert "✗ not finite" in text


def test_a_report_of_nothing_claims_nothing(tmp_path):
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST)
    page = Page(tmp_path / "r.html")
    assert page.open == []
    assert "Not validated" in page.text
    assert "Passed" not in page.text


def test_the_same_data_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_report(tmp_path / name, title="t", manifest=MANIFEST, bench=bench(), overlays=[overlay()])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_report_that_cannot_be_rendered_leaves_the_old_one(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("the old one")
    incomplete = validation()
    del incomplete["engines"]["torch:fp32"]["recall"]
    with pytest.raises(Exception, match="recall"):
        write_report(path, title="t", manifest=MANIFEST, validation=incomplete)
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_overlay_pictures_colour_each_kind_of_pixel():
    colours = disagreement(overlay())
    for pixel, colour in {(12, 20): FALSE_NEGATIVE, (20, 20): TRUE_POSITIVE, (33, 20): FALSE_POSITIVE}.items():
        assert tuple(colours[pixel]) == colour
    assert tuple(colours[0, 0]) == BACKGROUND
    drawn = outlines(overlay())
    assert tuple(drawn[10, 20]) == TRUTH
    assert tuple(drawn[35, 20]) == PREDICTION
    assert tuple(drawn[50, 50]) == (200, 200, 200)


def test_pictures_stay_small(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)  # noise compresses worst
    masks = image[..., 0] > 128
    large = Overlay("s", "c", "best", 1.0, image, masks, masks)
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST, overlays=[large] * 3)
    assert (tmp_path / "r.html").stat().st_size < 6e6


def test_plots_carry_their_text_and_follow_the_colour_scheme(page):
    import base64

    uris = [uri for uri in page.values("img", "src") if uri.startswith("data:image/svg+xml;base64,")]
    delta, latency, training = (base64.b64decode(uri.partition(",")[2]).decode() for uri in uris)
    for figure, words in ((delta, ["image-0", "openvino:int8"]), (latency, ["batch 4", "p99"]), (training, ["epoch"])):
        assert "prefers-color-scheme:dark" in figure
        assert all(re.search(f">\\s*{word}\\s*<", figure) for word in words)
