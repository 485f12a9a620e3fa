"""Bench reports in files: what is read back, what is refused with which sentence, CSV and Markdown."""

import csv
import json
import re

import msgspec
import pytest
from saved_reports import MACHINE, report, saved

from msal_deploy.bench import BenchReport, BenchResult, Setting, Timing, formats
from msal_deploy.bench.formats import markdown, read_report, write_csv, write_markdown
from msal_deploy.bench.results import Failure
from msal_deploy.errors import BadInput

TORCH, INT8 = [400.0, 404.0, 396.0, 400.0], [80.0, 80.8, 79.2, 80.0]
REMEDY = "write it again with msal-deploy bench --json"


def full(**changes):
    """Return the JSON of a report with every part."""
    made = report({"torch:fp32": TORCH, "openvino:int8": INT8})
    return made | {
        "failed": [{"engine": "onnxruntime:int8", "batch": 4, "threads": None, "streams": 1, "message": "it | died"}],
        "unavailable": [{"engine": "tensorrt:fp16", "needs": "an NVIDIA GPU"}],
    } | changes  # fmt: skip


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "report.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_a_report_is_read_back(file):
    one = read_report(file(full()))
    assert (one.baseline, one.interrupted, len(one.results)) == ("torch:fp32", False, 2)
    result = one.results[1]
    assert (result.setting, result.size) == (("openvino:int8", 1, None, 1), (512, 512))
    assert (result.speed_up.ratio, result.latency_ms.p50, result.peak_memory_mb) == (5.0, 80.0, 812.4)
    assert one.failed[0].message == "it | died" and one.unavailable[0].needs == "an NVIDIA GPU"
    assert one.machine == "Some CPU, 2 threads"


def test_what_bench_writes_is_what_is_read(file):
    common = {"size": (512, 512), "microns_per_pixel": 0.25}
    slow = BenchResult(engine="torch:fp32", batch=1, timing=Timing(((400.0, 402.0), (398.0, 400.0))), **common)
    fast = BenchResult(
        engine="openvino:int8", batch=1, timing=Timing(((80.0, 81.0), (79.0, 80.0))), load_s=0.5, peak_memory_mb=700.0,
        **common,
    )  # fmt: skip
    failure = Failure(Setting(engine="onnxruntime:int8", batch=1), BadInput("it died"))
    made = BenchReport((slow, fast), MACHINE, "torch:fp32", (failure,), {"tensorrt:fp16": "a GPU"}, True)
    read = read_report(file(made.to_json()))
    assert read == formats.saved(made)
    assert (read.interrupted, read.failed[0].engine, read.unavailable[0].engine) == (
        True, "onnxruntime:int8", "tensorrt:fp16",
    )  # fmt: skip
    assert read.results[1].speed_up.ratio == pytest.approx(made.speed_up(fast).ratio)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"schema": "other 1"}', f"FILE has the schema 'other 1', not 'msal-deploy bench 2'; {REMEDY}"),
        ('{"a": 1}', f"FILE has no schema, not 'msal-deploy bench 2'; {REMEDY}"),
        ('{"schema": 2}', f"FILE has the schema '2', not 'msal-deploy bench 2'; {REMEDY}"),
        (
            '{"results": [], "environment": {}}',
            f"FILE is a bench report of an older version, without intervals; {REMEDY}",
        ),
        ("[1, 2]", "FILE is not a bench report of this version (Expected `object`, got `array`); " + REMEDY),
        ('{"schema": "msal-deploy bench 2", "results": [', "is not a bench report of this version ("),
        ("latency: 3 ms", "is not a bench report of this version ("),
        ("", "is not a bench report of this version ("),
        ('{"schema": "msal-deploy bench 2"}', "(Object missing required field `baseline`)"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_one_sentence(file, content, sentence):
    path = file(content)
    with pytest.raises(BadInput) as caught:
        read_report(path)
    text = str(caught.value)
    assert sentence.replace("FILE", str(path)) in text and text.endswith(REMEDY) and "\n" not in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"speed_up": {"ratio": 5.0, "low": 5.1, "high": 5.2}}, "outside 5.1 to 5.2"),
        ({"speed_up": {"ratio": 0.0, "low": 0.0, "high": 0.0}}, "the speed-up of openvino:int8 is 0"),
        ({"speed_up": {"ratio": 5.0, "low": 5.0}}, "missing required field `high`"),
        ({"batch": 0}, ">= 1"),
        ({"images_per_s": 0}, "> 0"),
        ({"window_medians_ms": [1.0, -1.0]}, "> 0"),
        ({"latency_ms": {"p50": 1.0}}, "missing required field `p90`"),
        ({"size": [512]}, "length 2"),
        ({"engine": 3}, "Expected `str`"),
    ],
)
def test_impossible_values_are_refused(file, change, said):
    content = full()
    content["results"][1] |= change
    with pytest.raises(BadInput, match=re.escape(said)):
        read_report(file(content))


@pytest.mark.parametrize("key", ["baseline", "results", "failed", "unavailable", "interrupted", "environment"])
def test_every_part_is_required(file, key):
    content = full()
    del content[key]
    with pytest.raises(BadInput, match=r"older version|missing required field"):
        read_report(file(content))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(file, share):
    text = json.dumps(full())
    with pytest.raises(BadInput, match="is not a bench report of this version"):
        read_report(file(text[: int(share * len(text))]))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(BadInput, match="does not exist; check the path"):
        read_report(tmp_path / "none.json")
    with pytest.raises(BadInput, match="is a folder; name a file"):
        read_report(tmp_path)


def read(content):
    return msgspec.convert(content, formats.SavedReport)


def test_csv_has_every_number_of_every_setting(tmp_path):
    write_csv(tmp_path / "r.csv", read(full()))
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["state"], row["engine"], row["message"]) for row in rows] == [
        ("timed", "torch:fp32", ""), ("timed", "openvino:int8", ""), ("failed", "onnxruntime:int8", "it | died"),
        ("unavailable", "tensorrt:fp16", "an NVIDIA GPU"),
    ]  # fmt: skip
    expected = {
        "state": "timed", "engine": "openvino:int8", "batch": "1", "height": "512", "width": "512", "threads": "",
        "streams": "1", "p50_ms": "80.0", "p90_ms": "88.0", "p95_ms": "96.0", "p99_ms": "104.0", "mean_ms": "84.0",
        "runs": "20", "coefficient_of_variation": "0.01", "stable": "True", "baseline": "torch:fp32", "speed_up": "5.0",
        "speed_up_low": "5.0", "speed_up_high": "5.0", "peak_memory_mb": "812.4", "load_s": "0.61", "message": "",
    }  # fmt: skip
    assert {key: value for key, value in rows[1].items() if "per_s" not in key} == expected
    rates = [float(rows[1][f"{name}_per_s"]) for name in ("images", "megapixels", "square_millimetres")]
    assert rates == pytest.approx([1000 / 84, 0.262144 * 1000 / 84, 0.016384 * 1000 / 84])
    assert (rows[2]["batch"], rows[2]["p50_ms"], rows[3]["batch"]) == ("4", "", "")


def test_markdown_is_a_table_with_the_machine_below():
    assert markdown(read(full())) == (
        "| engine | batch | p50, ms | p90, ms | p99, ms | images/s | speed-up | peak, MB |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| `torch:fp32` | 1 | 400.0 | 440.0 | 520.0 | 2.38 | 1 | 812 |\n"
        "| `openvino:int8` | 1 | 80.0 | 88.0 | 104.0 | 11.90 | 5.00 (5.00–5.00) | 812 |\n"
        "\n"
        "512 × 512 px, Some CPU, 2 threads, msal-deploy 1.2, 2026-01-02. "
        "Speed-up over `torch:fp32` with its interval of 95%.\n"
        "\n"
        "Failed: `onnxruntime:int8` with a batch of 4: it \\| died.\n"
        "\n"
        "Not available there: `tensorrt:fp16`: an NVIDIA GPU.\n"
    )


def test_markdown_says_what_is_unknown_unstable_swept_and_interrupted():
    content = full(interrupted=True, failed=[], unavailable=[])
    content["results"][0] |= {"speed_up": None, "peak_memory_mb": None, "threads": 2}
    content["results"][1] |= {"stable": False, "speed_up": {"ratio": 5.0, "low": 4.875, "high": 5.126}}
    lines = markdown(read(content)).splitlines()
    assert lines[0] == "| engine | batch | threads | p50, ms | p90, ms | p99, ms | images/s | speed-up | peak, MB |"
    assert lines[2] == "| `torch:fp32` | 1 | 2 | 400.0 | 440.0 | 520.0 | 2.38 | – | – |"
    assert lines[3] == "| `openvino:int8` | 1 | auto | 80.0 | 88.0 | 104.0 | 11.90 | 5.00 (4.88–5.13) unstable | 812 |"
    assert lines[-1] == "Interrupted: results may have fewer windows, or be missing."


def test_markdown_of_a_report_without_results_and_with_a_gpu():
    one = msgspec.structs.replace(saved({"torch:fp32": TORCH}), results=(), environment={"gpus": ["H100", "H100"]})
    assert markdown(one).splitlines()[-1].startswith("nothing timed, an unknown processor, H100, H100. Speed-up")


def test_markdown_names_the_engines_that_need_the_same_thing_together():
    needs = [{"engine": f"tensorrt:{name}", "needs": "a GPU"} for name in ("fp16", "int8")]
    content = full(unavailable=[*needs, {"engine": "x", "needs": "x 2"}])
    assert markdown(read(content)).splitlines()[-3:] == [
        "Not available there: `tensorrt:fp16`, `tensorrt:int8`: a GPU.", "", "Not available there: `x`: x 2.",
    ]  # fmt: skip


def test_text_cannot_leave_its_cell():
    content = full()
    content["failed"][0]["message"] = "a|b<script>"
    assert "a\\|b&lt;script>." in markdown(read(content))


def test_files_are_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "r.md"
    path.write_text("before")
    write_markdown(path, read(full()))
    assert path.read_text(encoding="utf-8") == markdown(read(full()))
    assert list(tmp_path.iterdir()) == [path]
