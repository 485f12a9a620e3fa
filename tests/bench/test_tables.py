"""benchmarks/tables.py: the page is what the program writes of results/, and every result is explained."""

import importlib.util
import json
from pathlib import Path

import pytest
from saved_reports import report

from msal_deploy.errors import BadInput

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "tables.py"


def load():
    spec = importlib.util.spec_from_file_location("benchmark_tables", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = load()
PAGE = "# Title\n<!-- files: python benchmarks/tables.py -->\nold\n<!-- end of files -->\nbetween\n"
PAGE += "<!-- speed: python benchmarks/tables.py -->\n<!-- end of speed -->\nafter\n"
INT8 = {"torch:fp32": [400.0] * 4, "openvino:int8": [80.0] * 4}


def test_the_page_is_what_the_program_writes():
    assert tables.PAGE.read_text(encoding="utf-8") == tables.generated()


@pytest.fixture
def folder(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "2026-01-01-some-bench.json").write_text(json.dumps(report(INT8)))
    (results / "2026-01-02-old.json").write_text('{"machine": {"processor": "A", "gpus": ["G"]}}')
    (results / "2026-01-02-old.png").write_bytes(b"")
    (tmp_path / "README.md").write_text(PAGE)
    return tmp_path


def write(folder, commands):
    (folder / "commands.toml").write_text(commands)
    return tables.generated(folder / "README.md", folder / "results", folder / "commands.toml")


COMMANDS = """[[result]]
files = ["*-old.*"]
command = "`old`"
[[result]]
files = ["*-bench.json"]
command = "`bench`"
[[result]]
files = ["not-yet.json"]
command = "later"
"""


def test_files_have_their_command_and_machine_in_the_order_of_the_commands(folder):
    page = write(folder, COMMANDS)
    assert page.startswith("# Title\n<!-- files") and page.endswith("<!-- end of speed -->\nafter\n")
    assert "old\n<!--" not in page and "\nbetween\n" in page
    rows = [line for line in page.splitlines() if line.startswith("| [")]
    assert rows == [
        "| [`2026-01-02-old.json`](results/2026-01-02-old.json), [`2026-01-02-old.png`](results/2026-01-02-old.png) "
        "| `old` | A, G |",
        "| [`2026-01-01-some-bench.json`](results/2026-01-01-some-bench.json) | `bench` | Some CPU, 2 cores |",
    ]


def test_a_bench_report_has_a_table_of_its_numbers(folder):
    page = write(folder, COMMANDS)
    assert "| `openvino:int8` | 1 | 80.0 | 88.0 | 104.0 | 11.90 | 5.00 (5.00–5.00) | 812 |" in page
    (folder / "results" / "2026-01-01-some-bench.json").write_text('{"schema": "other"}')
    assert "No bench report has been committed." in write(folder, COMMANDS)


def test_writing_twice_changes_nothing(folder):
    page = write(folder, COMMANDS)
    (folder / "README.md").write_text(page)
    assert write(folder, COMMANDS) == page


def test_a_result_without_a_command_is_refused(folder):
    (folder / "results" / "2026-01-03-new.json").write_text("[]")
    with pytest.raises(BadInput, match=r"does not say which command wrote 2026-01-03-new\.json; add an entry"):
        write(folder, COMMANDS)


def test_a_page_without_markers_is_refused(folder):
    (folder / "README.md").write_text("# Title\n")
    with pytest.raises(BadInput, match="The page lacks the lines <!-- files"):
        write(folder, COMMANDS)
