"""ONNX Runtime on a GPU, as far as it goes without one: options, libraries, and who computes which node.

The class is run for real with the provider for CPUs in the place of a GPU's.
"""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from tiny_bundle import put_graph, tiny_graph, write_tiny_bundle

from msal_deploy.bundle import Bundle
from msal_deploy.errors import MissingRequirement
from msal_deploy.export import example_images
from msal_deploy.hardware import Gpu, NvidiaDriver
from msal_deploy.runtimes import CATALOGUE, available_engines, catalogue, open_engine
from msal_deploy.runtimes import onnxruntime_gpu as gpu
from msal_deploy.trt.plan_metadata import Profile

RECORDED = json.loads(Path(__file__).with_name("onnxruntime_options.json").read_text())
PROFILE = Profile((1, 256, 256), (4, 512, 512), (8, 1024, 768))


class OnCpu(gpu.OnnxRuntimeCudaEngine):
    """The engine with ONNX Runtime's provider for CPUs."""

    provider = gpu.CPU
    memory = "cpu"

    def _options(self) -> dict[str, str]:
        return {}

    def _infer(self, images: np.ndarray) -> np.ndarray:
        return super()._infer(images).copy()  # a value in GPU memory is copied, one in host memory is not


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    tiny = write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")
    return put_graph(tiny, "model.fp32.onnx", tiny_graph("fp32", seed=3, gain=2 / 255))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the provider for CPUs pass for a GPU's: its nodes count, and none is left to the CPU."""

    def read(profile: bytes) -> gpu.Assignment:
        return gpu.Assignment(original(profile).nodes, ())

    original = gpu.read_assignment
    monkeypatch.setattr(gpu, "read_assignment", read)


@pytest.mark.parametrize("version", RECORDED)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_cuda_provider_of_each_recorded_version_knows_the_options(version: str, precision: str) -> None:
    assert gpu.cuda_options(precision).keys() <= set(RECORDED[version]["cuda"])


@pytest.mark.parametrize("version", RECORDED)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_tensorrt_provider_of_each_recorded_version_knows_the_options(version: str, precision: str) -> None:
    assert gpu.tensorrt_options(precision, "image", PROFILE, Path("c")).keys() <= set(RECORDED[version]["tensorrt"])


def test_only_the_precision_of_the_graph_is_allowed_in_tensorrt() -> None:
    allowed = {
        precision: [name for name in ("trt_fp16_enable", "trt_int8_enable") if options[name] == "True"]
        for precision in ("fp32", "fp16", "int8")
        if (options := gpu.tensorrt_options(precision, "image", PROFILE, Path("c")))
    }
    assert allowed == {"fp32": [], "fp16": ["trt_fp16_enable"], "int8": ["trt_int8_enable"]}


def test_the_shapes_and_the_cache_that_tensorrt_is_given() -> None:
    options = gpu.tensorrt_options("int8", "image", PROFILE, Path("kept"))
    assert {name: value for name, value in options.items() if "_shapes" in name or "_path" in name} == {
        "trt_profile_min_shapes": "image:1x256x256x3",
        "trt_profile_opt_shapes": "image:4x512x512x3",
        "trt_profile_max_shapes": "image:8x1024x768x3",
        "trt_engine_cache_path": "kept",
        "trt_timing_cache_path": "kept",
    }


@pytest.mark.parametrize("engine", ["onnxruntime-cuda:fp32", "onnxruntime-cuda:fp16", "onnxruntime-tensorrt:int8"])
def test_the_package_for_cpus_is_refused_with_the_command_that_installs_the_other(tiny: Bundle, engine: str) -> None:
    assert "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
    with pytest.raises(MissingRequirement, match=r"it is the package for CPUs; .*pip install .*onnxruntime-gpu"):
        open_engine(tiny, engine)


def test_nodes_that_the_provider_leaves_to_the_cpu_are_refused(tiny: Bundle) -> None:
    with pytest.raises(MissingRequirement, match=r"leaves \d+ nodes of the graph to the CPU"):
        OnCpu(tiny, "fp32").__enter__()


@pytest.mark.usefixtures("counted")
def test_the_engine_computes_every_shape_in_turn_as_onnx_runtime_does_on_a_cpu(tiny: Bundle) -> None:
    shapes = [(2, 64, 96), (1, 32, 32), (2, 64, 96)]
    with OnCpu(tiny, "fp32") as engine, open_engine(tiny, "onnxruntime:fp32") as expected:
        for seed, shape in enumerate(shapes):
            images = example_images(*shape, seed=seed)
            probability = engine(images)
            assert np.array_equal(probability, expected(images))
            again = engine(example_images(*shape, seed=9))
            assert not np.shares_memory(probability, again)
            assert np.array_equal(probability, expected(images)), "a later call overwrote the result"
        assert set(engine.assignment.nodes) == {gpu.CPU}


@pytest.mark.usefixtures("counted")
def test_nothing_is_left_of_the_profile_that_is_measured_on_opening(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with OnCpu(tiny, "fp32") as engine:
        engine(example_images(1, 32, 32))
    assert list(tmp_path.iterdir()) == []


def test_a_provider_that_does_not_start_is_not_replaced(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime leaves out a provider that it cannot load, and computes everything on the CPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(gpu, "missing_library", lambda provider: "libcublasLt.so.13: cannot open shared object file")
    with pytest.raises(MissingRequirement, match=r"CUDAExecutionProvider \(libcublasLt.so.13: .*onnxruntime-gpu\[cuda"):
        open_engine(tiny, "onnxruntime-cuda:fp32").__enter__()


def test_the_dynamic_linker_names_the_library_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capi = tmp_path / "capi"
    capi.mkdir()
    for source, name, needs in (
        ("", "libcublasLt.so.99", []),
        ("", "libonnxruntime_providers_cuda.so", ["-Wl,--no-as-needed", "libcublasLt.so.99"]),
        ("", "libonnxruntime_providers_shared.so", []),
    ):
        command = ["g++", "-shared", f"-Wl,-soname,{name}", "-o", name, "-x", "c++", "-", "-x", "none", *needs]
        subprocess.run(command, input=source, text=True, check=True, cwd=capi)
    monkeypatch.setattr(gpu, "onnxruntime", SimpleNamespace(__file__=str(tmp_path / "__init__.py")))
    (capi / "libcublasLt.so.99").unlink()
    assert gpu.missing_library("CUDAExecutionProvider").startswith("libcublasLt.so.99: cannot open shared object file")


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("libcuda.so.1: cannot open", "run it on a machine with an NVIDIA GPU and its driver"),
        ("libnvinfer.so.10: cannot open", "install the TensorRT that this onnxruntime-gpu was built for"),
        ("libcudnn.so.9: cannot open", "install CUDA and cuDNN for it"),
    ],
)
def test_each_missing_library_has_its_remedy(missing: str, remedy: str) -> None:
    assert gpu.remedy(missing).startswith(remedy)


def test_integers_on_the_cpu_are_not_images() -> None:
    """Sizes are computed on the CPU on purpose: ONNX Runtime needs them there."""
    events = [
        {"cat": "Session", "name": "session_initialization"},
        {"cat": "Node", "name": "conv_fence_before", "args": {"op_name": "Conv"}},
        _event("shape", gpu.CPU, {"int64": [4]}),
        _event("gate", gpu.CPU, {"float": [1, 64, 1, 1]}),
        _event("conv", "CUDAExecutionProvider", {"float16": [1, 64, 16, 16]}),
        _event("resize", "CUDAExecutionProvider", {"float16": [1, 64, 16, 16]}),
    ]
    found = gpu.read_assignment(json.dumps(events).encode())
    assert found == gpu.Assignment({gpu.CPU: 2, "CUDAExecutionProvider": 2}, ("gate",))


def _event(name: str, provider: str, output: dict[str, list[int]]) -> dict[str, object]:
    arguments = {"op_name": name, "provider": provider, "output_type_shape": [output]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "args": arguments}


@pytest.mark.parametrize(
    ("gpus", "installed", "expected"),
    [
        ((Gpu("NVIDIA H200", "9.0", 140.4),), True, ["onnxruntime-cuda:fp32", "onnxruntime-cuda:fp16"]),
        ((), True, []),
        ((Gpu("NVIDIA H200", "9.0", 140.4),), False, []),
    ],
)
def test_a_gpu_engine_is_listed_where_it_can_run(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, gpus: tuple[Gpu, ...], installed: bool, expected: list[str]
) -> None:
    monkeypatch.setattr(catalogue, "query_driver", lambda: NvidiaDriver(gpus=gpus))
    monkeypatch.setattr(catalogue, "_is_missing", lambda package: not installed)
    assert [name for name in available_engines(tiny) if name.startswith("onnxruntime-")] == expected


def test_the_cpu_package_is_not_taken_for_the_gpu_package() -> None:
    assert CATALOGUE["onnxruntime"].is_installed
    assert not CATALOGUE["onnxruntime-cuda"].is_installed
