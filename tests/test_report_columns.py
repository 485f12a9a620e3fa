"""The tables of the report, read by the headers of their columns; numbers differ, so that none stands for another."""

import pytest
import report_fixture
from columns import assert_layout, by_name, numbers_in, page_facts, page_tables, printed, table_with, terminal_rows

from msal_deploy.report import accuracy_latency, accuracy_latency_table, evidence_plots, plots, write_report
from msal_deploy.report.precision import precision_section

NETWORK = {"backbone": "resnet18", "dense_dilated": True, "channel_attention": False, "boundary_refinement": True}
MANIFEST = {
    "recipe": {"name": "my recipe", "network": NETWORK},
    "licence": "CC0-1.0",
    "versions": {"torch": "2.15.0", "onnx": "1.20"},
    "artifacts": {"checkpoint.safetensors": {"sha256": "0123456789abcdef" * 4}},
}


def score(dice, mean, lower, **changes):
    upper = mean + 2 * (mean - lower)
    verdict = "within" if changes.get("passed", True) else "over"
    return report_fixture.score(dice) | {
        "pixel_dice_pooled": dice + 0.01, "pixel_iou_mean": dice - 0.1, "pixel_iou_pooled": dice - 0.11,
        "precision": dice + 0.02, "recall": dice - 0.02,
        "delta_dice": {"mean": mean, "lower": lower, "upper": upper}, "smallest_detectable_drop": mean - lower,
        "max_abs_delta_probability": 0.03125, "flipped_pixels": 0.0123, "verdict": verdict,
        "verdicts": {"dice": verdict},
        "per_patch": [
            {"stem": stem, "corner": "top-left", "dice": dice, "iou": dice - 0.1, "flipped_pixels": 0} for stem in "ab"
        ],
    } | changes  # fmt: skip


def timed(engine, batch, p50, **setting):
    latency = {"p50": p50, "p90": p50 + 11, "p95": p50 + 22, "p99": p50 + 33, "mean": p50 + 5.5}
    return {
        "engine": engine, "batch": batch, "size": [512, 512], "latency_ms": latency, "images_per_s": 1000 / p50,
        "megapixels_per_s": 2.5, "coefficient_of_variation": 0.011, "runs": 41, "stable": True, "threads": None,
        "streams": 1,
    } | setting  # fmt: skip


VALIDATION = {
    "reference": "torch:fp32", "patches": 9, "images": 3, "budget": 0.0025, "confidence": 0.95, "threshold": 0.4,
    "label_convention": "drawn by hand", "passed": False, "worst_image": 0.02, "budget_aji": None, "budget_pq": None,
    "excludable_share": 0.632, "protocol": "corners", "patch": 384, "empty_patches": [], "protocols": [],
    "engines": {
        "torch:fp32": score(0.82, 0, 0),
        "openvino:int8": score(0.8172, -0.0011, -0.0021),
        "onnxruntime:int8": score(0.8151, -0.0031, -0.0041, passed=False),
        "tensorrt:fp16": score(0.83, 0, 0, finite=False, passed=False, max_abs_delta_probability=None),
        "openvino:fp32": score(0.8199, 0, 0),
    },
}  # fmt: skip
BENCH = {
    "results": [
        timed("torch:fp32", 4, 1600), timed("openvino:int8", 4, 200),
        timed("torch:fp32", 2, 400), timed("openvino:int8", 2, 50, threads=3, streams=2),
        timed("openvino:int8", 2, 80, threads=1, streams=1), timed("onnxruntime:int8", 2, 160),
        timed("tensorrt:fp16", 2, 3.2), timed("triton:x", 2, 1),
    ],
    "environment": {
        "processor": "Some CPU", "memory_gib": 15.6, "load_average": [0.5, 0.25], "versions": {"numpy": "2"},
    },
}  # fmt: skip
# By the median at a batch of 2; 400 / 50, 400 / 160. The reference is the most accurate, INT8 the fastest.
TRADEOFF = {
    "tensorrt:fp16": ("0.8300", "0", "3.2", "125.00×", "no", "✗ not finite"),
    "openvino:int8": ("0.8172", "−0.0021", "50.0", "8.00×", "● yes", "✓ passed"),
    "onnxruntime:int8": ("0.8151", "−0.0041", "160.0", "2.50×", "no", "✗ failed"),
    "torch:fp32": ("0.8200", "–", "400.0", "1.00×", "● yes", "reference"),
}


@pytest.fixture
def page(tmp_path, monkeypatch):
    for plot in ("delta_plot", "latency_plot", "search_plot", "tradeoff_plot"):
        monkeypatch.setattr(plots, plot, lambda *_: "data:")  # the tables are what is read here
    for plot in ("interval_plot", "flips_plot", "calibration_plot"):
        monkeypatch.setattr(evidence_plots, plot, lambda *_: "data:")

    def page(**parts):
        write_report(tmp_path / "report.html", title="t", **{"manifest": MANIFEST} | parts)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return page


def test_the_tradeoff_on_the_page(page):
    rows = table_with(page(validation=VALIDATION, bench=BENCH), "Pareto- optimal")
    headers = (
        "Engine", "Dice mean", "ΔDice lower", "p50, batch 2 ms", "Speed-up over torch:fp32", "Pareto- optimal",
        "Parity",
    )  # fmt: skip
    assert rows == [dict(zip(headers, (name, *cells), strict=True)) for name, cells in TRADEOFF.items()]


def test_the_tradeoff_in_the_terminal():
    table = accuracy_latency_table(VALIDATION, BENCH)
    headers = ("engine", "Dice mean", "ΔDice lower", "p50 ms", "speed-up", "Pareto", "")
    assert terminal_rows(table) == [
        dict(zip(headers, cells, strict=True))
        for cells in (
            ("tensorrt:fp16", "0.8300", "0", "3.2", "125.00×", "", "✗ NaN"),
            ("openvino:int8", "0.8172", "-0.0021", "50.0", "8.00×", "●", "✓"),
            ("onnxruntime:int8", "0.8151", "-0.0041", "160.0", "2.50×", "", "✗"),
            ("torch:fp32", "0.8200", "0", "400.0", "1.00×", "●", "✓"),
        )
    ]
    assert list(numbers_in(str(table.title))) == ["2"]
    assert list(numbers_in(str(table.caption))) == ["0.0025", "32"]
    assert "8.00×" in printed(table)
    assert_layout(table)


def test_the_tradeoff_as_json():
    rows = {row.pop("engine"): row for row in accuracy_latency(VALIDATION, BENCH)}
    assert list(rows) == list(TRADEOFF)
    assert rows["openvino:int8"] == {
        "batch": 2, "threads": 3, "streams": 2, "pixel_dice_mean": 0.8172, "delta_dice_lower": -0.0021,
        "latency_ms_p50": 50, "speed_up": 8, "finite": True, "passed": True, "state": "passed", "pareto_optimal": True,
    }  # fmt: skip
    assert (rows["tensorrt:fp16"]["finite"], rows["tensorrt:fp16"]["passed"]) == (False, False)
    assert [row["pareto_optimal"] for row in rows.values()] == [False, True, False, True]


def test_without_the_reference_there_is_no_speed_up(page):
    bench = BENCH | {"results": [row for row in BENCH["results"] if row["engine"] != "torch:fp32"]}
    rows = by_name(table_with(page(validation=VALIDATION, bench=bench), "Pareto- optimal"))
    assert {row["Speed-up over torch:fp32"] for row in rows.values()} == {"–"}
    rows = by_name(terminal_rows(accuracy_latency_table(VALIDATION, bench)))
    assert {row["speed-up"] for row in rows.values()} == {"–"}


def test_the_engines_that_were_scored_and_not_timed_are_named(page):
    text = page(validation=VALIDATION, bench=BENCH)
    untimed = next(line for line in text.splitlines() if "not timed" in line or "not in the table" in line)
    assert [name for name in VALIDATION["engines"] if name in untimed] == ["openvino:fp32"]


def test_the_settings_of_an_engine_have_their_own_rows(page):
    rows = table_with(page(bench=BENCH), "MP/s")
    found = [(row["Engine"], row["Batch"], row["p50 ms"], row["Speed-up"]) for row in rows]
    assert found[:2] == [
        ("torch:fp32, threads by its runtime, 1 stream", "4", "1600.0", "1.00×"),
        ("openvino:int8, threads by its runtime, 1 stream", "4", "200.0", "8.00×"),
    ]
    assert found[3:5] == [
        ("openvino:int8, 3 threads, 2 streams", "2", "50.0", "8.00×"),
        ("openvino:int8, 1 thread, 1 stream", "2", "80.0", "5.00×"),
    ]


def test_what_was_run_and_where(page):
    facts = page_facts(page(validation=VALIDATION, bench=BENCH, data="Some images"))
    assert "resnet18" in facts["Network"] and "dilated" in facts["Network"] and "refinement" in facts["Network"]
    assert "attention" not in facts["Network"]
    assert (facts["Recipe"], facts["Licence of the weights"]) == ("my recipe", "CC0-1.0")
    assert (facts["Test data"], facts["Labels"]) == ("Some images", "drawn by hand")
    assert facts["Checkpoint"] == "SHA-256 0123456789ab…"
    assert list(numbers_in(facts["Scored"])) == ["9", "3", "384", "0.4"]
    assert (facts["Processor"], facts["Memory GiB"], facts["Load average"]) == ("Some CPU", "15.6", "0.5, 0.25")
    assert facts["Versions"] == "numpy 2"
    assert facts["Versions that exported the bundle"] == "torch 2.15.0, onnx 1.20"


def node(name, module, macs, precision):
    return {"name": name, "op": "Conv", "module": module, "macs": macs, "precision": precision, "moved_bytes": 1}


def trial(nodes, share, dice, mean, lower, latency):
    return {
        "float_nodes": [f"/network/head/{k}" for k in range(nodes)], "int8_share": share, "dice": dice,
        "delta_dice": {"mean": mean, "lower": lower}, "latency_ms": latency,
    }  # fmt: skip


PRECISION = {
    "method": "entropy", "tiles": 40, "images": 21,
    "fp16": {"kept_fp32": ["/a", "/b"], "largest_value": 60123.4, "largest_tensor": "/add", "max_abs_delta": 0.0038},
    "int8": {
        "share_of_macs": 0.947,
        "float_nodes": ["/network/head/0", "/network/tail/Add", "/elsewhere"],
        "layers": [
            node("/network/encoder/x/Conv", "encoder", 1_500_000_000, "int8"),
            node("/network/encoder/y/Conv", "encoder", 500_000_000, "fp32"),
            node("/network/head/0", "head", 330_000_000, "float"),
            node("/other", "", 70_000_000, "int8"),
        ],
        "search": {
            "budget": 0.0005, "patches": 24, "images": 6, "chosen": 2,
            "ranking": [
                {"node": "/network/head/0", "module": "head", "cost": 0.00031},
                {"node": "/network/encoder/x/Conv", "module": "encoder", "cost": 0.00012},
                {"node": "/network/tail/Add", "module": "tail", "cost": -0.00002},
            ],
            "trials": [
                trial(0, 0.99996, 0.81123, -0.00071, -0.00131, 81.25),
                trial(2, 0.93, 0.81194, -0.00020, -0.0005, 90.5),
                trial(3, 0.91, 0.81201, -0.00013, -0.00049, 95.75),
            ],
        },
        "sensitivity": [
            {"dice": 0.81210, "delta_dice": {"mean": -0.00012, "lower": -0.00034}},
            {"dice": 0.81233, "delta_dice": {"mean": 0.00011, "lower": -0.00015}},
            {"dice": 0.81190, "delta_dice": {"mean": -0.00041, "lower": -0.00062}},
        ],
    },
}  # fmt: skip


def test_int8_by_module(page):
    assert table_with(page(precision=PRECISION), "GMAC") == [
        dict(zip(("Module", "Layers", "GMAC", "In INT8", "Nodes in float"), cells, strict=True))
        for cells in (
            ("encoder", "2", "2.00", "75.0%", "y/Conv (fp32)"),
            ("head", "1", "0.33", "0%", "0 (float)"),
            ("(none)", "1", "0.07", "100%", "/elsewhere (float)"),  # which the search did not rank
            ("tail", "0", "0.00", "–", "Add (float)"),
        )
    ]


def test_the_search(page):
    headers = ("Nodes in float", "In INT8", "Dice", "ΔDice mean", "ΔDice lower", "Latency ms", "Budget")
    assert table_with(page(precision=PRECISION), "Latency ms") == [
        dict(zip(headers, cells, strict=True))
        for cells in (
            ("0", ">99.9%", "0.81123", "−0.00071", "−0.00131", "81.2", "✗ exceeded"),
            ("2", "93.0%", "0.81194", "−0.00020", "−0.00050", "90.5", "✓ kept"),  # just so
            ("3 · chosen", "91.0%", "0.81201", "−0.00013", "−0.00049", "95.8", "✓ kept"),
        )
    ]


def test_one_trial_is_chosen(page):
    search = PRECISION["int8"]["search"] | {"chosen": 1}
    rows = table_with(page(precision=PRECISION | {"int8": PRECISION["int8"] | {"search": search}}), "Latency ms")
    assert [row["Nodes in float"] for row in rows] == ["0", "2 · chosen", "3"]


def test_fifteen_nodes_of_the_ranking_are_shown_and_the_others_folded(page):
    ranking = [{"node": f"/n{k}", "module": "m", "cost": 0.001 - k / 1e5} for k in range(17)]
    int8 = PRECISION["int8"] | {"search": PRECISION["int8"]["search"] | {"ranking": ranking}}
    shown, _, folded = page(precision=PRECISION | {"int8": int8}).partition("<details>")
    assert "/n14<" in shown and "/n15<" not in shown
    assert "/n15<" in folded and "/n14<" not in folded


@pytest.mark.parametrize(
    ("left_out", "title"),
    [((), "INT8 and FP16"), (("fp16",), "INT8"), (("int8",), "FP16"), (("int8", "fp16"), "nothing")],
)
def test_the_section_is_named_after_its_graphs(left_out, title):
    section = precision_section(PRECISION | dict.fromkeys(left_out))
    assert section["title"] == title
    assert bool(section["spread"]) == bool(section["modules"]) == ("int8" not in left_out)


def test_what_the_page_rounds():
    section = precision_section(PRECISION)
    assert [module["gmac"] for module in section["modules"]] == [2.0, 0.33, 0.07, 0.0]
    assert section["spread"] == "0.00043"


def test_small_layers_count_and_a_node_may_be_named_after_another_module():
    layers = [node("/network/encoder/a", "tail", 1, "fp16"), node("/network/tail/b", "tail", 0, "fp16")]
    (row,) = precision_section(
        PRECISION | {"int8": PRECISION["int8"] | {"layers": layers, "search": None, "float_nodes": []}}
    )["modules"]
    assert (row["layers"], row["float"]) == (1, ["/network/encoder/a (fp16)", "b (fp16)"])


def test_the_ranking_of_nodes(page):
    headers = ("Node", "Dice gained in float", "In the INT8 graph", "Module")
    assert table_with(page(precision=PRECISION), "Node") == [
        dict(zip(headers, cells, strict=True))
        for cells in (
            ("/network/head/0", "+0.00031", "float", "head"),
            ("/network/encoder/x/Conv", "+0.00012", "INT8", "encoder"),
            ("/network/tail/Add", "−0.00002", "float", "tail"),
        )
    ]


def test_the_draws_of_calibration_tiles(page):
    text = page(precision=PRECISION)
    assert table_with(text, "Draw") == [
        dict(zip(("Draw", "Dice", "ΔDice mean", "ΔDice lower"), cells, strict=True))
        for cells in (
            ("1", "0.81210", "−0.00012", "−0.00034"),
            ("2", "0.81233", "+0.00011", "−0.00015"),
            ("3", "0.81190", "−0.00041", "−0.00062"),
        )
    ]
    sentence = next(line for line in text.splitlines() if "0.00043" in line)  # 0.81233 − 0.81190
    assert list(numbers_in(sentence.removeprefix("<p>").replace("INT8", ""))) == ["3", "0.00043"]


def test_the_facts_of_both_precisions(page):
    facts = page_facts(page(precision=PRECISION))
    assert list(numbers_in(facts["Calibration"])) == ["40", "21"] and "entropy" in facts["Calibration"]
    assert facts["FP16: kept in FP32"] == "2: /a, /b"
    assert list(numbers_in(facts["FP16: largest value"].replace("FP16", ""))) == ["60,123", "65,504"]
    assert "/add" in facts["FP16: largest value"]
    assert facts["FP16: largest |Δp|"].startswith("3.8e−03 ")
    assert list(numbers_in(facts["INT8: share"])) == ["94.7%"]
    assert list(numbers_in(facts["INT8: judged on"])) == ["24", "6", "0.0005"]
    assert facts["INT8: back in float"] == "3: /network/head/0, /network/tail/Add, /elsewhere"
    minmax = page_facts(page(precision=PRECISION | {"method": "minmax", "tiles": 1, "images": 1}))
    assert "min-max" in minmax["Calibration"] and "1 tile of 1 training image;" in minmax["Calibration"]


@pytest.mark.parametrize(("largest", "text"), [(100.4, "100"), (99.5, "99.5"), (12.345, "12.3"), (0.01234, "0.0123")])
def test_the_largest_value_of_fp16(page, largest, text):
    fp16 = PRECISION["fp16"] | {"largest_value": largest, "kept_fp32": []}
    facts = page_facts(page(precision=PRECISION | {"fp16": fp16}))
    assert next(numbers_in(facts["FP16: largest value"])) == text
    assert facts["FP16: kept in FP32"] == "none"


# --- several weights -------------------------------------------------------------------------------------------------

LIGHT = VALIDATION | {
    "engines": {
        "torch:fp32": score(0.8162, 0, 0),
        "openvino:fp32": score(0.8163, 0.0001, -0.0003),
        "openvino:int8": score(0.8160, -0.0002, -0.0012),
        "onnxruntime:int8": score(0.8101, -0.0061, -0.0071, passed=False),
        "tensorrt:fp16": score(0.8160, 0, 0, finite=False, passed=False, max_abs_delta_probability=None),
        "onnxruntime:fp16": score(0.8162, 0, 0),
    },
}  # fmt: skip
LIGHT_BENCH = {
    "results": [
        timed("torch:fp32", 1, 100), timed("openvino:int8", 1, 10),  # a batch that the first weights do not have
        timed("torch:fp32", 2, 200), timed("openvino:fp32", 2, 100), timed("openvino:int8", 2, 25),
        timed("tensorrt:fp16", 2, 25), timed("onnxruntime:int8", 2, 20),
    ],
    "environment": {},
}  # fmt: skip
LIGHT_MANIFEST = MANIFEST | {
    "recipe": {"name": "light", "network": NETWORK | {"backbone": "resnet10"}},
    "artifacts": {"checkpoint.safetensors": {"sha256": "fedcba9876543210" * 4}},
}
ALSO = [{"weights": "light", "manifest": LIGHT_MANIFEST, "validate": LIGHT, "bench": LIGHT_BENCH}]
# Speed-ups are 400 ms (torch:fp32 of the first weights) divided by the median. On its own, light has openvino:fp32 on
# the front, too: there it is the most accurate; the INT8 graph of the first weights is faster and more accurate.
BOTH = {
    ("tensorrt:fp16", "heavy"): ("0.8300", "0", "3.2", "125.00×", "no", "✗ not finite"),
    ("onnxruntime:int8", "light"): ("0.8101", "−0.0071", "20.0", "20.00×", "● yes", "✗ failed"),
    ("openvino:int8", "light"): ("0.8160", "−0.0012", "25.0", "16.00×", "● yes", "✓ passed"),
    ("tensorrt:fp16", "light"): ("0.8160", "0", "25.0", "16.00×", "no", "✗ not finite"),
    ("openvino:int8", "heavy"): ("0.8172", "−0.0021", "50.0", "8.00×", "● yes", "✓ passed"),
    ("openvino:fp32", "light"): ("0.8163", "−0.0003", "100.0", "4.00×", "no", "✓ passed"),
    ("onnxruntime:int8", "heavy"): ("0.8151", "−0.0041", "160.0", "2.50×", "no", "✗ failed"),
    ("torch:fp32", "light"): ("0.8162", "–", "200.0", "2.00×", "no", "reference"),
    ("torch:fp32", "heavy"): ("0.8200", "–", "400.0", "1.00×", "● yes", "reference"),
}


def test_several_weights_on_the_page(page):
    text = page(validation=VALIDATION, bench=BENCH, precision=PRECISION, weights="heavy", also=ALSO)
    headers = (
        "Engine", "Weights", "Dice mean", "ΔDice lower", "p50, batch 2 ms", "Speed-up over torch:fp32",
        "Pareto- optimal", "Parity",
    )  # fmt: skip
    rows = table_with(text, "Pareto- optimal")
    assert rows == [dict(zip(headers, (*names, *cells), strict=True)) for names, cells in BOTH.items()]
    facts = page_facts(text)
    assert facts["Weights"] == "heavy" and list(facts).index("Weights") + 1 == list(facts).index("Network")
    assert facts["Also light"] == (
        "MSAL-Net, resnet10 with dense dilated convolutions, boundary refinement; SHA-256 fedcba987654…; CC0-1.0"
    )
    assert "Speed-up: over torch:fp32 of heavy." in text and "separate run" in text
    untimed = next(line for line in text.splitlines() if "Not timed" in line)
    assert untimed.endswith("openvino:fp32 of heavy, onnxruntime:fp16 of light.</p>")
    assert {heading for heading in page_tables(text) if "(heavy)" in heading} >= {
        "Parity with torch:fp32 (heavy)",
        "Latency (heavy)",
    }


def test_other_weights_without_a_checkpoint(page):
    also = [ALSO[0] | {"manifest": LIGHT_MANIFEST | {"artifacts": {}}}]
    facts = page_facts(page(validation=VALIDATION, bench=BENCH, weights="heavy", also=also))
    assert facts["Also light"].endswith("boundary refinement; CC0-1.0")


def test_the_name_of_the_only_weights_changes_nothing(page):
    reports = {"validation": VALIDATION, "bench": BENCH, "precision": PRECISION}
    assert page(**reports, weights="heavy") == page(**reports)
    assert accuracy_latency(VALIDATION, BENCH, weights="heavy") == accuracy_latency(VALIDATION, BENCH)
    assert printed(accuracy_latency_table(VALIDATION, BENCH, weights="heavy")) == printed(
        accuracy_latency_table(VALIDATION, BENCH)
    )


def test_several_weights_in_the_terminal():
    table = accuracy_latency_table(VALIDATION, BENCH, weights="heavy", also=ALSO)
    rows = terminal_rows(table)
    marks = {"no": "", "● yes": "●"}
    assert [(row["engine"], row["weights"]) for row in rows] == list(BOTH)
    assert [(row["Dice mean"], row["p50 ms"], row["speed-up"], row["Pareto"]) for row in rows] == [
        (dice, p50, speed_up, marks[optimal]) for dice, _, p50, speed_up, optimal, _ in BOTH.values()
    ]
    assert [row["ΔDice lower"] for row in rows][:3] == ["0", "-0.0071", "-0.0012"]
    assert "over torch:fp32 of heavy" in str(table.caption)
    assert "over torch" not in str(accuracy_latency_table(VALIDATION, BENCH).caption)


def test_a_long_name_of_weights_is_folded_and_not_cut_off():
    name = 40 * "Q"
    bench = {
        "results": [row | {"engine": row["engine"].replace("tensorrt:", "tensorrt_rtx:")} for row in BENCH["results"]]
    }
    engines = {name.replace("tensorrt:", "tensorrt_rtx:"): one for name, one in VALIDATION["engines"].items()}
    text = printed(accuracy_latency_table(VALIDATION | {"engines": engines}, bench, weights=name, also=ALSO))
    lines = [line for line in text.splitlines() if "tensorrt_rtx:fp16" in line]
    assert len(lines) == 1 and "125.00×" in lines[0] and "NaN" in lines[0]
    assert text.count("Q") == 40 * 5  # in each of the four rows, and in the caption


def test_several_weights_as_json():
    rows = accuracy_latency(VALIDATION, BENCH, weights="heavy", also=ALSO)
    assert [(row["engine"], row["weights"]) for row in rows] == list(BOTH)
    assert rows[2] == {
        "weights": "light", "engine": "openvino:int8", "batch": 2, "threads": None, "streams": 1,
        "pixel_dice_mean": 0.8160, "delta_dice_lower": -0.0012, "latency_ms_p50": 25, "speed_up": 16, "finite": True,
        "passed": True, "state": "passed", "pareto_optimal": True,
    }  # fmt: skip
    assert [row["pareto_optimal"] for row in rows] == [cells[4] == "● yes" for cells in BOTH.values()]
    alone = {row["engine"]: row["pareto_optimal"] for row in accuracy_latency(LIGHT, LIGHT_BENCH)}
    assert alone["openvino:int8"]


def test_three_weights_have_one_front():
    third = {"weights": "third", "validate": LIGHT, "bench": {"results": [timed("openvino:fp32", 2, 10)]}}
    rows = accuracy_latency(VALIDATION, BENCH, weights="heavy", also=[*ALSO, third])
    front = [(row["engine"], row["weights"]) for row in rows if row["pareto_optimal"]]
    assert front == [("openvino:fp32", "third"), ("openvino:int8", "heavy"), ("torch:fp32", "heavy")]
    assert [row["speed_up"] for row in rows if row["weights"] == "third"] == [40]


def test_speed_ups_need_the_reference_of_the_first_weights():
    bench = {"results": [row for row in BENCH["results"] if row["engine"] != "torch:fp32"]}
    rows = accuracy_latency(VALIDATION, bench, weights="heavy", also=ALSO)
    assert {row["speed_up"] for row in rows} == {None}


def test_other_weights_have_no_rows_at_a_batch_that_the_first_do_not_have():
    assert accuracy_latency(VALIDATION, {"results": []}, weights="heavy", also=ALSO) == []
