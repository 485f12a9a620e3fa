"""``msal-deploy bench --compare, --suite, --csv, --markdown``: what reaches the stage, what is written, exit codes.

The stage is replaced by one that returns a report at once.
"""

import csv
import json

import msgspec
import pytest
from saved_reports import MACHINE, report
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner

from msal_deploy import bench as package
from msal_deploy.bench import BenchReport, BenchResult, Setting, Timing, read_report
from msal_deploy.bench.results import Failure
from msal_deploy.cli import app
from msal_deploy.errors import MissingRequirement

TORCH = [400.0, 404.0, 396.0, 400.0]
INT8 = [value / 5 for value in TORCH]


class Stage:
    """Stands in for `bench`; keeps the arguments of the call."""

    def __init__(self):
        self.engines, self.options = None, {}
        self.milliseconds = {"torch:fp32": TORCH, "openvino:int8": INT8}
        self.failed, self.interrupts, self.environment = (), False, MACHINE

    def __call__(self, bundle, engine_ids, *, on_interrupt, **options):
        self.engines, self.options = engine_ids, options
        results = tuple(
            BenchResult(
                engine=engine, batch=1, size=options["size"], microns_per_pixel=0.25,
                timing=Timing(tuple((value, value) for value in windows), 2),
            )
            for engine, windows in self.milliseconds.items()
        )  # fmt: skip
        needs = {"tensorrt:fp16": "a GPU", "openvino:bf16": "a processor with AMX"}
        made = BenchReport(results, self.environment, "torch:fp32", self.failed, needs, self.interrupts)
        if self.interrupts:
            on_interrupt(made)
            raise KeyboardInterrupt
        return made


@pytest.fixture
def stage(monkeypatch):
    one = Stage()
    monkeypatch.setattr(package, "bench", one)
    return one


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle").path


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(report({"torch:fp32": TORCH, "openvino:int8": INT8})))
    return path


@pytest.fixture
def call(bundle, stage):
    def run(*words):
        return CliRunner().invoke(app, ["bench", str(bundle), *map(str, words)])

    return run


def error(result):
    """Return the sentence on stderr, without its line breaks."""
    return " ".join(result.stderr.split())


ENGINES = ("-e", "torch:fp32", "-e", "openvino:int8")


def test_the_same_run_again_passes(call, old):
    result = call(*ENGINES, "--compare", old)
    assert result.exit_code == 0, result.output
    assert "Speed-up over torch:fp32, then and now" in result.stdout and "+0.0%" in result.stdout


def test_something_slower_exits_1_after_the_files_are_written(call, old, stage, tmp_path):
    stage.milliseconds["openvino:int8"] = [value / 4 for value in TORCH]
    result = call(*ENGINES, "--compare", old, "--json", tmp_path / "new.json")
    assert result.exit_code == 1 and "slower" in result.stdout
    assert "openvino:int8, batch 1: -20.0%" in error(result)
    assert read_report(tmp_path / "new.json").results[1].speed_up.ratio == 4.0


def test_another_machine_is_reported_and_exits_0(call, old, stage):
    stage.milliseconds["openvino:int8"] = TORCH
    stage.environment = MACHINE | {"processor": "Other CPU"}
    result = call(*ENGINES, "--compare", old)
    assert result.exit_code == 0
    assert "Another machine: processor Some CPU then, Other CPU now." in result.stdout


def test_an_engine_that_fails_now_is_slower_than_any(call, old, stage):
    del stage.milliseconds["openvino:int8"]
    stage.failed = (Failure(Setting(engine="openvino:int8", batch=1), MissingRequirement("no memory")),)
    result = call(*ENGINES, "--compare", old)
    assert result.exit_code == 1 and "openvino:int8, batch 1 fails now" in error(result)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--baseline", "openvino:int8"], "add --baseline torch:fp32"),
        (["--size", "256"], "add --size 512x512"),
        (["--tune"], "--tune cannot be combined with --compare"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_timed(call, old, stage, options, said):
    result = call(*ENGINES, "--compare", old, *options)
    assert result.exit_code == 2 and said in error(result)
    assert stage.engines is None


@pytest.mark.parametrize("content", ["", "{}", '{"schema": "x"}', '{"results": [], "environment": {}}'])
def test_another_file_is_refused_before_anything_is_timed(call, stage, tmp_path, content):
    (tmp_path / "old.json").write_text(content)
    result = call(*ENGINES, "--compare", tmp_path / "old.json")
    assert result.exit_code == 2 and "bench" in error(result), result.output
    assert stage.engines is None


def test_tables_are_written(call, tmp_path):
    result = call(*ENGINES, "--csv", tmp_path / "r.csv", "--markdown", tmp_path / "r.md")
    assert result.exit_code == 0, result.output
    with (tmp_path / "r.csv").open(newline="") as stream:
        assert [row["speed_up"] for row in csv.DictReader(stream)] == ["1.0", "5.0", "", ""]
    assert "| `openvino:int8` | 1 | 80.0 |" in (tmp_path / "r.md").read_text()


def test_ctrl_c_writes_the_tables_and_compares_nothing(call, stage, old, tmp_path):
    stage.interrupts = True
    result = call(*ENGINES, "--compare", old, "--csv", tmp_path / "r.csv", "--markdown", tmp_path / "r.md")
    assert result.exit_code == 130 and "then and now" not in result.stdout
    assert (tmp_path / "r.csv").exists() and "Interrupted" in (tmp_path / "r.md").read_text()


@pytest.mark.parametrize("option", ["--csv", "--markdown"])
def test_a_folder_is_refused_before_anything_is_timed(call, stage, tmp_path, option):
    result = call(*ENGINES, option, tmp_path)
    assert result.exit_code == 2 and "is a folder; name a file to write" in error(result)
    assert stage.engines is None


SUITE = """engines = ["torch:fp32", "openvino:int8"]
baseline = "torch:fp32"
batches = [1, 2]
size = 64
threads = [1, 2]
seconds = 0.25
windows = 3
rounds = 5
"""


def test_a_suite_sets_the_options_and_the_command_line_replaces_them(call, stage, tmp_path):
    (tmp_path / "mine.toml").write_text(SUITE)
    expected = {
        "baseline": "torch:fp32", "batches": [1, 2], "threads": [1, 2], "streams": (1,), "size": (64, 64),
        "seconds": 0.25, "windows": 3, "rounds": 5, "required": False,
    }  # fmt: skip
    assert call("--suite", tmp_path / "mine.toml").exit_code == 0
    assert (stage.engines, {key: stage.options[key] for key in expected}) == (["torch:fp32", "openvino:int8"], expected)
    changed = ["--size", "96x64", "-b", 4, "--rounds", 1, "-e", "openvino:int8", "--threads", 2]
    assert call(*changed, "--suite", tmp_path / "mine.toml").exit_code == 0
    assert stage.engines == ["openvino:int8"]
    expected |= {"size": (96, 64), "batches": [4], "rounds": 1, "threads": [2]}
    assert {key: stage.options[key] for key in expected} == expected


def test_a_suite_lists_only_its_own_engines_as_unavailable(call, tmp_path):
    (tmp_path / "mine.toml").write_text('engines = ["torch:fp32", "openvino:bf16"]')
    assert call("--suite", tmp_path / "mine.toml", "--json", tmp_path / "r.json").exit_code == 0
    assert [one.engine for one in read_report(tmp_path / "r.json").unavailable] == ["openvino:bf16"]
    (tmp_path / "mine.toml").write_text("batches = [1]")
    assert call("--suite", tmp_path / "mine.toml", "-e", "all", "--json", tmp_path / "r.json").exit_code == 0
    assert len(read_report(tmp_path / "r.json").unavailable) == 2


def test_without_a_suite_engines_that_are_named_are_required(call, stage):
    assert call(*ENGINES).exit_code == 0
    assert stage.options["required"] is True and stage.options["rounds"] == 3


def test_a_bad_suite_is_refused_before_anything_is_timed(call, stage, tmp_path):
    (tmp_path / "mine.toml").write_text("batch = 3")
    result = call("--suite", tmp_path / "mine.toml")
    assert result.exit_code == 2 and "unknown field `batch`" in error(result)
    assert call("--suite", "no-such-suite").exit_code == 2
    assert stage.engines is None


def test_what_the_stage_writes_has_the_form_of_the_fixture(call, tmp_path):
    assert call(*ENGINES, "--json", tmp_path / "r.json").exit_code == 0
    written = json.loads((tmp_path / "r.json").read_text())
    made = report({"torch:fp32": TORCH, "openvino:int8": INT8})
    assert written.keys() == made.keys() and written["results"][0].keys() == made["results"][0].keys()
    assert msgspec.to_builtins(read_report(tmp_path / "r.json"))["baseline"] == "torch:fp32"
