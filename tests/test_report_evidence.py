"""Nuclei, checks, differences, protocols and bisection on the page, read by the headers of their columns."""

import re

import pytest
from columns import by_name, numbers_in, page_facts, page_tables
from report_fixture import BISECT, CORNERS, FAILED, MANIFEST, PASSED, STEMS, check, delta, score, validation

from msal_deploy import metrics
from msal_deploy.report import evidence_plots, plots, write_report
from msal_deploy.report.evidence import bisect_section, evidence, metric_columns, protocol_range, protocol_rows

NUCLEI = tuple(
    metrics.Metric(name, label, None, f"{name}_mean", f"{name}_pooled", f"What {label} means.", page)
    for name, label, page in (("aji", "AJI", ("mean", "pooled")), ("pq", "PQ", ("pooled",)), ("f1", "F1", ("mean",)))
)


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "NUCLEI_METRICS", NUCLEI)
    monkeypatch.setattr(plots, "delta_plot", lambda *_: "data:")
    for plot in ("interval_plot", "flips_plot", "calibration_plot"):
        monkeypatch.setattr(evidence_plots, plot, lambda *_: "data:")

    def page(engines=None, bisect=None, **changes):
        values = validation(engines, **changes)
        write_report(tmp_path / "r.html", title="t", manifest=MANIFEST, validation=values, bisect=bisect)
        return (tmp_path / "r.html").read_text(encoding="utf-8")

    return page


def tables(text, heading):
    return page_tables(text)[heading]


def test_the_bounds_of_dice(page):
    rows = by_name(tables(page(), "Parity with torch:fp32"))
    bounds = ("ΔDice mean", "ΔDice lower", "ΔDice upper")
    assert [rows["onnxruntime:int8"][bound] for bound in bounds] == ["−0.0136", "−0.0200", "−0.0072"]
    assert [rows["openvino:int8"][bound] for bound in bounds] == ["−0.0004", "−0.0011", "+0.0003"]
    assert [rows["torch:fp32"][bound] for bound in bounds] == ["–", "–", "–"]
    assert rows["torch:fp32"]["Dice mean"] == "0.8118" and "AJI mean" not in rows["torch:fp32"]
    assert {name: row["Verdict"] for name, row in rows.items()} == {
        "torch:fp32": "reference", "openvino:fp32": "✓ passed", "openvino:int8": "✓ passed",
        "onnxruntime:fp16": "? undecided", "onnxruntime:int8": "✗ failed",
    }  # fmt: skip


def test_an_engine_is_the_reference_by_its_name_alone(page):
    rows = by_name(tables(page({"a:fp32": PASSED, "z:fp32": PASSED}), "Parity with torch:fp32"))
    assert [row["Verdict"] for row in rows.values()] == ["reference", "✓ passed", "✓ passed"]


def test_the_worst_image_of_each_engine(page):
    rows = tables(page(), "Worst image of each engine")
    headers = ("Engine", "Image", "ΔDice of the image", "Images ruined")
    assert rows == [
        dict(zip(headers, cells, strict=True))
        for cells in (
            ("openvino:fp32", STEMS[0], "0", "0 of 7"),
            ("openvino:int8", STEMS[6], "−0.0008", "0 of 7"),
            ("onnxruntime:fp16", STEMS[6], "−0.0026", "0 of 7"),
            ("onnxruntime:int8", STEMS[6], "−0.0412", "2 of 7"),
        )
    ]
    assert "Worst image of each engine" not in page_tables(page({"a": PASSED | {"worst_image": None}}))


def test_empty_patches_are_counted_and_named(page):
    def sentence(*empty):
        text = page({"a": PASSED}, empty_patches=[{"stem": stem, "corner": corner} for stem, corner in empty])
        return " ".join(line.removeprefix("<p>") for line in text.splitlines() if "no true nucleus" in line)

    one = sentence(("x", "top-left"))
    assert one.startswith("1 patch has no true nucleus") and one.endswith("(x top-left).</p>")
    two = sentence(("x", "top-left"), ("y", "whole"))
    assert two.startswith("2 patches have no true nucleus") and two.endswith("(x top-left, y whole).</p>")
    assert sentence() == ""


def test_the_nuclei(page):
    rows = by_name(tables(page(), "Nuclei"))
    headers = ["AJI mean", "AJI pooled", "PQ", "F1", "True", "Found", "Split", "Merged", "Lost", "Gained"]
    assert list(rows["torch:fp32"]) == ["Engine", *headers]
    cells = {name: [row[header] for header in headers] for name, row in rows.items()}
    assert cells["torch:fp32"] == ["0.6518", "0.6558", "0.6258", "0.8018", "6700", "6912", "–", "–", "–", "–"]
    assert cells["onnxruntime:int8"] == [
        "0.6382", "0.6422", "0.6122", "0.7882", "6700", "7403", "121", "87", "203", "344",
    ]  # fmt: skip
    assert "F1 What F1 means." in " ".join(re.sub("<[^>]*>", " ", page()).split())


def test_the_change_of_aji_and_pq(page):
    measured = {"delta_aji": delta(-0.01, 0.004), "delta_pq": delta(0.02, 0.0011)}
    verdicts = {"dice": "within", "aji": "undecided", "pq": "within"}
    engines = {
        "a": PASSED | measured | {"verdicts": verdicts},
        "b": FAILED | {"verdicts": {"dice": "over", "pq": "over"}},
    }
    first, second = tables(page(engines), "Change of AJI and PQ")
    assert first == {
        "Engine": "a", "ΔAJI mean": "−0.0100", "ΔAJI lower": "−0.0140", "ΔAJI upper": "−0.0060",
        "AJI budget": "? undecided", "ΔPQ mean": "+0.0200", "ΔPQ lower": "+0.0189", "ΔPQ upper": "+0.0211",
        "PQ budget": "✓ within",
    }  # fmt: skip
    assert (second["AJI budget"], second["PQ budget"]) == ("none", "✗ over")
    assert "Change of AJI and PQ" not in page_tables(page({}))  # the reference alone


def test_the_checks(page):
    checks = [check("batch", False, 0.41, "row 2 of a batch of 4"), check("rebuild", False, None)]
    checks += [check("crop") | {"tolerance": None, "mean_abs_difference": 3.14e-4, "mean_tolerance": 0.002}]
    text = page({"a": score(checks=checks)})
    rows = tables(text, "Checks without labels")
    assert [row["Engine"] for row in rows] == ["torch:fp32"] * 3 + ["a"] * 3
    found = [tuple(row.values())[1:] for row in rows[3:]]
    headers = ["Check", "Result", "Largest |Δp|", "Tolerance", "Mean |Δp|", "Tolerance of the mean", "Where"]
    assert list(rows[0])[1:] == headers
    assert found == [
        ("batch", "✗ failed", "4.1e−01", "1.0e−03", "–", "–", "row 2 of a batch of 4"),
        ("rebuild", "✗ failed", "–", "1.0e−03", "–", "–", "–"),
        ("crop", "✓ passed", "1.2e−07", "–", "3.1e−04", "2.0e−03", "–"),
    ]
    failed = re.findall("<p><span class=.failed.>.*?</p>", text)
    assert re.sub("<[^>]*>", "", failed[0]) == (
        "✗ a, batch: The same tile alone and in a batch differs in row 2 of a batch of 4: by 0.41."
    )
    assert len(failed) == 2


def quantiles(**deltas):
    return {"quantiles": [{"share": float(f"0.{name[1:]}"), "delta": value} for name, value in deltas.items()]}


def test_the_quantiles(page):
    engines = {
        "a": score(differences=PASSED["differences"] | quantiles(q5=1.5e-6, q999=0.25)),
        "b": score(differences=PASSED["differences"] | quantiles(q99=0.125, q5=0.0)),
    }
    rows = tables(page(engines), "Differences in probability")
    assert rows == [
        {"Pixels": "50%", "a |Δp| up to": "1.5e−06", "b |Δp| up to": "0"},
        {"Pixels": "99%", "a |Δp| up to": "–", "b |Δp| up to": "1.2e−01"},
        {"Pixels": "99.9%", "a |Δp| up to": "2.5e−01", "b |Δp| up to": "–"},
    ]
    assert "Differences in probability" not in page_tables(page({}))


def flips(*rows):
    bins = [{"from_um": 0, "to_um": to_um, "pixels": 100, "flipped": flipped, "share": 0.5} for to_um, flipped in rows]
    return score(differences=PASSED["differences"] | {"flips_by_distance": bins})


def test_flipped_pixels_near_a_boundary():
    engines = {
        "a": flips((0.5, 3), (1, 4), (1.5, 2), (None, 1)),  # 7 of 10 within 1 µm
        "b": flips((0.5, 0), (None, 0)),
        "c": flips((2, 1), (None, 0)),
        "d": flips((0.5, 2000), (None, 0)),
    }
    assert evidence("", validation(engines))["near"] == [
        "a: 70.0% of 10 flipped pixels within 1 µm",
        "b: no pixel flipped",
        "c: 0% of 1 flipped pixel within 1 µm",
        "d: 100% of 2,000 flipped pixels within 1 µm",
    ]


def test_the_sections_are_named_after_the_weights():
    assert evidence("heavy", validation())["of"] == " (heavy)"
    assert (evidence("", validation())["of"], evidence("x", validation())["weights"]) == ("", "x")


def test_the_columns_of_a_registry_name_the_average_where_there_are_two():
    assert metric_columns(NUCLEI) == [
        {"label": "AJI", "key": "aji_mean", "average": "mean"},
        {"label": "AJI", "key": "aji_pooled", "average": "pooled"},
        {"label": "PQ", "key": "pq_pooled", "average": ""},
        {"label": "F1", "key": "f1_mean", "average": ""},
    ]


def test_the_protocols(page):
    rows = tables(page(), "How much the protocol matters")
    assert [row["Protocol"] for row in rows] == ["corners"] * 5 + ["tiles"] * 2 + ["resize"] * 2
    assert (rows[2]["Engine"], rows[2]["Dice mean"], rows[2]["Patches"]) == ("openvino:int8", "0.8114", "14")
    assert rows[5] == {
        "Protocol": "tiles", "Engine": "torch:fp32", "Patches": "7", "Dice mean": "0.8138", "IoU mean": "0.6938",
        "AJI mean": "0.6538", "PQ mean": "0.6238",
    }  # fmt: skip
    assert protocol_rows([]) == []


def test_how_much_the_protocol_moves_dice():
    def one(protocol, **dice):
        return {"protocol": protocol, "engines": {name: {"pixel_dice_mean": value} for name, value in dice.items()}}

    protocols = [one("resize", a=0.81, b=0.1), one("corners", b=0.9, a=0.83), one("tiles", a=0.80, b=0.5)]
    text = protocol_range([*protocols, one("other", b=0.0)])
    assert text == "The protocol alone moves the Dice of a by 0.0300: lowest with tiles, highest with corners."


def test_the_bisection(page):
    text = page(bisect=BISECT)
    heading = "Which nodes cost Dice in onnxruntime:int8"
    headers = ("Node", "Gain in float", "Rounding error", "Scale", "In the proposal", "Module")
    assert tables(text, heading) == [
        dict(zip(headers, cells, strict=True))
        for cells in (
            ("/network/decoder/up1/Conv", "+0.01170", "2.13%", "0.25×", "float", "decoder.up1"),
            ("/network/head/head.2/Conv", "+0.00090", "overflow", "–", "unchanged", "head.2"),
            ("/network/encoder/l1/Conv", "−0.00010", "0.19%", "1.04×", "unchanged", "encoder.l1"),
        )
    ]
    facts = page_facts(text)
    assert facts["Measured on"] == "12 patches of 6 images, 23 graphs run by openvino:int8"
    measured = facts["ΔDice of the engine"]
    assert list(numbers_in(measured.replace("fp32", ""))) == ["−0.0131", "−0.0183", "−0.0079", "0.002"]
    assert "compared with torch:fp32" in measured
    assert (
        "With 1 of 45 nodes in float (/network/decoder/up1/Conv), 3.1% of the multiply-accumulates, it is within the "
        "budget: the lower bound of the mean ΔDice rises from −0.0183 to −0.0013." in text
    )
    assert "up to 3.5e−04\nmay be chance" in text


def test_a_bisection_on_one_patch_that_finds_nothing(page):
    changes = {"patches": 1, "images": 1, "evaluations": 1, "float_nodes": [], "nodes": []}
    text = page(bisect=BISECT | changes)
    assert page_facts(text)["Measured on"] == "1 patch of 1 image, 1 graph run by openvino:int8"
    assert "It is within the budget on these patches; no node needs to return to float." in text
    assert "Which nodes cost Dice in onnxruntime:int8" not in page_tables(text) and "may be chance" not in text


def test_of_several_nodes_all_are_named():
    found = bisect_section(BISECT | {"float_nodes": [row["node"] for row in BISECT["nodes"]][:2]})
    assert "With 2 of 45 nodes in float (/network/decoder/up1/Conv, /network/head/head.2/Conv)" in found["conclusion"]
    assert [row["returned"] for row in found["rows"]] == [True, True, False]


def test_patches_without_a_nucleus_have_no_point(monkeypatch):
    drawn = []

    class Axes:
        def plot(self, x, y, *_, **__):
            drawn.append((x, y))

        def __getattr__(self, name):
            return lambda *_, **__: ([], []) if "handles" in name else None

    class Figure(Axes):
        def add_subplot(self):
            return Axes()

    for name, stand_in in (("new_figure", lambda _: Figure()), ("style_axes", lambda axes: axes)):
        monkeypatch.setattr(plots, name, stand_in)
    monkeypatch.setattr(plots, "as_svg", lambda *_: "data:")
    plots.delta_plot(validation({"a": FAILED}))
    ((deltas, rows),) = drawn
    assert len(deltas) == len(rows) == len(STEMS) * len(CORNERS) - 1
