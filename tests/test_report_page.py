"""What the page is made of: which figure is drawn of what, the verdict, the overlays, and what is left out."""

import re

import pytest
import report_fixture
from columns import page_facts, page_tables
from test_report_columns import ALSO, BENCH, LIGHT, MANIFEST, PRECISION, VALIDATION, score

from msal_deploy import __version__
from msal_deploy.report import evidence_plots, gallery, plots, write_report
from msal_deploy.report.tradeoff import PARETO_OPTIMAL, accuracy_latency

TRAINING = [{"epoch": 1, "train_loss": 0.5, "validation_dice": 0.7}]


@pytest.fixture
def drawn(monkeypatch):
    """What each plot was made of, by its name, which stands for it on the page."""
    drawn = {}

    def stand_in(name):
        def draw(*arguments):
            drawn.setdefault(name, []).append(arguments)
            return f"data:image/{name}"

        return draw

    for name in ("delta", "latency", "training", "tradeoff", "search"):
        monkeypatch.setattr(plots, f"{name}_plot", stand_in(name))
    for name in ("interval", "flips", "calibration"):
        monkeypatch.setattr(evidence_plots, f"{name}_plot", stand_in(name))
    for name in ("as_jpeg", "as_png"):
        monkeypatch.setattr(gallery, name, lambda picture, name=name: f"data:{name}/{picture.sum()}")
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
    box = text.partition('<section class="verdict ')[2].partition("</section>")[0]
    state, _, rest = box.partition('">')
    return state, " ".join(re.sub("<[^>]*>", " ", rest).split())


def scored(*engines, **changes):
    engines = {"torch:fp32": score(0.8123, 0, 0), **dict(engines)}
    return VALIDATION | {"engines": engines} | changes


OF_ONE_ENGINE = ["calibration"]
OF_ENGINES = ["interval", "delta", "flips", "calibration"]


def test_every_figure_is_drawn_of_its_report(page, drawn):
    text = page(validation=VALIDATION, bench=BENCH, precision=PRECISION, training=TRAINING)
    assert sources(text) == [*OF_ENGINES, "latency", "tradeoff", "search", "training"]
    assert all(drawn[name] == [(VALIDATION,)] for name in OF_ENGINES)
    ((bench,),) = drawn["latency"]
    names = [row.pop("name") for row in bench["results"]]
    assert bench == BENCH and names[3] == "openvino:int8, 3 threads, 2 streams"
    ((rows, validations),) = drawn["tradeoff"]
    assert [{**row, "mark": None} for row in rows] == [
        {**row, "mark": None} for row in accuracy_latency(VALIDATION, BENCH)
    ]
    assert validations == {"": VALIDATION}
    assert drawn["search"] == [(PRECISION["int8"]["search"],)]
    assert drawn["training"] == [(tuple(TRAINING),)]


def test_a_figure_of_one_point_is_not_drawn(page, drawn):
    alone = scored()
    text = page(validation=alone, bench=BENCH)
    assert sources(text) == [*OF_ONE_ENGINE, "latency"]  # no difference to show, and one engine in the trade-off
    two = scored(("openvino:int8", score(0.81, -0.001, -0.002)))
    assert sources(page(validation=two)) == OF_ENGINES
    assert sources(page(validation=two, bench=BENCH)) == [*OF_ENGINES, "latency", "tradeoff"]
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

    assert added(validation=VALIDATION) == 4  # parity, nuclei, checks, differences
    assert added(bench=BENCH) == added(precision=PRECISION) == added(bisect=report_fixture.BISECT) == 1
    assert added(training=TRAINING) == added(command="msal-deploy run") == added(notes=["A note"]) == 1
    assert added(validation=VALIDATION, bench=BENCH) == 6
    unchecked = {name: one | {"checks": []} for name, one in VALIDATION["engines"].items()}
    assert added(validation=VALIDATION | {"engines": unchecked}) == 3
    protocols = report_fixture.validation()["protocols"]
    assert added(validation=VALIDATION | {"protocols": protocols}) == 5
    values = report_fixture.validation()
    assert added(validation=values, gallery=report_fixture.gallery(values)) == 6  # examples and protocols, too


def test_what_is_given_is_shown(page):
    text = page(command="msal-deploy run --out here", notes=["First & second", "Third"], data="Some images")
    assert "<title>A title</title>" in text and "<h1>A title</h1>" in text
    assert re.findall("<li>(.*?)</li>", text)[-2:] == ["First &amp; second", "Third"]
    assert "<code>msal-deploy run --out here</code>" in text
    assert f"msal-deploy {__version__}" in text
    facts = page_facts(page(validation=VALIDATION, bench=BENCH))
    assert facts["Pareto-optimal"].lower().startswith(PARETO_OPTIMAL.lower())
    assert "Test data" not in facts


def test_untimed_engines_are_named_only_where_there_is_a_table(page):
    def named(**parts):
        paragraphs = re.findall("<p.*?</p>", page(**parts).partition("</section>")[2])
        return [engine for engine in VALIDATION["engines"] if any(engine in text for text in paragraphs)]

    assert named(validation=VALIDATION) == named(bench=BENCH) == []
    assert named(validation=VALIDATION, bench=BENCH) == ["openvino:fp32"]


def test_the_verdict_comes_first_and_has_the_speed_of_an_engine(page):
    text = page(validation=VALIDATION, bench=BENCH)
    assert text.index('<section class="verdict') < text.index("<h2>")
    state, words = verdict(text)
    assert state == "failed" and words.startswith("Failed. openvino:int8 and openvino:fp32 may replace torch:fp32; ")
    assert "50.0 ms for 2 images, 8.0× as fast." in words and "8.0×" not in verdict(page(validation=VALIDATION))[1]


def test_the_verdict_of_what_is_not_validated(page):
    assert verdict(page()) == ("none", "Not validated No engine was compared with a reference.")


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
    (rows,) = [rows for rows in page_tables(text).values() if "Runs" in rows[0]]
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


def test_the_pictures_of_a_patch(page):
    values = report_fixture.validation()
    one, *others = report_fixture.gallery(values)
    assert one.reason == "best" and {other.reason for other in others} == {"median", "worst", "differs"}
    text = page(validation=values, gallery=[one])
    images = [gallery.outline(one.image, *layer) for layer in (
        (one.truth, gallery.TRUTH), (one.expected, gallery.REFERENCE), (one.predicted, gallery.ENGINE))]  # fmt: skip
    pictures = [*map(gallery.as_jpeg, images), gallery.as_png(gallery.difference(one))]
    assert sources(text)[4:] == pictures and len(set(pictures)) == 4
    caption = " ".join(re.sub("<[^>]*>", "", text.partition("<strong>Best Dice")[2].partition("</div>")[0]).split())
    stem = report_fixture.STEMS[6]
    assert caption == f"· {stem}, bottom-right · openvino:fp32 Dice 0.8430, torch:fp32 0.8430, flipped 0.000%"
    colours = re.findall(r'<i style="background:rgb(\(.*?\))"', text)
    names = ("TRUTH", "REFERENCE", "ENGINE", "ONLY_ENGINE", "ONLY_REFERENCE", "BOTH", "TRUE_OUTLINE")
    assert colours == [str(getattr(gallery, name)) for name in names]
    labels = re.findall("<small>(.*?)</small>", text)
    assert labels == ["truth", "reference: torch:fp32", "engine: openvino:fp32", "difference"]


def test_the_patches_of_all_weights_are_shown_with_their_weights(page):
    values = report_fixture.validation()
    patches = [*report_fixture.gallery(values, "heavy"), *report_fixture.gallery(values, "light")]
    also = [ALSO[0] | {"validate": values}]
    text = page(validation=values, bench=BENCH, weights="heavy", also=also, gallery=patches)
    for weights in ("heavy", "light"):
        assert text.count(f"<h2>Example patches ({weights})") == 1
        part = text.partition(f"<h2>Where the engines differ ({weights})")[2].partition("<h2>")[0]
        assert part.count('<div class="panels">') == 6  # two of each engine that differs
    assert text.count('<div class="panels">') == 2 * 9
    assert page(validation=values, gallery=patches).count('<div class="panels">') == 0  # of other weights


def test_the_figures_of_several_weights(page, drawn):
    page(validation=VALIDATION, bench=BENCH, weights="heavy", also=ALSO)
    ((rows, validations),) = drawn["tradeoff"]
    assert [row["weights"] for row in rows] == [
        row["weights"] for row in accuracy_latency(VALIDATION, BENCH, weights="heavy", also=ALSO)
    ]
    assert validations == {"heavy": VALIDATION, "light": LIGHT}
    assert all(drawn[name] == [(VALIDATION,), (LIGHT,)] for name in OF_ENGINES)


def test_the_verdict_on_several_weights_is_the_worst(page):
    good = scored(("a:fp32", score(0.8, -0.001, -0.0021)))
    bad = scored(("b:fp32", score(0.8, -0.003, -0.0041, passed=False)))
    for first, other, state in ((good, good, "passed"), (good, bad, "failed"), (bad, good, "failed")):
        also = [ALSO[0] | {"validate": other}]
        found, text = verdict(page(validation=first, bench=BENCH, weights="heavy", also=also))
        assert found == state and text.startswith(f"{state.capitalize()}. heavy: ")
    assert "heavy: b:fp32 may not replace torch:fp32; light: a:fp32 may replace torch:fp32" in text
    assert "✗ failed heavy: b:fp32 " in text and "✓ passed light: a:fp32 " in text


def test_other_weights_need_a_validation_of_the_first(page):
    text = page(bench=BENCH, weights="heavy", also=ALSO)
    assert verdict(text)[0] == "none" and "Accuracy × latency" not in text
