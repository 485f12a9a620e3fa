"""`Cuda`, the interface to one GPU, and its errors."""

import importlib
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import MissingRequirement

Buffer = NDArray[np.uint8]

# Module -> its implementation of `Cuda`. The first module that is installed is used.
BINDINGS = {
    "cuda.bindings.runtime": "msal_deploy.trt.cuda._cuda_python:CudaPython",
    "cuda.cudart": "msal_deploy.trt.cuda._cuda_python:CudaPython",  # cuda-python up to 12.5
    "pycuda.driver": "msal_deploy.trt.cuda._pycuda:PyCuda",
}


class CudaError(MissingRequirement):
    """A CUDA call failed."""


class Cuda(Protocol):
    """One GPU.

    Attributes:
        device: Product name, such as ``NVIDIA GeForce GTX 1080 Ti``.
        sm: Compute capability, such as ``6.1``.
    """

    device: str
    sm: str

    def current(self) -> AbstractContextManager[None]:
        """Make this GPU the current one of the calling thread. All other methods must be called inside this context."""
        ...

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes of device memory, and return their address."""
        ...

    def free(self, address: int) -> None:
        """Free device memory."""
        ...

    def pin(self, size: int) -> Buffer:
        """Allocate pinned host memory, uint8[size], which the GPU copies without the CPU."""
        ...

    def unpin(self, buffer: Buffer) -> None:
        """Free pinned memory. Views of `buffer` must not be used afterwards."""
        ...

    def stream(self) -> int:
        """Create a stream that does not wait for the default stream."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        ...

    def event(self) -> int:
        """Create an event, which orders work on different streams."""
        ...

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        ...

    def upload(self, address: int, source: Buffer, stream: int) -> None:
        """Queue a copy from `source`, which must be pinned, to device memory."""
        ...

    def download(self, target: Buffer, address: int, stream: int) -> None:
        """Queue a copy from device memory to `target`, which must be pinned."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Record in `event` the work that is queued on `stream` so far."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """Let later work on `stream` wait for the work that `event` has recorded."""
        ...

    def synchronise(self, stream: int) -> None:
        """Wait until all work on `stream` is done."""
        ...

    def begin_capture(self, stream: int) -> None:
        """Start to capture the work that this thread queues on `stream`, instead of running it."""
        ...

    def end_capture(self, stream: int) -> int:
        """Stop the capture, and return the work as a graph that can be launched."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Queue the work of a graph."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph."""
        ...


def open_cuda() -> Cuda:
    """Return this thread's current GPU, through cuda-python if it is installed, otherwise through PyCUDA.

    ::

        cuda = open_cuda()
        with cuda.current():
            address = cuda.allocate(1 << 20)

    Raises:
        MissingRequirement: Neither package is installed.
        CudaError: There is no driver or no GPU.
    """
    for name, implementation in BINDINGS.items():
        try:
            binding = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if name.startswith(error.name or "-"):
                continue
            raise _broken(name, error) from error
        except Exception as error:  # a missing or incompatible library; PyCUDA with NumPy 2: SystemError
            raise _broken(name, error) from error
        module, _, class_name = implementation.partition(":")
        cuda: Cuda = getattr(importlib.import_module(module), class_name)(binding)
        return cuda
    raise MissingRequirement(
        "cuda-python is not installed",
        "run: pip install cuda-python (for TensorRT 8.6: pip install 'msal-deploy[pascal]')",
    )


def _broken(name: str, error: Exception) -> MissingRequirement:
    if "libcuda.so" in str(error):  # the driver's library, without which PyCUDA cannot be imported
        return no_gpu(str(error))
    return MissingRequirement(f"{name} is installed but cannot be imported ({error})", "reinstall its package")


def no_gpu(message: str) -> CudaError:
    """Return the error for a missing GPU, or for a driver that does not support it."""
    return CudaError(f"No usable NVIDIA GPU found ({message})", "run: msal-deploy doctor, or use an openvino engine")


def no_memory(message: str) -> CudaError:
    """Return the error for a failed allocation."""
    return CudaError(
        f"Not enough GPU memory ({message})",
        "build the plan for smaller batches (msal-deploy build-trt --batch), or close other programs on the GPU",
    )


def failed(call: str, message: str) -> CudaError:
    """Return the error for any other failure."""
    return CudaError(f"{call} failed ({message})", "try again, and if it fails again run: msal-deploy doctor")
