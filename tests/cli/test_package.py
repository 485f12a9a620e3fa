"""``msal-deploy package``: its output, and all wrong usage."""

import json
from importlib import import_module
from pathlib import Path

import pytest
from refusal import assert_refused
from typer.testing import CliRunner, Result

from msal_deploy.bundle import Bundle
from msal_deploy.cli import app
from msal_deploy.files import sha256
from msal_deploy.package import INTEGRATIONS, is_package


def package(*words: object) -> Result:
    return CliRunner().invoke(app, ["package", *map(str, words)])


@pytest.fixture(scope="module")
def kit(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package, not to be changed by a test."""
    out = tmp_path_factory.mktemp("package") / "kit"
    result = package(bundle.path, "build-kit", "--gpu", "gtx-1080-ti", "--out", out, "--json", f"{out}.json")
    assert result.exit_code == 0, result.output
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "package.json"]
    assert f"{out}: {len(files)} files for build-kit" in result.output
    assert "and run: sh docker.sh (or: sh build.sh)" in result.output
    return out


def test_the_report_names_every_file_with_its_hash(kit):
    report = json.loads(Path(f"{kit}.json").read_text())
    assert report["host"] == "build-kit"
    assert report["files"].keys() == {str(p.relative_to(kit)) for p in kit.rglob("*") if p.is_file()} - {"package.json"}
    assert all(sha256(kit / name) == digest for name, digest in report["files"].items())
    assert str(kit.parent) not in json.dumps(report)


def test_every_package_has_golden_tiles_and_check_golden(kit):
    names = {"check_golden.py", "golden/golden.json", "golden/image.npy", "golden/probability.fp32.npy"}
    assert all((kit / name).is_file() for name in names)


def test_package_replaces_an_older_package_only(bundle, kit, tmp_path):
    import shutil

    words = (bundle.path, "build-kit", "--gpu", "gtx-1080-ti", "--out")
    old = Path(shutil.copytree(kit, tmp_path / "old"))
    (old / "README.md").write_text("changed")
    assert package(*words, old).exit_code == 0
    assert (old / "README.md").read_text() == (kit / "README.md").read_text()

    (old / "plans").mkdir()
    (old / "plans" / "model.int8.plan").write_text("hours of work")
    assert_refused(package(*words, old), 2, "already exists and is not empty")
    assert (old / "plans" / "model.int8.plan").read_text() == "hours of work"


def test_package_does_not_replace_another_programs_package_json(bundle, tmp_path):
    (tmp_path / "package.json").write_text('{"name": "website", "files": ["dist"]}')
    result = package(bundle.path, "build-kit", "--gpu", "gtx-1080-ti", "--out", tmp_path)
    assert_refused(result, 2, "not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["package.json"]
    assert not is_package(tmp_path)


def test_interrupted_package_leaves_nothing(bundle, tmp_path, monkeypatch):
    def fails(*arguments: object) -> None:
        raise KeyboardInterrupt

    # The package exports a function of the same name as this module.
    monkeypatch.setattr(import_module("msal_deploy.package.build_kit.write"), "_render", fails)
    result = package(bundle.path, "build-kit", "--gpu", "gtx-1080-ti", "--out", tmp_path / "kit")
    assert result.exit_code == 130
    assert not list(tmp_path.iterdir())


def test_package_on_a_full_disk(bundle, small_disk):
    result = package(bundle.path, "build-kit", "--gpu", "gtx-1080-ti", "--out", small_disk / "kit")
    assert_refused(result, 3, "is full")
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build-kitt", "--gpu", "t4"], "'build-kitt' is not an integration; did you mean 'build-kit'?"),
        (["qupath"], "'qupath' is not an integration; choose from: bioimageio, build-kit, cpp, onnx, triton"),
        (["build-kit", "--gpu", "gxt-1080-ti"], "did you mean 'gtx-1080-ti'?"),
        (["build-kit"], "A build kit is for one GPU; name it with --gpu: a100, gtx-1070"),
        (["build-kit", "--gpu", "t4", "--precision", "int4"], "'int4' is not a precision; did you mean 'int8'?"),
        (["build-kit", "--gpu", "t4", "--precision", "int8"], "model.int8.onnx is not in"),
        (["bioimageio", "--precision", "fp16"], "model.fp16.onnx is not in"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(bundle, tmp_path, words, message):
    assert_refused(package(bundle.path, *words, "--out", tmp_path / "out"), 2, message)
    assert not list(tmp_path.iterdir())


def test_bundle_without_a_preferred_precision_is_rejected(bundle, tmp_path):
    import tomllib

    import msgspec

    from msal_deploy.targets import find_target

    target = msgspec.to_builtins(find_target("gtx-1080-ti")) | {"name": "only-int8", "auto": ["int8"]}
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"name": "only-int8", "like": "gtx-1080-ti"}.items()]
    (tmp_path / "own.toml").write_text("\n".join([*lines, 'auto = ["int8"]']))
    assert tomllib.loads((tmp_path / "own.toml").read_text())["auto"] == target["auto"]
    result = package(bundle.path, "build-kit", "--gpu", tmp_path / "own.toml", "--out", tmp_path / "kit")
    assert_refused(result, 2, "has no graph in a preferred precision of NVIDIA GeForce GTX 1080 Ti (int8)")
    assert not (tmp_path / "kit").exists()


def test_missing_bundle_and_changed_graph_are_rejected(bundle, tmp_path):
    import shutil

    assert_refused(package(tmp_path / "none", "bioimageio", "--out", tmp_path / "out"), 2, "no manifest.json")
    copy = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    (copy / "model.fp32.onnx").write_bytes(b"other")
    result = package(copy, "build-kit", "--gpu", "t4", "--out", tmp_path / "out")
    assert_refused(result, 2, "model.fp32.onnx", "SHA-256 differs")
    assert not (tmp_path / "out").exists()


def test_missing_torch_names_the_extra(bundle, tmp_path):
    import subprocess
    import sys

    code = f"""
import sys
sys.modules["torch"] = None
sys.argv = ["msal-deploy", "package", {str(bundle.path)!r}, "bioimageio", "--out", {str(tmp_path / "out")!r}]
from msal_deploy.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "pip install 'msal-deploy[train]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_has_an_example_and_names_every_integration():
    result = CliRunner().invoke(app, ["package", "--help"])
    text = " ".join(result.output.replace("│", " ").split())
    assert "Example: msal-deploy package bundle cpp --precision int8 --out segmenter" in text
    assert all(integration in text for integration in INTEGRATIONS)
