"""The command line before any work: help texts, and what importing it costs."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msal_deploy import __version__
from msal_deploy.cli import app

VERBS = ["run", "train", "export", "build-trt", "validate", "bench", "package", "report", "doctor"]
VERBS += ["data verify", "data synthesize"]
HEAVY = ["torch", "torchvision", "onnx", "onnxruntime", "openvino", "scipy", "numpy", "skimage", "PIL", "matplotlib"]

runner = CliRunner()


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_an_example(verb: str) -> None:
    result = runner.invoke(app, [*verb.split(), "--help"])
    assert result.exit_code == 0
    assert f"Example: msal-deploy {verb}" in " ".join(result.output.split())


def test_help_names_every_verb_and_the_exit_codes() -> None:
    output = runner.invoke(app, ["--help"]).output
    assert all(verb.partition(" ")[0] in output for verb in VERBS)
    assert "Exit codes" in output


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).output.strip() == __version__


def test_help_works_where_no_heavy_package_is_installed() -> None:
    code = f"""
import sys
for name in {[*HEAVY, "msgspec", "safetensors", "tifffile", "defusedxml", "jinja2", "tensorboard"]!r}:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
sys.argv = ["msal-deploy", "--help"]
from msal_deploy.cli import main
main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "export" in result.stdout


@pytest.mark.parametrize("package", ["torch", "lightning_fabric"])
def test_a_missing_package_is_named_with_the_pip_command(package: str, tmp_path: object) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
sys.modules["lightning"] = None
sys.argv = ["msal-deploy", "train", "--data", "nowhere", "--out", {str(tmp_path)!r}]
from msal_deploy.cli import main
main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert "pip install 'msal-deploy[train]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_option_is_a_usage_error() -> None:
    assert runner.invoke(app, ["bench", "bundle", "--fast"]).exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("bench bundle --fast", "Error: No such option: --fast"),
        ("bench", "Error: Missing argument 'bundle'; see msal-deploy bench --help"),
        ("nosuch", "Error: No such command 'nosuch'; see msal-deploy --help"),
        ("validate b --data d --budget -1", "Error: Invalid value for '--budget'"),
    ],
)
def test_usage_errors_look_like_all_other_errors(words: str, message: str) -> None:
    command = [Path(sys.executable).with_name("msal-deploy"), *words.split()]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
