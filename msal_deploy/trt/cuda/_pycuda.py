"""CUDA through PyCUDA, for the last set of packages that supports SM 6.1. PyCUDA has no CUDA graphs."""

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from msal_deploy.trt.cuda.base import Buffer, CudaError, failed, no_gpu, no_memory

STREAM_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA does not define


@cache
def _primary_context(driver: Any) -> Any:
    """Return the primary context, which TensorRT and PyTorch use too, and keep it until the process ends as they do."""
    atexit.register(_primary_context.cache_clear)  # before PyCUDA itself is unloaded
    return driver.Device(0).retain_primary_context()


class PyCuda:
    """The first GPU; see `Cuda` for the methods."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._kept: dict[int, Any] = {}  # PyCUDA frees an object when its last reference is gone
        with self._failures("cuInit"):
            driver.init()
            device = driver.Device(0)
            self.device: str = device.name()
            self.sm = "{}.{}".format(*device.compute_capability())
            self._context = _primary_context(driver)

    @contextmanager
    def _failures(self, call: str) -> Iterator[None]:
        """Turn PyCUDA's exceptions into `CudaError`."""
        try:
            yield
        except self._driver.MemoryError as error:
            raise no_memory(str(error)) from error
        except self._driver.Error as error:
            raise (no_gpu(str(error)) if call == "cuInit" else failed(call, str(error))) from error

    def _keep(self, handle: int, value: Any) -> int:
        self._kept[handle] = value
        return handle

    @contextmanager
    def current(self) -> Iterator[None]:
        with self._failures("cuCtxPushCurrent"):
            self._context.push()
        try:
            yield
        finally:
            with self._failures("cuCtxPopCurrent"):
                self._driver.Context.pop()

    def allocate(self, size: int) -> int:
        with self._failures("cuMemAlloc"):
            memory = self._driver.mem_alloc(size)
        return self._keep(int(memory), memory)

    def free(self, address: int) -> None:
        with self._failures("cuMemFree"):
            self._kept.pop(address).free()

    def pin(self, size: int) -> Buffer:
        with self._failures("cuMemHostAlloc"):
            buffer: Buffer = self._driver.pagelocked_empty(size, np.uint8)
        return buffer

    def unpin(self, buffer: Buffer) -> None:
        allocation: Any = buffer.base
        with self._failures("cuMemFreeHost"):
            allocation.free()

    def stream(self) -> int:
        with self._failures("cuStreamCreate"):
            stream = self._driver.Stream(STREAM_NON_BLOCKING)
        return self._keep(stream.handle, stream)

    def destroy_stream(self, stream: int) -> None:
        del self._kept[stream]

    def event(self) -> int:
        with self._failures("cuEventCreate"):
            event = self._driver.Event(self._driver.event_flags.DISABLE_TIMING)
        return self._keep(id(event), event)  # PyCUDA does not expose the event's handle

    def destroy_event(self, event: int) -> None:
        del self._kept[event]

    def upload(self, address: int, source: Buffer, stream: int) -> None:
        with self._failures("cuMemcpyHtoDAsync"):
            self._driver.memcpy_htod_async(address, source, self._kept[stream])

    def download(self, target: Buffer, address: int, stream: int) -> None:
        with self._failures("cuMemcpyDtoHAsync"):
            self._driver.memcpy_dtoh_async(target, address, self._kept[stream])

    def record(self, event: int, stream: int) -> None:
        with self._failures("cuEventRecord"):
            self._kept[event].record(self._kept[stream])

    def wait(self, stream: int, event: int) -> None:
        with self._failures("cuStreamWaitEvent"):
            self._kept[stream].wait_for_event(self._kept[event])

    def synchronise(self, stream: int) -> None:
        with self._failures("cuStreamSynchronize"):
            self._kept[stream].synchronize()

    def begin_capture(self, stream: int) -> None:
        raise CudaError("PyCUDA does not support CUDA graphs", "install a cuda-python that suits the driver")

    def end_capture(self, stream: int) -> int:
        raise NotImplementedError  # `begin_capture` always fails

    def launch(self, graph: int, stream: int) -> None:
        raise NotImplementedError

    def destroy_graph(self, graph: int) -> None:
        raise NotImplementedError
