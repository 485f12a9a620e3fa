"""``build-trt`` on the command line: exit codes, messages, files."""

import inspect
import json
import shutil
import sys
from pathlib import Path

import pytest
from fake_tensorrt import fake_tensorrt
from interrupt import ctrl_c
from refusal import assert_refused
from tiny_bundle import put_graph, tiny_graph, write_tiny_bundle
from typer.testing import CliRunner, Result

from msal_deploy.build_trt import request
from msal_deploy.bundle import Bundle
from msal_deploy.cli import app
from msal_deploy.cli import build_trt as command
from msal_deploy.trt.plan_metadata import DEFAULT_PROFILE, read_metadata


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("source") / "bundle").path


@pytest.fixture
def bundle(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def fake_rtx(monkeypatch: pytest.MonkeyPatch) -> object:
    """Install TensorRT-RTX but neither TensorRT nor a GPU."""
    module = fake_tensorrt("rtx", driver=False)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(request, "current_gpu", request.LocalGpu)
    return module


__all__ = ["ctrl_c"]  # a fixture


def build_trt(bundle: Path, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["build-trt", str(bundle), *map(str, arguments)])


def names(bundle: Path) -> set[str]:
    return {path.name for path in bundle.iterdir()} - {".build-trt.lock"}


def test_plan_is_built_with_a_report(bundle, tmp_path):
    result = build_trt(bundle, "--fp16", "--gpu", "rtx-3090", "--size", "512", "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "model.fp16.sm86.tensorrt-rtx.plan" in result.output
    assert "fp16: 100.0% of the FLOPs, 3 layers (100%)" in result.output
    assert "--engine tensorrt-rtx:fp16" in result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["plan"]["profile"]["optimum"] == [4, 512, 512]
    assert report["file"] == "model.fp16.sm86.tensorrt-rtx.plan"
    assert str(tmp_path) not in json.dumps(report)


def test_table_fits_80_columns(bundle, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = build_trt(bundle, "--int8", "--gpu", "rtx-3090")
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if not line.startswith("Next"))


def test_auto_builds_the_preferred_precision(bundle):
    from msal_deploy.targets import find_target

    result = build_trt(bundle, "--auto", "--gpu", "rtx-4090")
    assert result.exit_code == 0, result.output
    assert f"model.{find_target('rtx-4090').preferred[0]}.sm89" in result.output


def test_pascal_without_a_gpu_gives_the_build_kit_command(bundle):
    before = names(bundle)
    for arguments in (("--backend", "tensorrt"), ()):
        result = build_trt(bundle, "--fp16", "--gpu", "gtx-1080-ti", *arguments)
        assert_refused(result, 3, f"msal-deploy package {bundle} build-kit --gpu gtx-1080-ti --out DIR")
    assert names(bundle) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--fp16",), 3, ("--gpu", "rtx-5090")),
        (("--fp16", "--gpu", "rxt-3090"), 2, ("did you mean 'rtx-3090'",)),
        (("--gpu", "t4"), 2, ("exactly one of --fp16",)),
        (("--fp16", "--int8", "--gpu", "t4"), 2, ("exactly one of --fp16",)),
        (("--fp16", "--rebuild"), 2, ("exactly one of --fp16",)),
        (("--fp16", "--gpu", "t4", "--backend", "trt"), 2, ("'trt' is not a TensorRT backend",)),
        (("--fp16", "--gpu", "t4", "--batch", "many"), 2, ("'many' is not a batch",)),
        (("--fp16", "--gpu", "t4", "--batch", "1:2"), 2, ("MIN:OPT:MAX",)),
        (("--fp16", "--gpu", "t4", "--size", "big"), 2, ("'big' is not a size",)),
        (("--fp16", "--gpu", "t4", "--size", "500"), 2, ("is a multiple of 32, got 500",)),
        (("--fp16", "--gpu", "t4", "--batch", "65"), 2, ("from 1 to 64, got 65",)),
        (("--fp16", "--gpu", "t4", "--version-compatible"), 2, ("--version-compatible",)),
        (("--fp16", "--gpu", "gtx-1080-ti", "--backend", "tensorrt-rtx"), 2, ("does not support", "build-kit")),
    ],
)
def test_bad_input(arguments, code, words, bundle):
    before = names(bundle)
    assert_refused(build_trt(bundle, *arguments), code, *words)
    assert names(bundle) == before


def test_default_profile_is_that_of_the_package():
    defaults = inspect.signature(command.build_trt).parameters
    assert command.parse_profile(defaults["batch"].default, defaults["size"].default) == DEFAULT_PROFILE


def test_missing_bundle_is_refused(tmp_path):
    assert_refused(build_trt(tmp_path, "--fp16", "--gpu", "t4"), 2, "is not a bundle")


def test_invalid_onnx_file_is_refused(bundle, tmp_path):
    (tmp_path / "text").write_text("not a graph")
    put_graph(Bundle(bundle), "model.fp16.onnx", tmp_path / "text")
    assert_refused(build_trt(bundle, "--fp16", "--gpu", "t4"), 2, "is not a valid ONNX file")


def test_graph_of_another_network_is_refused(bundle):
    put_graph(Bundle(bundle), "model.fp16.onnx", tiny_graph("fp16", image="pixels"))
    assert_refused(build_trt(bundle, "--fp16", "--gpu", "t4"), 2, "'image'", "pixels")


def test_plan_in_another_precision_is_rejected(bundle):
    put_graph(Bundle(bundle), "model.fp16.onnx", tiny_graph("fp32"))
    result = build_trt(bundle, "--fp16", "--gpu", "t4")
    assert_refused(result, 1, "requested in fp16", "100.0% in fp32", ".rejected")
    assert "model.fp16.sm75.tensorrt-rtx.plan.rejected" in names(bundle)


def test_missing_tensorrt_rtx_gives_the_pip_command(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert_refused(build_trt(bundle, "--fp16", "--gpu", "t4"), 3, "pip install 'msal-deploy[rtx]'")


def test_ctrl_c_leaves_no_files(bundle, fake_rtx, ctrl_c):
    before = names(bundle)
    fake_rtx.world.on_step = ctrl_c
    result = build_trt(bundle, "--fp16", "--gpu", "t4")
    assert result.exit_code == 130
    assert "no partial files are left" in result.output
    assert names(bundle) == before


def test_rebuild_builds_stale_plans(bundle, tmp_path):
    for precision in ("--fp16", "--fp32"):
        assert build_trt(bundle, precision, "--gpu", "t4", "--size", "64").exit_code == 0
    result = build_trt(bundle, "--rebuild")
    assert "2 plans: 2 up to date, 0 rebuilt" in result.output
    plan = bundle / "model.fp16.sm75.tensorrt-rtx.plan"
    plan.write_bytes(plan.read_bytes()[:100])
    result = build_trt(bundle, "--rebuild", "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "truncated" in result.output
    assert "2 plans: 1 up to date, 1 rebuilt" in result.output
    assert read_metadata(plan).profile.opt == (4, 64, 64)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [built["file"] for built in report["built"]] == [plan.name]
    assert report["kept"] == ["model.fp32.sm75.tensorrt-rtx.plan"]


def test_rebuild_reports_plans_that_need_another_machine(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("8.6.1", sm="6.1"))
    monkeypatch.setattr(request, "current_gpu", lambda: request.LocalGpu("NVIDIA GeForce GTX 1080 Ti", "6.1"))
    assert build_trt(bundle, "--int8", "--gpu", "gtx-1080-ti").exit_code == 0
    put_graph(Bundle(bundle), "model.int8.onnx", tiny_graph("int8", seed=1))
    monkeypatch.setattr(request, "current_gpu", request.LocalGpu)
    assert_refused(build_trt(bundle, "--rebuild"), 3, "1 plans: 0 up to date", "build-kit --gpu gtx-1080-ti")
