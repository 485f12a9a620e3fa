"""The CUDA interface gives the same results through cuda-python and PyCUDA, and reports errors with a remedy.

Both packages are fakes from `fake_cuda_packages`; the last tests compare the fakes with the real packages.
"""

import importlib
import inspect
import json
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fake_cuda import FakeGpu, Misuse
from fake_cuda_packages import CudaAttribute, CudaCapture, CudaCopy, CudaStatus, FakeCudaRuntime, FakePyCudaDriver

from msal_deploy.errors import MissingRequirement
from msal_deploy.trt.cuda import Cuda, CudaError, open_cuda
from msal_deploy.trt.cuda._cuda_python import NO_GPU, CudaPython

PACKAGES = {
    "cuda-python": ("cuda.bindings.runtime", FakeCudaRuntime),
    "old cuda-python": ("cuda.cudart", FakeCudaRuntime),
    "PyCUDA": ("pycuda.driver", FakePyCudaDriver),
}
NAMES = [name for name, _ in PACKAGES.values()]


@pytest.fixture(params=[None, *range(4)], ids=lambda order: f"order {order}")
def gpu(request: pytest.FixtureRequest) -> FakeGpu:
    return FakeGpu(order=request.param)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make only these packages importable."""

    def do(**packages: object) -> None:
        for name in NAMES:
            monkeypatch.setitem(sys.modules, name, packages.get(name))

    return do


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def cuda(package: str, gpu: FakeGpu, install: Callable[..., None]) -> Cuda:
    name, fake = PACKAGES[package]
    install(**{name: fake(gpu)})
    return open_cuda()


def test_gpu_has_name_and_capability(cuda):
    assert (cuda.device, cuda.sm) == ("NVIDIA GeForce GTX 1080 Ti", "6.1")


def test_upload_and_download_return_the_same_bytes(cuda, gpu):
    with cuda.current():
        stream, address = cuda.stream(), cuda.allocate(1000)
        source, target = cuda.pin(1000), cuda.pin(1000)
        source[:] = np.arange(1000) % 251
        cuda.upload(address, source, stream)
        cuda.download(target, address, stream)
        cuda.synchronise(stream)
        assert np.array_equal(target, source)
        for buffer in (source, target):
            cuda.unpin(buffer)
        cuda.free(address)
        cuda.destroy_stream(stream)
    assert not gpu.left


def test_part_of_a_pinned_buffer_can_be_copied(cuda):
    with cuda.current():
        stream, address, buffer = cuda.stream(), cuda.allocate(100), cuda.pin(100)
        buffer[:] = np.arange(100)
        cuda.upload(address, buffer[:40], stream)
        cuda.download(buffer[60:], address, stream)
        cuda.synchronise(stream)
        assert np.array_equal(buffer[60:], np.arange(40))
        cuda.unpin(buffer)


def test_streams_do_not_wait_for_the_default_stream(cuda, gpu):
    with cuda.current():
        cuda.destroy_stream(cuda.stream())
    assert not gpu.calls["stream that waits for the default stream"]


def test_event_orders_two_streams(cuda):
    with cuda.current():
        one, other, event = cuda.stream(), cuda.stream(), cuda.event()
        address, source, target = cuda.allocate(10), cuda.pin(10), cuda.pin(10)
        for value in range(5):
            source[:] = value
            cuda.upload(address, source, one)
            cuda.record(event, one)
            cuda.wait(other, event)
            cuda.download(target, address, other)
            cuda.synchronise(other)
            assert (target == value).all()
        cuda.destroy_event(event)


def test_pycuda_pops_its_contexts(gpu, install):
    install(**{"pycuda.driver": FakePyCudaDriver(gpu)})
    cuda = open_cuda()
    with cuda.current(), cuda.current():
        cuda.free(cuda.allocate(10))
    with pytest.raises(CudaError, match="invalid device context"):
        cuda.allocate(10)


def test_another_thread_can_use_the_gpu(cuda):
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with cuda.current():
                cuda.free(cuda.allocate(10))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_too_little_memory_gives_a_remedy(cuda, gpu):
    with cuda.current(), pytest.raises(CudaError, match=r"Not enough GPU memory .*smaller batches") as caught:
        cuda.allocate(gpu.memory + 1)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", ["pin", "stream", "event", "upload", "synchronise"])
def test_failure_of_any_call_is_a_cuda_error(cuda, gpu, call):
    with cuda.current():
        stream, address, buffer = cuda.stream(), cuda.allocate(10), cuda.pin(10)
        arguments = {"pin": (10,), "upload": (address, buffer, stream), "synchronise": (stream,)}.get(call, ())
        gpu.fails[call] = "cudaErrorIllegalAddress"
        with pytest.raises(CudaError, match=r"cu\w+ failed \(.*cudaErrorIllegalAddress.*msal-deploy doctor"):
            getattr(cuda, call)(*arguments)


def test_missing_gpu_is_reported(package, gpu, install):
    gpu.fails["device"] = "cudaErrorNoDevice"
    name, fake = PACKAGES[package]
    install(**{name: fake(gpu)})
    with pytest.raises(CudaError, match=r"No usable NVIDIA GPU found .*msal-deploy doctor"):
        open_cuda()


def test_failed_call_clears_the_last_error(gpu):
    runtime = FakeCudaRuntime(gpu)
    cuda = CudaPython(runtime)
    with pytest.raises(CudaError):
        cuda.allocate(gpu.memory + 1)
    assert runtime.cudaGetLastError() == (CudaStatus.cudaSuccess,)


def test_graph_repeats_captured_work(gpu):
    cuda = CudaPython(FakeCudaRuntime(gpu))
    stream, address, buffer = cuda.stream(), cuda.allocate(10), cuda.pin(10)
    buffer[:] = 1
    cuda.begin_capture(stream)
    cuda.upload(address, buffer, stream)
    graph = cuda.end_capture(stream)
    assert gpu.device[address].max() != 1, "a captured copy does not run"
    for value in (2, 3):
        buffer[:] = value
        cuda.launch(graph, stream)
        cuda.synchronise(stream)
        assert (gpu.device[address] == value).all()
    cuda.destroy_graph(graph)
    assert not {"graphs", "captured"} & gpu.left.keys()


@pytest.mark.parametrize("call", ["begin_capture", "end_capture", "make_graph"])
def test_failed_capture_raises_and_frees_everything(gpu, call):
    cuda = CudaPython(FakeCudaRuntime(gpu))
    stream = cuda.stream()
    gpu.fails[call] = "cudaErrorStreamCaptureUnsupported"
    with pytest.raises(CudaError, match="cudaErrorStreamCaptureUnsupported"):
        cuda.begin_capture(stream)
        cuda.end_capture(stream)
    assert not {"graphs", "captured"} & gpu.left.keys()


def test_pycuda_does_not_support_graphs(gpu, install):
    install(**{"pycuda.driver": FakePyCudaDriver(gpu)})
    cuda = open_cuda()
    with cuda.current(), pytest.raises(CudaError, match="PyCUDA does not support CUDA graphs"):
        cuda.begin_capture(cuda.stream())


def test_cuda_python_is_preferred(gpu, install):
    install(**{name: fake(gpu) for name, fake in PACKAGES.values()})
    assert isinstance(open_cuda(), CudaPython)


def test_missing_packages_give_the_pip_command(install):
    install()
    with pytest.raises(MissingRequirement, match="pip install cuda-python") as caught:
        open_cuda()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("libcuda.so.1: cannot open shared object file"), "No usable NVIDIA GPU .*libcuda.so.1"),
        (OSError("libcudart.so: cannot open"), "pycuda.driver is installed but cannot be imported .*libcudart"),
        (
            ModuleNotFoundError("No module named 'mako'", name="mako"),
            "cannot be imported .*mako.*; reinstall its package",
        ),
        (SystemError("initialization of _driver raised unreported exception"), "cannot be imported .*_driver"),
    ],
)
def test_broken_package_is_reported(monkeypatch, error, message):
    real = importlib.import_module

    def imported(name: str) -> ModuleType:
        if name == "pycuda.driver":
            raise error
        if name in NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
        return real(name)

    monkeypatch.setattr(importlib, "import_module", imported)
    with pytest.raises(MissingRequirement, match=message):
        open_cuda()


class NoLibrary(FakeCudaRuntime):
    """cuda-python 12 without libcuda (seen with 12.6.2)."""

    def cudaGetDevice(self) -> tuple[CudaStatus, int]:
        raise RuntimeError("Failed to dlopen libcuda.so.1")


def test_cuda_python_12_without_a_driver_is_reported(gpu, install):
    install(**{"cuda.bindings.runtime": NoLibrary(gpu)})
    with pytest.raises(CudaError, match=r"No usable NVIDIA GPU found \(Failed to dlopen libcuda.so.1\)"):
        open_cuda()


# The fake rejects errors that a GPU does not detect.


def fake_and_stream() -> tuple[CudaPython, int]:
    cuda = CudaPython(FakeCudaRuntime(FakeGpu()))
    return cuda, cuda.stream()


def test_fake_refuses_pageable_memory():
    cuda, stream = fake_and_stream()
    with pytest.raises(Misuse, match="not pinned"):
        cuda.upload(cuda.allocate(10), np.zeros(10, np.uint8), stream)


def test_fake_refuses_memory_that_is_freed_or_too_small():
    cuda, stream = fake_and_stream()
    address, buffer = cuda.allocate(10), cuda.pin(20)
    with pytest.raises(Misuse, match="not device memory"):
        cuda.upload(address, buffer, stream)
    cuda.free(address)
    with pytest.raises(Misuse, match="not device memory"):
        cuda.upload(address, buffer[:10], stream)
    with pytest.raises(Misuse, match="freed twice"):
        cuda.free(address)


def test_fake_refuses_a_destroyed_stream():
    cuda, stream = fake_and_stream()
    cuda.destroy_stream(stream)
    with pytest.raises(Misuse, match="is not a stream"):
        cuda.synchronise(stream)


def test_fake_reveals_a_missing_wait():
    """Work runs as late as possible, so a download without a wait returns old memory."""
    cuda, copies = fake_and_stream()
    other, address, source, target = cuda.stream(), cuda.allocate(10), cuda.pin(10), cuda.pin(10)
    source[:] = 7
    cuda.upload(address, source, copies)
    cuda.download(target, address, other)
    cuda.synchronise(other)
    assert (target != 7).all()


# The fakes have the names and constants of the real packages.


@pytest.fixture(scope="module")
def runtime() -> ModuleType:
    return pytest.importorskip("cuda.bindings.runtime")


FUNCTIONS = [name for name, member in vars(FakeCudaRuntime).items() if inspect.isfunction(member) and name[0] != "_"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fake_function_has_the_arguments_of_the_real_one(runtime, name):
    fake = list(inspect.signature(getattr(FakeCudaRuntime, name)).parameters)[1:]
    first_line = (getattr(runtime, name).__doc__ or "").splitlines()[0]
    arguments = re.fullmatch(rf"{name}\((.*)\)", first_line)
    assert arguments is not None, first_line
    assert fake == [argument.split(":")[0].split()[-1] for argument in arguments[1].split(", ") if argument]


@pytest.mark.parametrize(
    ("name", "fake"),
    [
        ("cudaError_t", CudaStatus),
        ("cudaDeviceAttr", CudaAttribute),
        ("cudaMemcpyKind", CudaCopy),
        ("cudaStreamCaptureMode", CudaCapture),
    ],
)
def test_fake_enum_has_the_real_values(runtime, name, fake):
    real = getattr(runtime, name)
    assert {member.name: int(member) for member in fake} == {m.name: int(getattr(real, m.name)) for m in fake}


@pytest.mark.parametrize("name", ["cudaHostAllocDefault", "cudaStreamNonBlocking", "cudaEventDisableTiming"])
def test_fake_constant_has_the_real_value(runtime, name):
    assert getattr(FakeCudaRuntime, name) == getattr(runtime, name)


def test_errors_of_a_missing_gpu_exist(runtime):
    assert set(runtime.cudaError_t.__members__) >= NO_GPU


def has_gpu(runtime: ModuleType) -> bool:
    return bool(runtime.cudaGetDevice()[0] == runtime.cudaError_t.cudaSuccess)


def test_real_package_without_a_driver_gives_exit_code_3(runtime):
    if has_gpu(runtime):
        pytest.skip("there is a GPU")
    with pytest.raises(CudaError, match="No usable NVIDIA GPU found") as caught:
        open_cuda()
    assert caught.value.exit_code == 3


CALLS = {
    "allocate": (1,),
    "free": (1,),
    "pin": (1,),
    "unpin": (np.zeros(1, np.uint8),),
    "stream": (),
    "destroy_stream": (1,),
    "event": (),
    "destroy_event": (1,),
    "upload": (1, np.zeros(1, np.uint8), 1),
    "download": (np.zeros(1, np.uint8), 1, 1),
    "record": (1, 1),
    "wait": (1, 1),
    "synchronise": (1,),
    "begin_capture": (1,),
    "end_capture": (1,),
    "launch": (1, 1),
    "destroy_graph": (1,),
}


@pytest.mark.parametrize("call", CALLS)
def test_real_package_accepts_integers_as_handles(runtime, call):
    """It checks argument types before it looks for a driver, so a wrong type would raise `TypeError` here."""
    if has_gpu(runtime):
        pytest.skip("there is a GPU, and the handles are made up")
    cuda = CudaPython.__new__(CudaPython)
    cuda._runtime, cuda._index = runtime, 0
    with pytest.raises(CudaError, match="No usable NVIDIA GPU found"):
        getattr(cuda, call)(*CALLS[call])


def test_every_method_is_called_with_the_real_package():
    assert set(CALLS) == {name for name in vars(Cuda) if not name.startswith("_")} - {"current"}


# PyCUDA cannot be installed without CUDA; `bindings/pycuda-*.json` is a record of its names.

PYCUDA = json.loads(next((Path(__file__).parents[1] / "bindings").glob("pycuda-*.json")).read_text(encoding="utf-8"))


def parameters(function: Callable[..., object]) -> list[bool]:
    """Return whether each parameter has a default."""
    return [p.default is not p.empty for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", PYCUDA["classes"])
def test_fake_class_of_pycuda_has_real_methods(name):
    fake, real = getattr(FakePyCudaDriver(FakeGpu()), name), PYCUDA["classes"][name]
    methods = {key: member for key, member in vars(fake).items() if inspect.isroutine(member) and key[0] != "_"}
    assert methods.keys() <= real.keys()
    for key, member in methods.items():
        assert parameters(getattr(member, "__func__", member)) == ["=" in argument for argument in real[key]], key


def test_fake_functions_of_pycuda_have_the_arguments_of_the_real_ones():
    functions = {k: v for k, v in vars(FakePyCudaDriver).items() if inspect.isfunction(v) and k[0] != "_"}
    assert functions.keys() <= PYCUDA["functions"].keys()
    for name, function in functions.items():
        assert parameters(function)[1:] == ["=" in argument for argument in PYCUDA["functions"][name]], name


def test_fake_enum_and_errors_of_pycuda_are_the_real_ones():
    assert {f.name: int(f) for f in FakePyCudaDriver.event_flags}.items() <= PYCUDA["enums"]["event_flags"].items()
    for name, base in PYCUDA["exceptions"].items():
        fake = getattr(FakePyCudaDriver, name)
        assert issubclass(fake, FakePyCudaDriver.Error if base == "Error" else Exception)
