"""The catalogue of runtimes: a new entry is all that the rest of the package needs to know about a runtime."""

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner

from msal_deploy.bench.machine import describe_machine
from msal_deploy.bundle import CHECKPOINT, INT8_U8S8, Bundle
from msal_deploy.cli import app
from msal_deploy.data import synthesize
from msal_deploy.doctor import Machine, inspect_machine
from msal_deploy.doctor.capabilities import capabilities
from msal_deploy.errors import EXTRA_OF_MODULE, BadInput, MissingExtra
from msal_deploy.runtimes import CATALOGUE, Runtime, available_engines, catalogue, open_engine
from msal_deploy.trt import local_gpu

MODULE = """
import numpy as np

from msal_deploy.runtimes.base import Engine


class DummyEngine(Engine):
    runtime = "dummy"

    def _open(self):
        import dummy_package

        self._value = dummy_package.VALUE

    def _infer(self, images):
        number, height, width, _ = images.shape
        return np.full((number, 1, height, width), self._value, np.float32)

    def _close(self):
        del self._value
"""
METADATA = "Metadata-Version: 2.1\nName: dummy-package\nVersion: 7.8.9\n"
DUMMY = Runtime(
    name="dummy",
    engine="dummy_runtime:DummyEngine",
    module="dummy_package",
    packages=("dummy-package",),
    extra="dumb",
    device="cpu",
    precisions=("fp32", "int4"),
    defaults=("fp32",),
    milliseconds={"fp32": 1.0},
)


@pytest.fixture
def dummy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """Install a runtime: the module with its engine, the package that it imports, and an entry in the catalogue."""
    site = tmp_path / "site"
    (site / "dummy_package-7.8.9.dist-info").mkdir(parents=True)
    (site / "dummy_package-7.8.9.dist-info" / "METADATA").write_text(METADATA)
    (site / "dummy_package.py").write_text("VALUE = 0.75\n")
    (site / "dummy_runtime.py").write_text(MODULE)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setitem(CATALOGUE, "dummy", DUMMY)
    yield DUMMY
    for name in ("dummy_package", "dummy_runtime"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def without_dummy_package(dummy: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dummy_package", None)
    monkeypatch.setattr(catalogue, "find_spec", lambda name: None)


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_open_engine_opens_a_new_runtime(dummy, tiny):
    with open_engine(tiny, "dummy:fp32") as engine:
        assert engine(np.zeros((2, 32, 64, 3), np.uint8)).tolist() == np.full((2, 1, 32, 64), 0.75).tolist()


def test_open_engine_chooses_a_new_runtime_by_its_latency(dummy, tiny, monkeypatch):
    assert open_engine(tiny).id == "dummy:fp32"
    slow = Runtime(**{name: getattr(DUMMY, name) for name in DUMMY.__struct_fields__} | {"milliseconds": {"fp32": 60}})
    monkeypatch.setitem(CATALOGUE, "dummy", slow)
    assert open_engine(tiny).id == "openvino:int8"


def test_new_runtime_rejects_a_precision_that_its_entry_does_not_list(dummy, tiny):
    with pytest.raises(BadInput, match="dummy does not support 'int8'; did you mean 'int4'"):
        open_engine(tiny, "dummy:int8")


def test_an_engine_without_a_precision_is_named_whole(tiny):
    with pytest.raises(BadInput, match="openvino needs a precision; use openvino:fp32"):
        open_engine(tiny, "openvino")


def test_available_engines_lists_a_new_runtime(dummy, tiny):
    assert "dummy:fp32" in available_engines(tiny)
    assert "dummy:int4" not in available_engines(tiny)


def test_available_engines_omits_a_runtime_that_is_not_installed(without_dummy_package, tiny):
    assert "dummy:fp32" not in available_engines(tiny)


def test_open_engine_suggests_a_new_runtime(dummy, tiny):
    with pytest.raises(BadInput, match=r"'dumy' is not a runtime .in 'dumy:fp32'.; did you mean 'dummy'"):
        open_engine(tiny, "dumy:fp32")
    with pytest.raises(
        BadInput, match="choose from: dummy, onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt, openvino"
    ):
        open_engine(tiny, "zebra:fp32")


def test_missing_package_names_the_extra_of_a_new_runtime(without_dummy_package, tiny):
    message = r"dummy_package is not installed; run: pip install 'msal-deploy\[dumb\]'"
    with pytest.raises(MissingExtra, match=message), open_engine(tiny, "dummy:fp32"):
        pass


def test_bench_times_a_new_runtime_by_default(dummy, tiny):
    windows = ("--size", 32, "--batch", 1, "--seconds", 0.01, "--rounds", 1, "--in-process")
    assert "dummy:fp32" in run("bench", tiny.path, *windows)
    assert describe_machine()["versions"]["dummy-package"] == "7.8.9"


def test_validate_scores_a_new_runtime_by_default(dummy, tiny, tmp_path):
    synthesize(tmp_path / "monuseg", train=1, test=5, size=256)
    data = ("--data", tmp_path / "monuseg", "--reference", "onnxruntime:fp32", "--budget", 1)  # its weights are random
    assert "dummy:fp32" in run("validate", tiny.path, *data)


def test_doctor_reports_a_new_runtime(dummy):
    rows = {row.what: row for row in capabilities(Machine(packages={"dummy-package": "7.8.9"}))}
    assert (rows["run dummy on the CPU"].able, rows["run dummy on the CPU"].how) == (True, "7.8.9")
    rows = {row.what: row for row in capabilities(Machine())}
    assert rows["run dummy on the CPU"].how == "pip install 'msal-deploy[dumb]'"
    assert inspect_machine().packages["dummy-package"] == "7.8.9"


def test_timed_engines_leave_out_emulated_precisions(tiny):
    assert "onnxruntime:fp16" in available_engines(tiny)
    assert "onnxruntime:fp16" not in available_engines(tiny, timed=True)


def test_available_engines_lists_the_reference_first(tiny, monkeypatch):
    assert available_engines(tiny)[0] == "onnxruntime:fp32"  # no checkpoint: PyTorch cannot open this bundle
    monkeypatch.setitem(tiny.manifest.artifacts, CHECKPOINT, tiny.manifest.artifacts["model.fp32.onnx"])
    assert available_engines(tiny)[0] == "torch:fp32"
    assert not [engine for engine in available_engines(tiny) if engine.startswith(("tensorrt", "triton"))]


def test_available_engines_lists_plans_for_the_local_gpu(tiny, monkeypatch):
    (tiny.path / "model.int8.sm86.tensorrt.plan").touch()
    monkeypatch.setattr(catalogue, "find_spec", lambda name: object())
    for sm, engines in (("8.6", ["tensorrt:int8"]), ("7.5", []), ("", [])):
        monkeypatch.setattr(local_gpu, "current_gpu", lambda sm=sm: local_gpu.LocalGpu(sm=sm, name="GPU"))
        assert [engine for engine in available_engines(tiny) if engine.startswith("tensorrt")] == engines
    (tiny.path / "model.int8.sm86.tensorrt.plan").unlink()


@pytest.mark.parametrize("runtime", CATALOGUE.values(), ids=list(CATALOGUE))
def test_entry_is_consistent(runtime):
    precisions = set(runtime.precisions)
    assert set(runtime.defaults) <= precisions
    assert set(runtime.emulated) <= set(runtime.defaults)
    assert set(runtime.milliseconds) <= set(runtime.defaults) - set(runtime.emulated)
    declared = metadata.metadata("msal-deploy").get_all("Provides-Extra")
    assert not runtime.extra or runtime.extra in declared
    assert EXTRA_OF_MODULE.get(runtime.module, runtime.extra) == runtime.extra


def test_catalogue_names_the_class_of_each_runtime():
    for name in ("torch", "onnxruntime", "openvino", "triton"):
        module, _, cls = CATALOGUE[name].engine.partition(":")
        assert getattr(__import__(module, fromlist=[cls]), cls).runtime == name


def test_onnxruntime_opens_the_unsigned_int8_graph_if_the_bundle_has_it(tiny, monkeypatch):
    assert tiny.graph("int8", "onnxruntime").name == "model.int8.onnx"
    monkeypatch.setitem(tiny.manifest.artifacts, INT8_U8S8, tiny.manifest.artifacts["model.int8.onnx"])
    assert tiny.graph_name("int8", "onnxruntime") == INT8_U8S8
    assert tiny.graph_name("int8", "openvino") == tiny.graph_name("int8") == "model.int8.onnx"
    assert tiny.graph_variants("int8") == ("model.int8.onnx", INT8_U8S8)
