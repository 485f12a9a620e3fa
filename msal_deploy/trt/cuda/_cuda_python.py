"""CUDA through cuda-python: ``cuda.bindings.runtime``, or ``cuda.cudart`` up to version 12.5."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from msal_deploy.trt.cuda.base import Buffer, CudaError, failed, no_gpu, no_memory

NO_GPU = {
    "cudaErrorInsufficientDriver",  # also if there is no driver
    "cudaErrorNoDevice",
    "cudaErrorStubLibrary",
    "cudaErrorDevicesUnavailable",
    "cudaErrorInitializationError",
    "cudaErrorSystemDriverMismatch",
    "cudaErrorSystemNotReady",
    "cudaErrorCompatNotSupportedOnDevice",
}


class CudaPython:
    """The current GPU of the thread that creates this object; see `Cuda` for the methods."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._index: int = self._call("cudaGetDevice")
        attributes = runtime.cudaDeviceAttr
        major = self._call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, self._index)
        minor = self._call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, self._index)
        self.sm = f"{major}.{minor}"
        self.device: str = self._call("cudaGetDeviceProperties", self._index).name.rstrip(b"\0").decode()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime, and return its result without the status."""
        try:
            status, *values = getattr(self._runtime, name)(*arguments)
        except RuntimeError as error:  # cuda-python 12 without libcuda
            raise no_gpu(str(error)) from error
        if status != self._runtime.cudaError_t.cudaSuccess:
            self._runtime.cudaGetLastError()  # clears it; otherwise TensorRT would report it as its own
            raise self._error(name, status)
        return values[0] if values else None

    def _error(self, name: str, status: Any) -> CudaError:
        _, description = self._runtime.cudaGetErrorString(status)
        message = f"{status.name}: {description.decode()}"
        if status.name in NO_GPU:
            return no_gpu(message)
        return no_memory(message) if status.name == "cudaErrorMemoryAllocation" else failed(name, message)

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call("cudaSetDevice", self._index)
        yield

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def pin(self, size: int) -> Buffer:
        address = self._call("cudaHostAlloc", size, self._runtime.cudaHostAllocDefault)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def unpin(self, buffer: Buffer) -> None:
        self._call("cudaFreeHost", buffer.ctypes.data)

    def stream(self) -> int:
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def event(self) -> int:
        return int(self._call("cudaEventCreateWithFlags", self._runtime.cudaEventDisableTiming))

    def destroy_event(self, event: int) -> None:
        self._call("cudaEventDestroy", event)

    def upload(self, address: int, source: Buffer, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, stream)

    def download(self, target: Buffer, address: int, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, stream)

    def record(self, event: int, stream: int) -> None:
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def synchronise(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        # Thread-local: other threads may use the GPU during the capture, without failing or breaking it.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        captured = self._call("cudaStreamEndCapture", stream)
        try:
            return int(self._call("cudaGraphInstantiateWithFlags", captured, 0))
        finally:
            self._call("cudaGraphDestroy", captured)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", graph)
