import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msal_deploy.cli.data import app
from msal_deploy.errors import BadInput, GateFailed


def test_synthesize_then_verify(tmp_path: Path) -> None:
    out, report = tmp_path / "set", tmp_path / "verify.json"
    made = CliRunner().invoke(app, ["synthesize", str(out), "--train", "1", "--test", "1", "--size", "256"])
    assert made.exit_code == 0, made.output
    checked = CliRunner().invoke(app, ["verify", str(out), "--json", str(report)])
    assert checked.exit_code == 0, checked.output
    assert "256×256" in checked.output
    assert json.loads(report.read_text())["ok"] is True


def test_verify_fails_the_gate_and_still_writes_the_report(copy: Path, tmp_path: Path) -> None:
    (copy / "MoNuSegTestData" / "SYNTH-TEST-000.xml").unlink()
    report = tmp_path / "verify.json"
    result = CliRunner().invoke(app, ["verify", str(copy), "--json", str(report)])
    assert isinstance(result.exception, GateFailed)
    assert result.exception.exit_code == 1
    assert "has 2 problems, the first: test images without annotation: 1 (SYNTH-TEST-000)" in str(result.exception)
    assert json.loads(report.read_text())["ok"] is False


@pytest.mark.parametrize("name", ["none", ""])
def test_verify_rejects_missing_and_empty_folders(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(tmp_path / name)])
    assert isinstance(result.exception, BadInput)


@pytest.mark.parametrize("verb", ["verify", "synthesize"])
def test_help_holds_an_example(verb: str) -> None:
    assert f"msal-deploy data {verb}" in CliRunner().invoke(app, [verb, "--help"]).output


def test_importing_the_command_is_light() -> None:
    code = (
        "import sys, msal_deploy.cli.data; "
        "print([m for m in ('numpy', 'scipy', 'skimage', 'PIL', 'tifffile', 'msal_deploy.data') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
