"""benchmarks/hosts/soak.py for a second, and the figures of its minute."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from triton_server import ROOT, triton_python

from msal_deploy.bundle import Bundle

RESULTS = ROOT / "benchmarks" / "results"


def test_soak_of_a_second(int8_bundle: Bundle, tmp_path: Path) -> None:
    """Each client sends at least one request and one that must be refused, however slow the machine is."""
    words = [ROOT / "benchmarks" / "hosts" / "soak.py", "run", int8_bundle.path, "--triton", triton_python()]
    options = ["--seconds", 1, "--json", tmp_path / "soak.json"]
    done = subprocess.run([sys.executable, *map(str, [*words, *options])], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    judge(json.loads((tmp_path / "soak.json").read_text()))


def test_figures_of_the_minute_are_those_of_the_page() -> None:
    report = json.loads((RESULTS / "2026-11-27-epyc-2-cores-triton-load.json").read_text())
    judge(report)
    sent, page = report["sent"], " ".join((ROOT / "docs" / "serve-with-triton.md").read_text(encoding="utf-8").split())
    assert f"got {sent['requests']:,} answers for {sent['images']:,} images" in page and report["seconds"] == 60
    assert f"the {sent['refused']:,} requests that had to be refused" in page


def judge(report: dict[str, Any]) -> None:
    sent, counted = report["sent"], report["counted"]
    assert report["clients"] == 8 and sent["requests"] >= 8 and sent["refused"] >= 8
    assert (sent["wrong"], sent["errors"], counted["failed"]) == (0, 0, 0)
    assert (counted["images"], counted["refused"]) == (sent["images"], sent["refused"])
    assert counted["answered"] == sent["requests"] + sent["refused"]
