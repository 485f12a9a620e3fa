"""The HTML page: well-formed, self-contained, with the numbers of the reports and all data escaped."""

import base64
import re
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest
import report_fixture

from msal_deploy.graph import Layer
from msal_deploy.metrics import Interval
from msal_deploy.precision import PrecisionReport
from msal_deploy.precision.run import CalibrationRun, Fp16Report, Int8Report
from msal_deploy.precision.search import NodeCost, SearchReport, Trial
from msal_deploy.recipe import PAPER
from msal_deploy.report import GalleryPatch, drawing, gallery, plots, write_report

MANIFEST = {
    "recipe": msgspec.to_builtins(PAPER),
    "licence": "CC-BY-NC-SA-4.0",
    "versions": {"torch": "2.15.0"},
    "artifacts": {"checkpoint.safetensors": {"sha256": "abcdef0123456789" * 4, "made_from": []}},
}
HOSTILE = '<script>alert("x")</script>'
VOID = {"meta", "img", "br", "link", "input", "hr"}


def score(dice, lower, **changes):
    patch = {"corner": "top-left", "iou": 0.6, "flipped_pixels": 0.01}
    verdict = "within" if lower >= -0.002 else "over"
    return report_fixture.score(dice) | {
        "pixel_dice_pooled": 0.8123, "pixel_iou_mean": 0.6543, "pixel_iou_pooled": 0.6611, "precision": 0.7712,
        "recall": 0.8834, "delta_dice": {"mean": lower / 2, "lower": lower, "upper": 0.0007},
        "smallest_detectable_drop": -lower / 2, "max_abs_delta_probability": 0.031, "flipped_pixels": 0.0123,
        "passed": verdict == "within", "verdict": verdict, "verdicts": {"dice": verdict},
        "per_patch": [patch | {"stem": f"image-{k}", "dice": dice + k / 100} for k in range(2)],
    } | changes  # fmt: skip


def validation(**engines):
    engines = {name.replace("_", ":"): value for name, value in engines.items()}
    changes = {"patches": 2, "images": 2, "excludable_share": 0.776, "empty_patches": [], "protocols": []}
    return report_fixture.validation(engines, **changes) | {"engines": {"torch:fp32": score(0.8, 0.0), **engines}}


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


def node(k):
    return f"/network/encoder{k // 10}/conv{k}/Conv"


def trial(number, lower):
    names = tuple(node(k) for k in range(number))
    return Trial(
        names, 1 - number / 40, 0.81 + number / 1e4, Interval(number / 1e4 - 0.001, lower, 0.0), 180.04 + number
    )


def precision(*, trials=(), chosen=0, ranked=0, draws=0, fp16=True, int8=True):
    """The JSON of a precision report: two modules, the second with a node in float."""
    search = SearchReport(
        0.0005, 24, 6, tuple(NodeCost(node(k), f"encoder{k // 10}", 0.00031 - k / 1e5) for k in range(ranked)),
        trials, chosen,
    ) if trials else None  # fmt: skip
    layers = (
        Layer(node(0), "Conv", "encoder0", 1_500_000_000, "int8", 1),
        Layer(node(10), "Conv", "encoder1", 300_000_000, "int8", 1),
        Layer(node(11), "Conv", "encoder1", 100_000_000, "fp32", 1),
    )
    sensitivity = tuple(CalibrationRun(0.81 + k / 1e4, Interval(-0.00012, -0.00034, 0.0001)) for k in range(draws))
    return PrecisionReport(
        "minmax", 40, 21,
        Fp16Report((HOSTILE, node(7)), 60123.4, "/network/add", 0.0038) if fp16 else None,
        Int8Report(1800 / 1900, trials[chosen].float_nodes if trials else (), layers, search, sensitivity)
        if int8 else None,
    ).to_json()  # fmt: skip


# In the order of the search: 1, 2 and 4 nodes in float, then 3 by bisection; the budget is 0.0005.
SEARCHED = {
    "trials": (trial(0, -0.0009), trial(1, -0.0007), trial(2, -0.00052), trial(4, -0.0002), trial(3, -0.00048)),
    "chosen": 4, "ranked": 20, "draws": 5,
}  # fmt: skip


def gallery_patch(stem="image-0", reason="best", **changes):
    truth, expected, predicted = np.zeros((3, 64, 64), bool)
    truth[10:30, 10:30] = expected[15:35, 10:30] = predicted[20:40, 10:30] = True
    values = {
        "stem": stem, "corner": "top-left", "reason": reason, "engine": "openvino:int8", "dice": 0.75,
        "reference": "torch:fp32", "reference_dice": 0.76, "flipped_pixels": 200 / 64**2,
        "image": np.full((64, 64, 3), 200, np.uint8), "truth": truth, "expected": expected, "predicted": predicted,
    }  # fmt: skip
    return GalleryPatch(**values | changes)


class Page(HTMLParser):
    """Parses a page; holds its text, its attributes and the elements left open."""

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
        precision=precision(**SEARCHED),
        training=history,
        gallery=[gallery_patch(), gallery_patch(HOSTILE, "differs")],
        data="MoNuSeg test",
        command="msal-deploy run --out here",
        notes=["A note & more"],
    )
    return Page(path)


def test_page_is_well_formed_and_self_contained(page):
    assert page.open == []
    assert "http:" not in page.source.replace("http-equiv", "")
    assert "https:" not in page.source
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(value.startswith("data:image/") for value in page.values("img", "src"))
    assert "@import" not in page.source
    assert "url(" not in page.source


def test_page_pictures_have_alternative_texts(page):
    sources, texts = page.values("img", "src"), page.values("img", "alt")
    assert len(sources) == len(texts) == 8 + 2 * 4
    assert all(len(text) > 10 for text in texts)


def test_page_escapes_hostile_text(page):
    assert HOSTILE not in page.source
    assert HOSTILE in page.text


@pytest.mark.parametrize(
    "text",
    [
        "Passed. Both engines may replace torch:fp32",
        "Judged on 2 patches of 2 images, where torch:fp32 has a Dice of 0.8000.",
        "Within budget: with 95% confidence, it loses at most 0.0011 Dice on average.",
        "0.7991", "0.8123", "0.6543", "0.6611", "0.7712", "0.8834", "−0.0011", "−3.1e−06", "5.5e−04",
        "1.230%", "3.1e−02",
        "446.2", "447.2", "448.2", "449.2", "446.7", "2.25", "0.59", "6.26×", "6.33×", "37", "1.3% unstable",
        "+0.0007", "SHA-256 abcdef012345…", "resnet34", "paper", "CC-BY-NC-SA-4.0", "MoNuSeg test",
        "vertices count from 1", "Dice 0.7500", "4.883%",
        "Some CPU", "Memory GiB", "torch 2.15.0", "msal-deploy run --out here", "A note & more",
    ],
)  # fmt: skip
def test_page_shows(page, text):
    assert text in page.text


def test_page_starts_with_a_failed_gate(tmp_path):
    failing = validation(openvino_int8=score(0.79, -0.011), onnxruntime_fp32=score(0.8, 0.0))
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST, validation=failing)
    page = Page(tmp_path / "r.html")
    assert "Failed. onnxruntime:fp32 may replace torch:fp32; openvino:int8 may not" in page.text
    assert "verdict failed" in page.values("section", "class")


def test_page_starts_with_an_engine_with_nan(tmp_path):
    broken = score(0.8, 0.0, finite=False, passed=False, max_abs_delta_probability=None)
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST, validation=validation(openvino_fp16=broken))
    text = Page(tmp_path / "r.html").text
    assert "✗ failed openvino:fp16 Its probabilities are not finite." in text
    assert "✗ not finite" in text


def test_page_without_reports_claims_nothing(tmp_path):
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST)
    page = Page(tmp_path / "r.html")
    assert page.open == []
    assert "Not validated" in page.text
    assert "Passed" not in page.text


def test_page_is_reproducible(tmp_path):
    for name in ("a", "b"):
        parts = {"validation": validation(openvino_int8=score(0.8, 0.0)), "bench": bench()}
        parts |= {"precision": precision(**SEARCHED), "gallery": [gallery_patch()]}
        write_report(tmp_path / name, title="t", manifest=MANIFEST, **parts)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_write_report_keeps_the_old_file_if_rendering_fails(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    incomplete = validation()
    del incomplete["engines"]["torch:fp32"]["recall"]
    with pytest.raises(Exception, match="recall"):
        write_report(path, title="t", manifest=MANIFEST, validation=incomplete)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_of_a_patch_have_a_colour_for_each_kind_of_pixel():
    colours = gallery.difference(gallery_patch())
    kinds = {
        (17, 20): gallery.ONLY_REFERENCE, (25, 20): gallery.BOTH, (37, 20): gallery.ONLY_ENGINE,
        (0, 0): gallery.NEITHER, (10, 20): gallery.TRUE_OUTLINE, (29, 20): gallery.TRUE_OUTLINE,
        (19, 10): gallery.ONLY_REFERENCE,  # on the true outline, which must not hide it
    }  # fmt: skip
    assert {pixel: tuple(colours[pixel]) for pixel in kinds} == kinds
    image = np.full((64, 64, 3), 200, np.uint8)
    drawn = gallery.outline(image, gallery_patch().truth, gallery.TRUTH)
    assert tuple(drawn[10, 20]) == gallery.TRUTH and tuple(drawn[20, 20]) == (200, 200, 200)
    assert (image == 200).all()


def test_page_pictures_are_small(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)  # noise compresses worst
    masks = image[..., 0] > 128
    large = gallery_patch(image=image, truth=masks, expected=masks, predicted=masks)
    parts = {"validation": validation(), "gallery": [large] * 2}
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST, **parts)
    assert (tmp_path / "r.html").stat().st_size < 6e6


def figures(page):
    uris = [uri for uri in page.values("img", "src") if uri.startswith("data:image/svg+xml;base64,")]
    return [base64.b64decode(uri.partition(",")[2]).decode() for uri in uris]


def test_plots_contain_their_text_and_follow_the_colour_scheme(page):
    intervals, delta, flips, calibration, latency, tradeoff, search, training = figures(page)
    for figure, words in (
        (intervals, ["openvino:int8", "onnxruntime:fp32", "ΔDice, mean and bounds", "ΔPQ, mean and bounds"]),
        (delta, ["image-0", "openvino:int8"]),
        (flips, ["distance to the nearest true boundary, µm", "flipped pixels, %"]),
        (calibration, ["predicted probability", "torch:fp32"]),
        (latency, ["batch 4", "p99"]),
        (tradeoff, ["torch:fp32 − budget", "openvino:int8", "latency p50, ms per batch"]),
        (search, ["FP32 − budget", "chosen", "multiply-accumulates in INT8, %", "latency, ms per patch", "4"]),
        (training, ["epoch"]),
    ):
        assert "prefers-color-scheme:dark" in figure
        assert all(re.search(f">\\s*{word}\\s*<", figure) for word in words)


def polylines(svg):
    """Return the x of the vertices of each line between points. Whiskers have one x; legend lines are not clipped."""
    paths = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; stroke: #0f82c4', svg)
    lines = [[float(x) for x in re.findall(r"[ML] ([\d.]+) ", path)] for path in paths]
    return [line for line in lines if len(set(line)) > 1]


def test_search_plot_connects_trials_by_their_nodes_in_float(page):
    left, right = polylines(figures(page)[6])
    assert len(left) == len(right) == len(SEARCHED["trials"])
    assert left == sorted(left, reverse=True)  # more nodes in float: a smaller share in INT8
    assert right == sorted(right)  # and slower


def rows(page, heading):
    """Return the cells of each row of the tables below a heading."""
    part = re.split(r"<h[23]>", page.source.partition(f"{heading}")[2])[0]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", part, re.S)]
    return [row for row in cells if "<br>" not in "".join(row)]


def test_page_shows_the_trials_and_marks_the_chosen_one(page):
    assert rows(page, "<h3>Search for") == [
        ["0", "100%", "0.81000", "−0.00100", "−0.00090", "180.0", "✗ exceeded"],
        ["1", "97.5%", "0.81010", "−0.00090", "−0.00070", "181.0", "✗ exceeded"],
        ["2", "95.0%", "0.81020", "−0.00080", "−0.00052", "182.0", "✗ exceeded"],
        ["4", "90.0%", "0.81040", "−0.00060", "−0.00020", "184.0", "✓ kept"],
        ["3 · chosen", "92.5%", "0.81030", "−0.00070", "−0.00048", "183.0", "✓ kept"],
    ]


def test_page_shows_the_float_nodes_of_each_module(page):
    header, first, second = rows(page, "<h3>INT8 by module")
    assert header == ["Module", "Layers", "GMAC", "In INT8", "Nodes in float"]
    # conv1 and conv2 were returned to float as well and are not layers, like an Add.
    assert first == ["encoder0", "1", "1.50", "100%", "conv1/Conv (float), conv2/Conv (float)"]
    assert second == ["encoder1", "2", "0.40", "75.0%", "conv11/Conv (fp32)"]


def test_page_shows_the_first_nodes_of_the_ranking_and_collapses_the_rest(page):
    shown, _, folded = page.source.partition("<h3>Nodes by their loss")[2].partition("<details>")
    folded = folded.partition("</details>")[0]
    assert [node(k) in shown for k in (0, 14, 15, 19)] == [True, True, False, False]
    assert [node(k) in folded for k in (0, 14, 15, 19)] == [False, False, True, True]
    assert "The other 5 nodes" in folded
    ranked = rows(page, "<h3>Nodes by their loss")
    assert ranked[0] == [node(0), "+0.00031", "float", "encoder0"]
    assert ranked[3] == [node(3), "+0.00028", "INT8", "encoder0"]


@pytest.mark.parametrize(
    "text",
    [
        "Precision: INT8 and FP16", "40 tiles of 21 training images; min-max method",
        f"2: {HOSTILE}, {node(7)}", "60,123, in /network/add; the FP16 maximum is 65,504", "3.8e−03 from FP32",
        "94.7% of the multiply-accumulates", "24 patches of 6 images held out from training; budget 0.0005 Dice",
        f"3: {node(0)}, {node(1)}, {node(2)}",
        "on 5 disjoint sets of tiles: the best and the worst Dice differ by 0.00040",
    ],
)  # fmt: skip
def test_page_shows_the_precision_report(page, text):
    assert text in page.text


def precision_page(tmp_path, **parts):
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST, precision=precision(**parts))
    page = Page(tmp_path / "r.html")
    assert page.open == []
    return page


def test_page_explains_a_search_of_one_trial(tmp_path):
    page = precision_page(tmp_path, trials=(trial(0, -0.0003),))
    assert page.values("img", "src") == []
    assert "The graph passes with all nodes in INT8" in page.text
    assert "Nodes by their loss" not in page.text
    assert "too few tiles for disjoint sets" in page.text
    assert [row[0] for row in rows(page, "<h3>Search for")] == ["0 · chosen"]


def test_page_of_a_precision_report_without_budget_claims_no_dice(tmp_path):
    page = precision_page(tmp_path)
    assert "No budget was set" in page.text
    assert "Search for" not in page.text
    assert "Sensitivity to" not in page.text


def test_page_of_one_precision(tmp_path):
    fp16 = precision_page(tmp_path, int8=False)
    assert "Precision: FP16" in fp16.text
    assert "INT8" not in fp16.text.partition("Precision: FP16")[2].partition("Environment")[0]
    int8 = precision_page(tmp_path, fp16=False)
    assert "Precision: INT8" in int8.text
    assert "FP16" not in int8.text.partition("Precision: INT8")[2].partition("Environment")[0]


def test_page_shows_accuracy_and_latency(page):
    assert rows(page, "<h2>Accuracy × latency") == [
        ["openvino:int8", "0.7991", "−0.0011", "71.3", "6.26×", "● yes", "✓ passed"],
        ["torch:fp32", "0.8000", "–", "446.2", "1.00×", "● yes", "reference"],
    ]
    assert "not in the table: onnxruntime:fp32." in page.text


def test_page_marks_a_dominated_engine(tmp_path):
    times = bench()
    slower = {**times["results"][1]["latency_ms"], "p50": 100.0}
    times["results"].insert(2, {**times["results"][1], "engine": "onnxruntime:int8", "latency_ms": slower})
    scores = validation(openvino_int8=score(0.7991, -0.001), onnxruntime_int8=score(0.7981, -0.0021))
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST, validation=scores, bench=times)
    page = Page(tmp_path / "r.html")
    assert [row[5] for row in rows(page, "<h2>Accuracy × latency")] == ["● yes", "no", "● yes"]
    assert rows(page, "<h2>Accuracy × latency")[1][-1] == "✗ failed"
    (front,) = polylines(figures(page)[5])
    assert len(front) == 2  # the third point is not on the line


def test_page_shows_the_settings_of_an_engine_if_they_differ(tmp_path, page):
    assert "threads" not in page.text  # only one setting
    times = bench()
    times["results"] = [{**row, "threads": n, "streams": n} for n in (1, 2) for row in times["results"][:1]]
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST, bench=times)
    page = Page(tmp_path / "r.html")
    names = ["torch:fp32, 1 thread, 1 stream", "torch:fp32, 2 threads, 2 streams"]
    assert [row[0] for row in rows(page, "<h2>Latency")[-2:]] == names
    assert all(name in figures(page)[0] for name in names)


def test_page_without_a_benchmark_has_no_tradeoff(tmp_path):
    write_report(tmp_path / "r.html", title="t", manifest=MANIFEST, validation=validation())
    assert "Accuracy × latency" not in Page(tmp_path / "r.html").text


def test_labels_of_close_points_do_not_overlap():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.8))
    axes = figure.add_subplot()
    points = [(x, 0.8155) for x in (322, 330, 372, 452)] + [(0, 0.8)]
    axes.plot(*zip(*points, strict=True), "o")
    drawing.label_points(figure, axes, points, ["onnxruntime:fp32"] * len(points))
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(points)
    assert not any(box.count_overlaps(boxes[k + 1 :]) for k, box in enumerate(boxes))


def test_plot_of_several_weights_names_them_and_draws_one_front():
    names = {"heavy": ((40, 0.82, True), (50, 0.81, False)), "light": ((10, 0.80, True), (20, 0.79, False))}
    engines = ("openvino:int8", "torch:fp32")
    rows = [
        {"weights": weights, "engine": engine, "latency_ms_p50": p50, "pixel_dice_mean": dice,
         "delta_dice_lower": -0.001, "finite": True, "pareto_optimal": optimal}
        for weights, points in names.items()
        for engine, (p50, dice, optimal) in zip(engines, points, strict=True)
    ]  # fmt: skip
    validations = {
        name: {"reference": "torch:fp32", "budget": 0.002, "engines": {"torch:fp32": {"pixel_dice_mean": points[1][1]}}}
        for name, points in names.items()
    }
    rows.sort(key=lambda row: row["latency_ms_p50"])
    uri = plots.tradeoff_plot(rows, validations)
    svg = base64.b64decode(uri.partition(",")[2]).decode()
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert [texts.count(text) for text in ("heavy", "light", "Pareto front", *engines)] == [1, 1, 1, 2, 2]
    (front,) = [line for line in paths(svg, r"var\(--ink\)") if len(line) == 2]
    assert (front[1][0] - front[0][0]) > 0 > (front[1][1] - front[0][1])  # to the right, and up in an SVG
    for colour in drawing.COLOURS[:2]:  # of each weights, a solid line at the reference and a dashed one at the budget
        flat = [line for line in paths(svg, colour) if len(line) == 2 and line[0][1] == line[1][1]]
        assert len(flat) == 2


def paths(svg, colour):
    """Return the (x, y) vertices of the lines in the axes that have a colour."""
    found = re.findall(
        rf'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; (?:stroke-dash[^;]*; )*stroke: {colour}', svg
    )
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)] for path in found]
