"""Machines with any version of TensorRT and either CUDA package; see `tensorrt_machine`."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from fake_cuda import FakeGpu
from fake_cuda_packages import FakeCudaRuntime, FakePyCudaDriver
from fake_tensorrt import VERSIONS
from tensorrt_machine import Machine

from msal_deploy.bundle import Bundle, Manifest, artifact, write_manifest
from msal_deploy.export import GRAPH
from msal_deploy.recipe import Recipe
from msal_deploy.spec import ModelSpec


@pytest.fixture
def small_bundle(tmp_path: Path) -> Bundle:
    """A bundle whose graph has one convolution; the content of the plans does not matter."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        small (uint8[N,H,W,3] image) => (float[N,1,H,W] probability) <float[1,3,1,1] weight = {1, 1, 1}> {
            pixels = Cast<to = 1>(image)
            planes = Transpose<perm = [0, 3, 1, 2]>(pixels)
            sums = Conv(planes, weight)
            probability = Sigmoid(sums)
        }
    """)
    onnx.save(graph, folder / GRAPH)
    files = {GRAPH: artifact(folder, GRAPH)}
    write_manifest(folder, Manifest(ModelSpec(), Recipe(name="small"), "CC0-1.0", {}, files))
    return Bundle(folder)


@pytest.fixture
def make_machine(small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    def make(version: str = "10.16.1.11", package: str = "cuda-python", **gpu: Any) -> Machine:
        machine = Machine(version, FakeGpu(**gpu), small_bundle)
        for name in ("tensorrt", "tensorrt_rtx", "cuda.bindings.runtime", "cuda.cudart", "pycuda.driver"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, machine.backend.replace("-", "_"), machine.trt)
        if package == "cuda-python":
            monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCudaRuntime(machine.gpu))
        else:
            monkeypatch.setitem(sys.modules, "pycuda.driver", FakePyCudaDriver(machine.gpu))
        return machine

    return make


@pytest.fixture
def machine(make_machine: Callable[..., Machine]) -> Machine:
    made = make_machine()
    made.add_plan()
    return made


@pytest.fixture(params=[(version, package) for version in VERSIONS for package in ("cuda-python", "PyCUDA")], ids=str)
def any_machine(request: pytest.FixtureRequest, make_machine: Callable[..., Machine]) -> Iterator[Machine]:
    """Every version of TensorRT with either CUDA package; checks that everything on the GPU was freed."""
    made = make_machine(*request.param)
    made.add_plan()
    yield made
    assert not made.gpu.left


@pytest.fixture
def rtx(make_machine: Callable[..., Machine]) -> Machine:
    made = make_machine("rtx")
    made.add_plan()
    return made
