"""Cuda: one GPU, as the engines see it."""

import importlib
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import MissingRequirement

Buffer = NDArray[np.uint8]

# What to import -> what makes a `Cuda` of it. The first one that is installed is taken.
BINDINGS = {
    "cuda.bindings.runtime": "msal_deploy.trt.cuda._cuda_python:CudaPython",
    "cuda.cudart": "msal_deploy.trt.cuda._cuda_python:CudaPython",  # cuda-python up to 12.5
    "pycuda.driver": "msal_deploy.trt.cuda._pycuda:PyCuda",
}


class CudaError(MissingRequirement):
    """A call of CUDA failed."""


class Cuda(Protocol):
    """One GPU.

    Attributes:
        device: what the vendor calls it, such as ``NVIDIA GeForce GTX 1080 Ti``.
        sm: its compute capability, such as ``6.1``.
    """

    device: str
    sm: str

    def current(self) -> AbstractContextManager[None]:
        """Make this GPU the one that the calling thread talks to; all that follows is called inside of it."""
        ...

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes on the GPU."""
        ...

    def free(self, address: int) -> None:
        """Give back what `allocate` returned."""
        ...

    def pin(self, size: int) -> Buffer:
        """Return uint8[size] in memory of the host that cannot be paged out: copies of it need no processor."""
        ...

    def unpin(self, buffer: Buffer) -> None:
        """Give back what `pin` returned; no view of it may be used any more."""
        ...

    def stream(self) -> int:
        """Return a new stream, which does not wait for the default stream."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Give back a stream."""
        ...

    def event(self) -> int:
        """Return a new event, to order streams with."""
        ...

    def destroy_event(self, event: int) -> None:
        """Give back an event."""
        ...

    def upload(self, address: int, source: Buffer, stream: int) -> None:
        """Queue a copy of `source`, which is pinned, to the GPU."""
        ...

    def download(self, target: Buffer, address: int, stream: int) -> None:
        """Queue a copy from the GPU to `target`, which is pinned."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Let `event` stand for all that is queued on `stream` so far."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """Let what is queued on `stream` from now on wait for what `event` stands for."""
        ...

    def synchronise(self, stream: int) -> None:
        """Return when all that is queued on `stream` is done."""
        ...

    def begin_capture(self, stream: int) -> None:
        """From now on note down what this thread queues on `stream`, instead of doing it."""
        ...

    def end_capture(self, stream: int) -> int:
        """Return what was noted down, as a graph that can be launched."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Queue all that a graph holds, in one go."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Give back a graph."""
        ...


def open_cuda() -> Cuda:
    """Return this thread's current GPU, through cuda-python where it is installed and else through PyCUDA.

    Raises:
        MissingRequirement: neither is installed.
        CudaError: there is no driver or no GPU.
    """
    for name, implementation in BINDINGS.items():
        try:
            binding = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if name.startswith(error.name or "-"):
                continue
            raise _broken(name, error) from error
        except Exception as error:  # a library that is missing or does not fit; PyCUDA with NumPy 2: SystemError
            raise _broken(name, error) from error
        module, _, made_by = implementation.partition(":")
        cuda: Cuda = getattr(importlib.import_module(module), made_by)(binding)
        return cuda
    raise MissingRequirement(
        "This needs cuda-python, which is not installed; run: pip install cuda-python "
        "(with TensorRT 8.6: pip install 'msal-deploy[pascal]')"
    )


def _broken(name: str, error: Exception) -> MissingRequirement:
    if "libcuda.so" in str(error):  # the driver's library: without a driver PyCUDA cannot even be imported
        return no_gpu(str(error))
    return MissingRequirement(f"{name} is installed and cannot be imported ({error}); install its package again")


def no_gpu(said: str) -> CudaError:
    """Return the error for a machine without a GPU or with a driver that does not serve it."""
    return CudaError(
        f"No NVIDIA GPU can be used here ({said}); msal-deploy doctor says what is missing, "
        "and the openvino engines need none"
    )


def no_memory(said: str) -> CudaError:
    """Return the error for memory that is used up."""
    return CudaError(
        f"The GPU's memory does not suffice ({said}); build the plan for smaller batches "
        "(msal-deploy build-trt --batch), or end what else uses the GPU"
    )


def failed(call: str, said: str) -> CudaError:
    """Return the error for any other failure."""
    return CudaError(f"The GPU failed in {call} ({said}); run it again, and if that does not help: msal-deploy doctor")
