"""What the page is made of: which figure is drawn of what, the verdict, the overlays, and what is left out."""

import re

import numpy as np
import pytest
from columns import numbers_in, page_facts, page_tables
from test_report_columns import ALSO, BENCH, LIGHT, MANIFEST, PRECISION, VALIDATION, score

from msal_deploy import __version__
from msal_deploy.report import Overlay, overlays, plots, write_report
from msal_deploy.report.tradeoff import PARETO_OPTIMAL, accuracy_latency

TRAINING = [{"epoch": 1, "train_loss": 0.5, "validation_dice": 0.7}]


@pytest.fixture
def drawn(monkeypatch):
    """What each plot was made of, by its name, which stands for it on the page."""
    drawn = {}

    def stand_in(name):
        def draw(*arguments):
            assert name not in drawn
            drawn[name] = arguments
            return f"data:image/{name}"

        return draw

    for name in ("delta", "latency", "training", "tradeoff", "search"):
        monkeypatch.setattr(plots, f"{name}_plot", stand_in(name))
    for name in ("as_jpeg", "as_png"):
        monkeypatch.setattr(overlays, name, lambda picture, name=name: f"data:{name}/{picture.sum()}")
    return drawn


@pytest.fixture
def page(tmp_path, drawn):
    def page(**parts):
        drawn.clear()
        write_report(tmp_path / "report.html", **{"title": "A title", "manifest": MANIFEST} | parts)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return page


def sources(text):
    return [source.removeprefix("data:image/") for source in re.findall(r'<img src="([^"]*)"', text)]


def verdict(text):
    box = text.partition('<div class="verdict ')[2].partition("</div>")[0]
    state, _, rest = box.partition('">')
    return state, " ".join(re.sub("<[^>]*>", " ", rest).split())


def scored(*engines, **changes):
    engines = {"torch:fp32": score(0.8123, 0, 0), **dict(engines)}
    return VALIDATION | {"engines": engines} | changes


def test_every_figure_is_drawn_of_its_report(page, drawn):
    text = page(validation=VALIDATION, bench=BENCH, precision=PRECISION, training=TRAINING)
    assert sources(text) == ["delta", "latency", "tradeoff", "search", "training"]
    assert drawn["delta"] == (VALIDATION,)
    (bench,) = drawn["latency"]
    names = [row.pop("name") for row in bench["results"]]
    assert bench == BENCH and names[3] == "openvino:int8, 3 threads, 2 streams"
    assert drawn["tradeoff"] == (accuracy_latency(VALIDATION, BENCH), {"": VALIDATION})
    assert drawn["search"] == (PRECISION["int8"]["search"],)
    assert drawn["training"] == (TRAINING,)


def test_a_figure_of_one_point_is_not_drawn(page, drawn):
    alone = scored()
    text = page(validation=alone, bench=BENCH)
    assert sources(text) == ["latency"]  # no difference to show, and one engine in the trade-off
    two = scored(("openvino:int8", score(0.81, -0.001, -0.002)))
    assert sources(page(validation=two)) == ["delta"] == list(drawn)
    assert sources(page(validation=two, bench=BENCH)) == ["delta", "latency", "tradeoff"]
    search = PRECISION["int8"]["search"]
    for trials, found in ((1, []), (2, ["search"])):
        int8 = PRECISION["int8"] | {"search": search | {"trials": search["trials"][:trials], "chosen": 0}}
        assert sources(page(precision=PRECISION | {"int8": int8})) == found
    assert sources(page(precision=PRECISION | {"int8": PRECISION["int8"] | {"search": None}})) == []
    assert sources(page(precision=PRECISION | {"int8": None})) == []


def test_sections_are_left_out_where_there_is_nothing_to_say(page):
    def sections(**parts):
        return re.findall("<h2>(.*?)</h2>", page(**parts))

    always = sections()

    def added(**parts):
        found = sections(**parts)
        assert [heading for heading in found if heading in always] == always
        return len(found) - len(always)

    assert added(validation=VALIDATION) == added(bench=BENCH) == added(precision=PRECISION) == 1
    assert added(training=TRAINING) == added(command="msal-deploy run") == added(notes=["A note"]) == 1
    assert added(validation=VALIDATION, bench=BENCH) == 3


def test_what_is_given_is_shown(page):
    text = page(command="msal-deploy run --out here", notes=["First & second", "Third"], data="Some images")
    assert "<title>A title</title>" in text and "<h1>A title</h1>" in text
    assert re.findall("<li>(.*?)</li>", text) == ["First &amp; second", "Third"]
    assert "<code>msal-deploy run --out here</code>" in text
    assert f"msal-deploy {__version__}" in text
    facts = page_facts(page(validation=VALIDATION, bench=BENCH))
    assert facts["Pareto-optimal"].lower().startswith(PARETO_OPTIMAL.lower())
    assert "Test data" not in facts


def test_untimed_engines_are_named_only_where_there_is_a_table(page):
    def named(**parts):
        paragraphs = re.findall("<p.*?</p>", page(**parts))
        return [engine for engine in VALIDATION["engines"] if any(engine in text for text in paragraphs)]

    assert named(validation=VALIDATION) == named(bench=BENCH) == []
    assert named(validation=VALIDATION, bench=BENCH) == ["openvino:fp32"]


@pytest.mark.parametrize(
    ("engines", "state", "headline", "deciding"),
    [
        (
            (("a:fp32", score(0.8, -0.001, -0.0021)), ("zeta:fp32", score(0.8, -0.002, -0.0024))),
            "passed", "Passed. 2 engines within 0.0025 Dice", "−0.0024 (zeta:fp32)",
        ),
        (
            (("b:fp32", score(0.8, 0.002, 0.0014)),),
            "passed", "Passed. 1 engine within 0.0025 Dice", "+0.0014 (b:fp32)",
        ),
        (
            (("a:fp32", score(0.8, -0.001, -0.0041, passed=False)), ("b:fp32", score(0.8, -0.002, -0.0024))),
            "failed", "Failed. a:fp32: not within 0.0025 Dice", "−0.0041 (a:fp32)",
        ),
        ((), "passed", "Passed. 1 engine within 0.0025 Dice", "0 (torch:fp32)"),
    ],
)  # fmt: skip
def test_the_verdict_names_what_decides(page, engines, state, headline, deciding):
    found, text = verdict(page(validation=scored(*engines)))
    assert found == state
    assert text.startswith(f"{headline} of torch:fp32 on 9 patches of 3 images")
    assert "0.8123" in list(numbers_in(text)) and "95%" in text and deciding in text and text.endswith("−0.0025.")


def test_the_verdict_of_what_is_not_finite_or_not_validated(page):
    broken = score(0.8, 0, 0, finite=False, passed=False, max_abs_delta_probability=None)
    state, text = verdict(page(validation=scored(("a:fp32", broken), ("b:fp32", broken))))
    assert (state, "a:fp32, b:fp32" in text, "bound" in text) == ("failed", True, False)
    state, text = verdict(page())
    assert (state, text) == ("none", "Not validated No engine was scored against a reference.")


def test_the_network(page):
    def network(**changes):
        network = MANIFEST["recipe"]["network"] | changes
        return page_facts(page(manifest=MANIFEST | {"recipe": {"name": "r", "network": network}}))["Network"]

    blocks = ("dense_dilated", "channel_attention", "boundary_refinement")
    words = ("dilated", "attention", "refinement")
    for block, word in zip(blocks, words, strict=True):
        found = network(**dict.fromkeys(blocks, False) | {block: True})
        assert [each in found for each in words] == [each == word for each in words]
    assert "none" in network(**dict.fromkeys(blocks, False)) and "none" not in network()
    assert network(model="u-net") == "u-net" and network(model="attention-unet") == "attention-unet"
    assert network(model="msal-net") == network() != "msal-net"
    assert "Checkpoint" not in page_facts(page(manifest=MANIFEST | {"artifacts": {}}))


def test_speed_ups_are_over_the_first_engine_of_a_batch(page):
    text = page(bench=BENCH)
    (rows,) = page_tables(text).values()
    assert [row["Speed-up"] for row in rows] == [
        "1.00×",
        "8.00×",
        "1.00×",
        "8.00×",
        "5.00×",
        "2.50×",
        "125.00×",
        "400.00×",
    ]
    body = text.partition("<tbody>")[2].partition("</tbody>")[0]
    leads = ['class="leads"' in row for row in body.split("</tr>")[:-1]]
    assert leads == [True, False, True, False, False, False, False, False]


def test_one_row_leads_a_batch_even_where_another_equals_it(page):
    text = page(bench=BENCH | {"results": [BENCH["results"][0], dict(BENCH["results"][0])]})
    assert text.count('class="leads"') == 1


def test_the_columns_of_a_metric(page):
    (rows,) = [rows for rows in page_tables(page(validation=VALIDATION)).values() if "Flipped pixels" in rows[0]]
    metrics = ["Dice mean", "Dice pooled", "IoU mean", "IoU pooled", "Precision", "Recall"]
    assert list(rows[0])[2:8] == metrics  # an average is named where there are two


def test_a_page_that_lacks_a_number_is_not_written(page, tmp_path):
    (tmp_path / "report.html").write_text("the old one")
    incomplete = score(0.8, 0, 0)
    del incomplete["recall"]
    with pytest.raises(Exception, match="recall"):
        page(validation=scored(("a:fp32", incomplete)))
    assert (tmp_path / "report.html").read_text() == "the old one"


def test_a_number_that_is_missing_is_not_left_blank(page):
    without = {key: value for key, value in BENCH["results"][0].items() if key != "runs"}
    with pytest.raises(Exception, match="runs"):
        page(bench=BENCH | {"results": [without]})


def test_control_blocks_leave_no_empty_lines_in_a_table(page):
    text = page(validation=VALIDATION, bench=BENCH, precision=PRECISION)
    tables = re.findall("<tbody>.*?</tbody>", text, re.DOTALL)
    assert len(tables) >= 6 and not any(re.search(r"\n\s*\n", table) for table in tables)


def test_without_a_bench_the_environment_is_the_bundle_s(page):
    facts = page_facts(page())
    assert facts["Versions that exported the bundle"] == "torch 2.15.0, onnx 1.20"
    assert "Processor" not in facts


def test_overlays(page):
    image = np.full((4, 4, 3), 10, np.uint8)
    truth, prediction = np.zeros((2, 4, 4), bool)
    truth[0], prediction[:2] = True, True
    one = Overlay("a-stem", "top-left", "worst", 0.65432, image, truth, prediction, "openvino:int8")
    text = page(overlays=[one])
    pictures = (
        overlays.as_jpeg(image),
        overlays.as_jpeg(overlays.outlines(one)),
        overlays.as_png(overlays.disagreement(one)),
    )
    assert sources(text) == list(pictures) and len(set(pictures)) == 3
    caption = " ".join(re.sub("<[^>]*>", "", text.partition("<strong>Worst")[2].partition("</div>")[0]).split())
    assert caption == "· Dice 0.6543 · a-stem, top-left · openvino:int8"
    colours = re.findall(r'<i style="background:rgb(\(.*?\))"', text)
    names = ("TRUTH", "PREDICTION", "TRUE_POSITIVE", "FALSE_POSITIVE", "FALSE_NEGATIVE")
    assert colours == [str(getattr(overlays, name)) for name in names]


def test_the_plot_of_several_weights_has_all_of_them(page, drawn):
    page(validation=VALIDATION, bench=BENCH, weights="heavy", also=ALSO)
    rows = accuracy_latency(VALIDATION, BENCH, weights="heavy", also=ALSO)
    assert drawn["tradeoff"] == (rows, {"heavy": VALIDATION, "light": LIGHT})
    assert drawn["delta"] == (VALIDATION,)


def test_the_verdict_on_several_weights_is_the_worst(page):
    good = scored(("a:fp32", score(0.8, -0.001, -0.0021)))
    bad = scored(("b:fp32", score(0.8, -0.003, -0.0041, passed=False)))
    for first, other, state in ((good, good, "passed"), (good, bad, "failed"), (bad, good, "failed")):
        also = [ALSO[0] | {"validate": other}]
        found, text = verdict(page(validation=first, bench=BENCH, weights="heavy", also=also))
        assert found == state and text.startswith(f"{state.capitalize()}. heavy: ")
    assert (
        "heavy: b:fp32: not within 0.0025 Dice of torch:fp32 on 9 patches of 3 images; light: 1 engine within" in text
    )
    details = text.partition("heavy: Dice of torch:fp32")[2].split("light: Dice of torch:fp32")
    assert "−0.0041 (b:fp32)" in details[0] and "−0.0021 (a:fp32)" in details[1]


def test_other_weights_need_a_validation_of_the_first(page):
    text = page(bench=BENCH, weights="heavy", also=ALSO)
    assert verdict(text)[0] == "none" and "Accuracy × latency" not in text
