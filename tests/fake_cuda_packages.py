"""Fakes of the two packages through which msal_deploy calls a GPU, over `fake_cuda.FakeGpu`.

`FakeCudaRuntime` has names of `cuda.bindings.runtime`, and `FakePyCudaDriver` has names of `pycuda.driver`.
`test_cuda.py` compares their arguments and constants with the real packages.
"""

from __future__ import annotations

import contextlib
import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fake_cuda import FakeGpu, Fault, Misuse, Work


class Handle:
    """A stream, event or graph of cuda-python: not an integer, but convertible to one."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


class CapturedGraph:
    """A graph before it is instantiated."""

    def __init__(self, work: list[tuple[Work, float]]) -> None:
        self.work: list[tuple[Work, float]] | None = work


class CudaStatus(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureUnmatched = 903


class CudaAttribute(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class CudaCopy(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class CudaCapture(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


@dataclass(frozen=True)
class Properties:
    name: bytes


class FakeCudaRuntime:
    """`cuda.bindings.runtime` over a `FakeGpu`: functions return a status and, if there is one, a value."""

    cudaError_t = CudaStatus
    cudaDeviceAttr = CudaAttribute
    cudaMemcpyKind = CudaCopy
    cudaStreamCaptureMode = CudaCapture
    cudaHostAllocDefault = 0
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self._last = CudaStatus.cudaSuccess

    def _do(self, function: Callable[..., Any], *arguments: Any, wrap: Callable[[Any], Any] | None = None) -> Any:
        try:
            value = function(*arguments)
        except Fault as fault:
            self._last = CudaStatus[fault.name]
            return (self._last, None) if wrap else (self._last,)
        return (CudaStatus.cudaSuccess, wrap(value)) if wrap else (CudaStatus.cudaSuccess,)

    def cudaGetLastError(self) -> tuple[CudaStatus]:
        last, self._last = self._last, CudaStatus.cudaSuccess
        return (last,)

    def cudaGetErrorString(self, error: CudaStatus) -> tuple[CudaStatus, bytes]:
        return CudaStatus.cudaSuccess, f"description of {error.name}".encode()

    def cudaGetDevice(self) -> tuple[CudaStatus, int]:
        return self._do(self._gpu._called, "device", wrap=lambda _: 0)

    def cudaSetDevice(self, device: int) -> tuple[CudaStatus]:
        return self._do(self._gpu._called, "current")

    def cudaDeviceGetAttribute(self, attr: CudaAttribute, device: int) -> tuple[CudaStatus, int]:
        return CudaStatus.cudaSuccess, self._gpu.sm[attr - CudaAttribute.cudaDevAttrComputeCapabilityMajor]

    def cudaGetDeviceProperties(self, device: int) -> tuple[CudaStatus, Properties]:
        return CudaStatus.cudaSuccess, Properties(self._gpu.name.encode() + b"\0\0")

    def cudaMalloc(self, size: int) -> tuple[CudaStatus, int | None]:
        return self._do(self._gpu.allocate, size, wrap=int)

    def cudaFree(self, devPtr: int) -> tuple[CudaStatus]:
        return self._do(self._gpu.free, devPtr)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[CudaStatus, int | None]:
        return self._do(self._gpu.pin, size, wrap=lambda memory: memory.ctypes.data)

    def cudaFreeHost(self, ptr: int) -> tuple[CudaStatus]:
        return self._do(self._gpu.unpin, ptr)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[CudaStatus, Handle | None]:
        assert flags == self.cudaStreamNonBlocking
        return self._do(self._gpu.make_stream, wrap=Handle)

    def cudaStreamDestroy(self, stream: int) -> tuple[CudaStatus]:
        return self._do(self._gpu.destroy_stream, int(stream))

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[CudaStatus, Handle | None]:
        return self._do(self._gpu.make_event, wrap=Handle)

    def cudaEventDestroy(self, event: int) -> tuple[CudaStatus]:
        return self._do(self._gpu.destroy_event, int(event))

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: CudaCopy, stream: int) -> tuple[CudaStatus]:
        copy = self._gpu.upload if kind == CudaCopy.cudaMemcpyHostToDevice else self._gpu.download
        return self._do(copy, dst, src, count, int(stream))

    def cudaEventRecord(self, event: int, stream: int) -> tuple[CudaStatus]:
        return self._do(self._gpu.record, int(event), int(stream))

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[CudaStatus]:
        return self._do(self._gpu.wait, int(stream), int(event))

    def cudaStreamSynchronize(self, stream: int) -> tuple[CudaStatus]:
        return self._do(self._gpu.synchronise, int(stream))

    def cudaStreamBeginCapture(self, stream: int, mode: CudaCapture) -> tuple[CudaStatus]:
        assert mode is CudaCapture.cudaStreamCaptureModeThreadLocal
        return self._do(self._gpu.begin_capture, int(stream))

    def cudaStreamEndCapture(self, stream: int) -> tuple[CudaStatus, CapturedGraph | None]:
        return self._do(self._gpu.end_capture, int(stream), wrap=CapturedGraph)

    def cudaGraphInstantiateWithFlags(self, graph: CapturedGraph, flags: int) -> tuple[CudaStatus, Handle | None]:
        return self._do(self._gpu.make_graph, graph.work, wrap=Handle)

    def cudaGraphDestroy(self, graph: CapturedGraph) -> tuple[CudaStatus]:
        if graph.work is None:
            raise Misuse("a captured graph is destroyed twice")
        graph.work = None
        self._gpu.captured -= 1
        return (CudaStatus.cudaSuccess,)

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[CudaStatus]:
        return self._do(self._gpu.launch, int(graphExec), int(stream))

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[CudaStatus]:
        return self._do(self._gpu.destroy_graph, int(graphExec))


class PyCudaError(Exception):
    """`pycuda.driver.Error`."""


class PyCudaMemoryError(PyCudaError): ...


class PyCudaLogicError(PyCudaError): ...


class PyCudaLaunchError(PyCudaError): ...


class PyCudaRuntimeError(PyCudaError): ...


class FakePyCudaDriver:
    """`pycuda.driver` over a `FakeGpu`; calls need a context that the thread has pushed."""

    Error = PyCudaError
    MemoryError = PyCudaMemoryError
    LogicError = PyCudaLogicError
    LaunchError = PyCudaLaunchError
    RuntimeError = PyCudaRuntimeError

    class event_flags(enum.IntEnum):
        DEFAULT = 0
        BLOCKING_SYNC = 1
        DISABLE_TIMING = 2

    def __init__(self, gpu: FakeGpu) -> None:
        driver, threads = self, threading.local()
        self._gpu = gpu
        self._started = False
        self._pushed = threads

        class Context:
            handle = 0xC0

            def push(self) -> None:
                driver._do("current", gpu._called, "current")
                threads.depth = getattr(threads, "depth", 0) + 1

            @staticmethod
            def pop() -> None:
                if getattr(threads, "depth", 0) < 1:
                    raise PyCudaLogicError("context::pop failed: invalid device context - cannot pop")
                threads.depth -= 1

            @staticmethod
            def get_device() -> Device:
                driver._do("cuCtxGetDevice", lambda: None)
                return Device(0)

        class Device:
            def __init__(self, number: int) -> None:
                if not driver._started:
                    raise PyCudaLogicError("cuDeviceGet failed: initialization error")

            def name(self) -> str:
                return gpu.name

            def compute_capability(self) -> tuple[int, int]:
                return gpu.sm

            def retain_primary_context(self) -> Context:
                return Context()

        class DeviceAllocation:
            def __init__(self, size: int) -> None:
                self._address = driver._do("cuMemAlloc", gpu.allocate, size)

            def __int__(self) -> int:
                return self._address

            def free(self) -> None:
                driver._do("cuMemFree", gpu.free, self._address)

        class PagelockedHostAllocation:
            def __init__(self, shape: Any, dtype: Any) -> None:
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                memory = driver._do("cuMemHostAlloc", gpu.pin, size)
                self._address = memory.ctypes.data
                self.__array_interface__ = memory.view(dtype).reshape(shape).__array_interface__

            def free(self) -> None:
                driver._do("cuMemFreeHost", gpu.unpin, self._address)

        class Stream:
            def __init__(self, flags: int = 0) -> None:
                gpu.calls["stream that waits for the default stream"] += flags != 1
                self.handle = driver._do("cuStreamCreate", gpu.make_stream)

            def synchronize(self) -> None:
                driver._do("cuStreamSynchronize", gpu.synchronise, self.handle)

            def wait_for_event(self, event: Event) -> None:
                driver._do("cuStreamWaitEvent", gpu.wait, self.handle, event._handle)

            def __del__(self) -> None:
                with contextlib.suppress(AttributeError, Misuse):  # never created, or its GPU is gone
                    gpu.destroy_stream(self.handle)

        class Event:
            def __init__(self, flags: int = 0) -> None:
                self._handle = driver._do("cuEventCreate", gpu.make_event)

            def record(self, stream: Stream | None = None) -> Event:
                assert stream is not None, "the default stream"
                driver._do("cuEventRecord", gpu.record, self._handle, stream.handle)
                return self

            def __del__(self) -> None:
                with contextlib.suppress(AttributeError, Misuse):
                    gpu.destroy_event(self._handle)

        self.Context, self.Device, self.Stream, self.Event = Context, Device, Stream, Event
        self.DeviceAllocation, self.PagelockedHostAllocation = DeviceAllocation, PagelockedHostAllocation

    def _do(self, call: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if call != "current" and getattr(self._pushed, "depth", 0) < 1:
            raise PyCudaLogicError(f"{call} failed: invalid device context")
        try:
            return function(*arguments)
        except Fault as fault:
            kind = PyCudaMemoryError if "Memory" in fault.name else PyCudaLogicError
            raise kind(f"{call} failed: {fault.name}") from fault

    def init(self, flags: int = 0) -> None:
        if "device" in self._gpu.fails:
            raise PyCudaRuntimeError("cuInit failed: no CUDA-capable device is detected")
        self._started = True

    def mem_alloc(self, bytes: int) -> Any:
        return self.DeviceAllocation(bytes)

    def pagelocked_empty(self, shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
        return np.asarray(self.PagelockedHostAllocation(shape, dtype))

    def memcpy_htod_async(self, dest: int, src: np.ndarray, stream: Any = None) -> None:
        assert src.flags.c_contiguous
        self._do("cuMemcpyHtoDAsync", self._gpu.upload, int(dest), src.ctypes.data, src.nbytes, stream.handle)

    def memcpy_dtoh_async(self, dest: np.ndarray, src: int, stream: Any = None) -> None:
        assert dest.flags.c_contiguous
        self._do("cuMemcpyDtoHAsync", self._gpu.download, dest.ctypes.data, int(src), dest.nbytes, stream.handle)
