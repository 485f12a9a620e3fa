"""The errors of a TensorRT engine: before the plan is loaded, while it is loaded, and while it computes."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_tensorrt import VERSIONS
from tensorrt_machine import assert_computes, refusal

from msal_deploy.errors import BadInput, MissingExtra, MissingRequirement
from msal_deploy.export import GRAPH, example_images
from msal_deploy.files import sha256
from msal_deploy.runtimes import open_engine
from msal_deploy.trt.cuda import CudaError
from msal_deploy.trt.plan_metadata import BuildOptions

# Failures during a computation.


@pytest.mark.parametrize("lost", [True, False])
def test_lost_gpu_is_reported_and_not_hidden_by_cleanup(machine, lost):
    with pytest.raises(CudaError, match=r"cudaStreamSynchronize failed"), machine.engine() as engine:
        machine.gpu.fails = dict.fromkeys(("synchronise", "free", "unpin"), "cudaErrorLaunchFailure")
        try:
            engine(example_images(1, 64, 64))
        finally:
            if lost:
                machine.gpu.fails["current"] = "cudaErrorLaunchFailure"


@pytest.mark.parametrize("call", ["upload", "download", "synchronise"])
def test_failure_of_the_gpu_frees_all_resources(any_machine, call):
    with pytest.raises(CudaError, match="cudaErrorIllegalAddress"), any_machine.engine() as engine:
        assert_computes(engine, 3)
        any_machine.gpu.fails[call] = "cudaErrorIllegalAddress"
        engine(example_images(3, 64, 64))
    any_machine.gpu.fails.clear()


def test_engine_stays_usable_after_a_failure_of_tensorrt(any_machine, monkeypatch):
    kind = any_machine.trt.IExecutionContext
    execute = kind.execute_async_v3

    def fail(self: Any, stream_handle: int) -> bool:
        self._logger.log(self._logger.ERROR, "Error Code 1: Cask (no kernel image)")
        return False

    with any_machine.engine() as engine:
        assert_computes(engine, 3)
        monkeypatch.setattr(kind, "execute_async_v3", fail)
        with pytest.raises(MissingRequirement, match=r"Cask \(no kernel image\).*msal-deploy doctor") as caught:
            engine(example_images(3, 32, 32))
        assert caught.value.exit_code == 3
        monkeypatch.setattr(kind, "execute_async_v3", execute)
        assert_computes(engine, 3, 32, 32)


def test_ctrl_c_waits_for_pending_work(machine, monkeypatch):
    with machine.engine() as engine:
        assert_computes(engine, 7)
        monkeypatch.setattr(np, "copyto", interrupted_at(np.copyto, 3))
        with pytest.raises(KeyboardInterrupt):
            engine(example_images(7, 64, 64))
        monkeypatch.undo()
        assert not any(stream.queue for stream in machine.gpu.streams.values())


def interrupted_at(function: Callable[..., None], failing_call: int) -> Callable[..., None]:
    count = iter(range(1000))

    def call(*arguments: Any) -> None:
        if next(count) == failing_call:
            raise KeyboardInterrupt
        function(*arguments)

    return call


# Plans that cannot be used.


def test_bundle_without_a_plan(machine):
    message = refusal(machine, precision="int8")
    assert "has no int8 plan for tensorrt and compute capability 6.1" in message
    assert f"msal-deploy build-trt {machine.bundle.path} --int8 --backend tensorrt" in message


def test_plan_of_another_tensorrt(machine):
    machine.add_plan(backend_version="10.4.0.26")
    assert "was built by tensorrt 10.4.0.26, not 10.16.1.11; rebuild it with: msal-deploy" in refusal(machine)


def test_plan_of_another_gpu(machine):
    machine.add_plan(sm=("8.9",))
    assert "was built for compute capability 8.9, not 6.1; rebuild it with: msal-deploy" in refusal(machine)


def test_plan_of_another_graph(machine):
    machine.add_plan(graph_sha256="0" * 64)
    assert f"was built from a different {GRAPH}; rebuild it with: msal-deploy" in refusal(machine)


def test_truncated_plan(machine):
    path = machine.add_plan()
    path.write_bytes(path.read_bytes()[:-100])
    message = refusal(machine)
    assert "is truncated (" in message and "; rebuild it with: msal-deploy" in message


def test_plan_without_metadata(machine):
    path = machine.add_plan()
    path.with_name(f"{path.name}.json").unlink()
    assert "has no metadata" in refusal(machine)


def test_shape_outside_the_profile_reports_the_profile_and_the_command(any_machine):
    with any_machine.engine() as engine:
        assert_computes(engine, 3)
        with pytest.raises(BadInput) as caught:
            engine(example_images(1, 160, 64))
        assert "accepts 1 × 32 × 32 px to 4 × 128 × 128 px, not 1 × 160 × 64 px" in str(caught.value)
        assert "msal-deploy build-trt" in str(caught.value) and "--size 32:64:160x128" in str(caught.value)
        assert_computes(engine, 3)


def test_plan_that_tensorrt_rejects(any_machine):
    any_machine.trt.world.sm = "9.0"
    message = refusal(any_machine, MissingRequirement)
    assert "cannot load" in message and "Error Code 1: the plan is for compute capability" in message
    assert "rebuild it with: msal-deploy build-trt" in message


def test_too_little_memory_for_the_activations(any_machine, monkeypatch):
    def create(self: Any, **_: Any) -> None:
        self._logger.log(self._logger.ERROR, "Error Code 2: OutOfMemory (requested size was 9000000000 bytes)")

    monkeypatch.setattr(any_machine.trt.ICudaEngine, "create_execution_context", create)
    message = refusal(any_machine, MissingRequirement)
    assert "NVIDIA GeForce GTX 1080 Ti does not have enough memory for" in message and "OutOfMemory" in message
    assert "rebuild it with: msal-deploy build-trt" in message and "--batch 1:1:1" in message


@pytest.mark.parametrize(("old", "new"), [(b'"image"', b'"input"'), (b'"probability"', b'"mask"')])
def test_plan_with_other_tensors(machine, old, new):
    path = machine.add_plan()
    path.write_bytes(path.read_bytes().replace(b"[" + old, b"[" + new))
    update_metadata(path)
    assert "Expected a tensor named" in refusal(machine)


@pytest.mark.parametrize(
    ("old", "new"), [(b'"UINT8"', b'"FLOAT"'), (b'"probability", "FLOAT"', b'"probability", "HALF"')]
)
def test_plan_with_other_types(machine, old, new):
    path = machine.add_plan()
    path.write_bytes(path.read_bytes().replace(old, new))
    update_metadata(path)
    assert "rebuild it with: msal-deploy" in refusal(machine)


def update_metadata(path: Path) -> None:
    """Update hash and size in the metadata of a changed plan."""
    metadata = path.with_name(f"{path.name}.json")
    described = msgspec.json.decode(metadata.read_bytes()) | {"plan_sha256": sha256(path), "bytes": path.stat().st_size}
    metadata.write_bytes(msgspec.json.encode(described))


@pytest.mark.parametrize("compatible", [True, False])
def test_host_code_is_allowed_only_for_version_compatible_plans(machine, monkeypatch, compatible):
    machine.add_plan(options=BuildOptions(version_compatible=compatible))
    allowed = []
    load = machine.trt.Runtime.deserialize_cuda_engine

    def seen(self: Any, plan: bytes) -> Any:
        allowed.append(self.engine_host_code_allowed)
        return load(self, plan)

    monkeypatch.setattr(machine.trt.Runtime, "deserialize_cuda_engine", seen)
    with machine.engine():
        assert allowed == ([True] if compatible else [None])


# Missing requirements.


@pytest.mark.parametrize("package", ["cuda-python", "PyCUDA"])
@pytest.mark.parametrize("version", VERSIONS)
def test_missing_driver_gives_exit_code_3(make_machine, version, package):
    machine = make_machine(version, package)
    machine.add_plan()
    machine.gpu.fails["device"] = "cudaErrorNoDevice"
    assert "No usable NVIDIA GPU found" in refusal(machine, CudaError)


@pytest.mark.parametrize(("backend", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")])
def test_missing_tensorrt_gives_the_pip_command(small_bundle, monkeypatch, backend, extra):
    monkeypatch.setitem(sys.modules, backend.replace("-", "_"), None)
    with (
        pytest.raises(MissingExtra, match=rf"pip install 'msal-deploy\[{extra}\]'"),
        open_engine(small_bundle, f"{backend}:fp32"),
    ):
        pass


def test_real_tensorrt_rtx_without_a_driver_gives_exit_code_3(small_bundle):
    pytest.importorskip("tensorrt_rtx")
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if runtime.cudaGetDevice()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU")
    with (
        pytest.raises(MissingRequirement, match="No usable NVIDIA GPU found") as caught,
        open_engine(small_bundle, "tensorrt-rtx:fp16"),
    ):
        pass
    assert caught.value.exit_code == 3
