"""Loading the bindings: errors for missing packages, and the logger."""

import subprocess
import sys
from pathlib import Path

import pytest
from fake_tensorrt import VERSIONS, fake_tensorrt

from msal_deploy.errors import BadInput, MissingExtra, MissingRequirement
from msal_deploy.trt.bindings import load_backend


def test_unknown_backend_is_refused():
    with pytest.raises(BadInput, match="did you mean 'tensorrt-rtx'"):
        load_backend("tensorrt_rtx")


def test_missing_package_gives_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    for name, extra in (("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")):
        with pytest.raises(MissingExtra, match=rf"msal-deploy\[{extra}\]"):
            load_backend(name)


def test_folder_of_stubs_is_not_tensorrt(monkeypatch, tmp_path):
    """tensorrt-stubs leaves such a folder, which Python imports as an empty package."""
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingExtra):
        load_backend("tensorrt")


@pytest.mark.parametrize("line", ["import tensorrt_libs", "raise OSError('libnvinfer.so.10: cannot open')"])
def test_bindings_without_libraries_are_reported(line, monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text(line)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingRequirement, match=r"cannot be loaded \(.*(tensorrt_libs|libnvinfer)"):
        load_backend("tensorrt")


@pytest.mark.parametrize("version", VERSIONS)
def test_logger_keeps_errors_warnings_and_layers(version, monkeypatch):
    module = fake_tensorrt(version)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    backend = load_backend(module.__name__.replace("_", "-"))
    levels = module.ILogger
    for level, line in (
        (levels.ERROR, "first\n  line"),
        (levels.INTERNAL_ERROR, "second"),
        (levels.ERROR, "second"),
        (levels.WARNING, "careful"),
        (levels.INFO, "hello"),
        (levels.VERBOSE, "Layers:\nName: conv"),
    ):
        backend.logger.log(level, line)
    assert backend.errors() == "first line; second"
    assert backend.errors() == ""
    assert backend.warnings() == "careful"
    assert backend.logger.layers == "Layers:\nName: conv"
    backend.clear_log()
    assert backend.logger.layers == ""
    assert load_backend(backend.name).logger is backend.logger  # TensorRT keeps the first logger that it gets


@pytest.mark.parametrize(
    ("version", "version_tuple"), [("8.6.1", (8, 6, 1)), ("11.4.0.106", (11, 4, 0)), ("rtx", (1, 7, 1))]
)
def test_members_are_looked_up_by_name(version, version_tuple, monkeypatch):
    module = fake_tensorrt(version)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    backend = load_backend(module.__name__.replace("_", "-"))
    assert backend.version_tuple == version_tuple
    assert backend.member("BuilderFlag", "TF32") is module.BuilderFlag.TF32
    assert backend.member("BuilderFlag", "NOT_THERE") is None
    assert backend.member("NotThere", "NOT_THERE") is None
    assert (backend.member("BuilderFlag", "FP16") is None) == (version != "8.6.1")


def test_import_of_the_package_does_not_import_tensorrt():
    code = "import sys, msal_deploy.trt; assert not {'tensorrt', 'tensorrt_rtx', 'cuda'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
