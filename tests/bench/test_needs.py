"""Engines that cannot run here, and what each of them needs."""

import msgspec
import pytest
from tiny_bundle import write_tiny_bundle

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.hardware import NvidiaDriver
from msal_deploy.runtimes import CATALOGUE, all_engines, missing_need, missing_needs, needs, require
from msal_deploy.trt import local_gpu


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(local_gpu, "current_gpu", local_gpu.LocalGpu)
    monkeypatch.setattr(needs, "query_driver", NvidiaDriver)


def replace(monkeypatch, name, **changes):
    monkeypatch.setitem(CATALOGUE, name, msgspec.structs.replace(CATALOGUE[name], **changes))


def without(bundle, name):
    """The same bundle, without one of its files."""
    opened = Bundle(bundle.path)
    kept = {key: entry for key, entry in opened.manifest.artifacts.items() if key != name}
    opened.manifest = msgspec.structs.replace(opened.manifest, artifacts=kept)
    return opened


def test_every_engine_is_either_runnable_or_needs_something(tiny):
    missing = missing_needs(tiny)
    engines = all_engines()
    assert len(set(engines)) == len(engines) and "onnxruntime:fp16" not in engines  # its speed says nothing
    runnable = {engine for engine in engines if engine not in missing}
    assert runnable == {
        "onnxruntime:fp32", "onnxruntime:int8", "openvino:fp32", "openvino:int8", "openvino:bf16", "openvino:fp16",
    }  # fmt: skip
    assert missing["triton"] == needs.SERVER
    assert set(missing_needs(tiny, ["openvino:fp32", "torch:fp32"])) == {"torch:fp32"}


def test_a_package_a_gpu_a_graph_and_a_checkpoint(tiny, monkeypatch):
    replace(monkeypatch, "openvino", module="no_such_module")
    assert missing_need(tiny, "openvino:int8") == "pip install 'openvino'"
    replace(monkeypatch, "tensorrt", module="no_such_module")
    assert missing_need(tiny, "tensorrt:int8") == "an NVIDIA GPU; pip install 'msal-deploy[gpu]'"
    monkeypatch.undo()
    graph = "a graph in int8, which msal-deploy export --int8 adds"
    assert missing_need(without(tiny, "model.int8.onnx"), "onnxruntime:int8") == graph
    assert missing_need(without(tiny, "model.fp16.onnx"), "openvino:bf16") == ""  # it computes the graph in FP32
    assert missing_need(tiny, "torch:fp32").startswith("checkpoint.safetensors in the bundle")


def test_a_plan(tiny, monkeypatch):
    monkeypatch.setattr(local_gpu, "current_gpu", lambda: local_gpu.LocalGpu("NVIDIA L4", "8.9"))
    replace(monkeypatch, "tensorrt", module="numpy")
    need = f"a plan for this GPU: msal-deploy build-trt {tiny.path} --int8 --backend tensorrt"
    assert missing_need(tiny, "tensorrt:int8") == need


def test_an_engine_that_is_named_and_lacks_something_is_an_error(tiny):
    require(tiny, "openvino:int8")
    with pytest.raises(BadInput, match=r"checkpoint\.safetensors is not in"):
        require(tiny, "torch:fp32")
    with pytest.raises(BadInput, match="int8"):
        require(without(tiny, "model.int8.onnx"), "openvino:int8")
    with pytest.raises(MissingRequirement, match="tensorrt"):  # the package or the GPU, as the engine says
        require(tiny, "tensorrt:fp16")
