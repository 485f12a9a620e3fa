"""Run images through a TensorRT execution context, with copies and computation overlapped.

There are two streams, one for computation and one for copies, and two slots of buffers. A call with three chunks of
images is scheduled like this (U: upload, C: compute, D: download)::

    copies    U0 U1    D0 U2    D1       D2
    compute      C0───────C1───────C2───────

Meanwhile the CPU fills the pinned buffer of the next upload and empties that of the last download. There is only one
execution context, because TensorRT 8.6 allows one per profile, and each one holds memory for all activations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from msal_deploy.errors import BadInput, DeployError, MissingRequirement
from msal_deploy.trt.cuda import Buffer, Cuda, CudaError

if TYPE_CHECKING:
    import tensorrt as trt

    from msal_deploy.spec import Float32Maps, UInt8Images

LOG = logging.getLogger(__name__)
NO_MESSAGE = "no message"


def split_batch(batch: int, min_size: int, max_size: int) -> list[slice]:
    """Split a batch into chunks of `min_size` to `max_size` images; the last chunk may overlap the one before it.

    >>> split_batch(9, min_size=2, max_size=4)
    [slice(0, 4, None), slice(4, 8, None), slice(7, 9, None)]
    """
    chunks = [slice(start, min(start + max_size, batch)) for start in range(0, batch, max_size)]
    chunks[-1] = slice(min(chunks[-1].start, batch - min_size), batch)
    return chunks


class Staging:
    """Pinned host memory and device memory of the same size for one tensor. They grow when needed and never shrink."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._free = ExitStack()
        self.size = 0

    def reserve(self, size: int) -> None:
        """Make sure that there are at least `size` bytes."""
        if size <= self.size:
            return
        self.free()
        self.host: Buffer = self._cuda.pin(size)
        self._free.callback(_release, self._cuda.unpin, self.host)
        self.device = self._cuda.allocate(size)
        self._free.callback(_release, self._cuda.free, self.device)
        self.size = size

    def free(self) -> None:
        """Free both."""
        self.size = 0
        self._free.close()


class Slot:
    """Buffers for one chunk, the events that order the two streams, and the CUDA graph once it is captured."""

    def __init__(self, cuda: Cuda, pixels: int, free: ExitStack) -> None:
        self.images, self.probability = Staging(cuda), Staging(cuda)
        free.callback(self.images.free)
        free.callback(self.probability.free)
        self.reserve(pixels)
        self.uploaded = _create(cuda.event, cuda.destroy_event, free)
        self.computed = _create(cuda.event, cuda.destroy_event, free)
        self.graph: int | None = None

    def reserve(self, pixels: int) -> None:
        """Make sure that the buffers hold `pixels` pixels, over all images."""
        self.images.reserve(pixels * 3)
        self.probability.reserve(pixels * 4)


def _create(make: Callable[[], int], destroy: Callable[[int], None], free: ExitStack) -> int:
    handle = make()
    free.callback(_release, destroy, handle)
    return handle


def _release(function: Callable[..., None], *arguments: Any) -> None:
    """Release a resource and ignore CUDA errors: if the GPU has already failed, report that first error instead."""
    with suppress(CudaError):
        function(*arguments)


class Execution:
    """An execution context with its streams and buffers. All methods must be called inside `Cuda.current`.

    Attributes:
        no_graph: Why CUDA graphs are not used; None if they are.

    Args:
        cuda: The GPU.
        context: TensorRT's execution context.
        tensors: Names of the input and the output.
        pixels: Initial size of the buffers in pixels, over all images of a chunk.
        errors: Returns the errors that TensorRT has logged since the last call.
        no_graph: Why CUDA graphs must not be used; None to use them.
    """

    def __init__(
        self,
        cuda: Cuda,
        context: trt.IExecutionContext,
        tensors: tuple[str, str],
        pixels: int,
        errors: Callable[[], str],
        no_graph: str | None = None,
    ) -> None:
        self._cuda = cuda
        self._context = context
        self._image, self._probability = tensors
        self._errors = errors
        self.no_graph = no_graph
        self._shape: tuple[int, ...] | None = None
        with ExitStack() as free:
            self._compute = _create(cuda.stream, cuda.destroy_stream, free)
            self._copies = _create(cuda.stream, cuda.destroy_stream, free)
            self._slots = [Slot(cuda, pixels, free) for _ in range(2)]
            free.callback(self._forget)
            self._free = free.pop_all()

    def close(self) -> None:
        """Release all resources. No work is pending, because `run` waits for its own."""
        self._free.close()

    def run(self, images: UInt8Images, probability: Float32Maps, chunks: Sequence[slice]) -> None:
        """Fill `probability`, float32[N,1,H,W], from `images`, uint8[N,H,W,3], chunk by chunk.

        Args:
            images: The images.
            probability: The output.
            chunks: Slices of the batch, the largest first.

        Raises:
            BadInput: TensorRT does not accept the shape.
            MissingRequirement: TensorRT or the GPU failed.
        """
        try:
            for slot in self._slots:
                # Addresses change only when the shape does, and a new shape drops the graphs that hold them.
                slot.reserve(images[chunks[0]].size // 3)
            self._pipeline(images, probability, chunks)
        except BaseException:
            self._recover()
            raise

    def _pipeline(self, images: UInt8Images, probability: Float32Maps, chunks: Sequence[slice]) -> None:
        slots = cycle(self._slots)
        slot, chunk = next(slots), chunks[0]
        self._start(slot, images[chunk])
        for next_chunk in chunks[1:]:
            next_slot = next(slots)
            # Queue this upload before the download, which waits for the computation: a stream runs in order.
            self._start(next_slot, images[next_chunk])
            self._finish(slot, probability[chunk])
            slot, chunk = next_slot, next_chunk
        self._finish(slot, probability[chunk])

    def _start(self, slot: Slot, images: UInt8Images) -> None:
        """Queue the upload and the computation of a chunk."""
        host = slot.images.host[: images.nbytes]
        np.copyto(host.reshape(images.shape), images)
        self._cuda.upload(slot.images.device, host, self._copies)
        self._cuda.record(slot.uploaded, self._copies)
        self._cuda.wait(self._compute, slot.uploaded)
        self._enqueue(slot, images.shape)
        self._cuda.record(slot.computed, self._compute)

    def _finish(self, slot: Slot, probability: Float32Maps) -> None:
        """Queue the download of a chunk, wait for it, and copy it out of the pinned buffer."""
        host = slot.probability.host[: probability.nbytes]
        self._cuda.wait(self._copies, slot.computed)
        self._cuda.download(host, slot.probability.device, self._copies)
        self._cuda.synchronise(self._copies)
        np.copyto(probability, host.view(np.float32).reshape(probability.shape))

    def _enqueue(self, slot: Slot, shape: tuple[int, ...]) -> None:
        """Queue the computation: directly the first time for a shape, as a CUDA graph afterwards."""
        if shape != self._shape:
            self._set_shape(shape)
        elif slot.graph is None and self.no_graph is None:
            self._capture(slot)
        if slot.graph is None:
            self._execute(slot)
        else:
            self._cuda.launch(slot.graph, self._compute)

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        self._forget()
        if not self._context.set_input_shape(self._image, shape):
            cause = f"TensorRT does not accept images of shape {shape} ({self._errors() or NO_MESSAGE})"
            raise BadInput(cause, "build the plan for that size")
        self._shape = shape

    def _execute(self, slot: Slot) -> None:
        self._context.set_tensor_address(self._image, slot.images.device)
        self._context.set_tensor_address(self._probability, slot.probability.device)
        if not self._context.execute_async_v3(self._compute):
            cause = f"TensorRT failed ({self._errors() or NO_MESSAGE})"
            raise MissingRequirement(cause, "try again, and if it fails again run: msal-deploy doctor")

    def _capture(self, slot: Slot) -> None:
        """Capture the slot's graph, or record why that is not possible.

        The first computation of a shape must have run: a graph cannot hold what TensorRT prepares in it.
        """
        try:
            self._cuda.begin_capture(self._compute)
            try:
                self._execute(slot)
            finally:
                slot.graph = self._cuda.end_capture(self._compute)
        except DeployError as error:
            self._forget_graph(slot)
            self.no_graph = str(error)
            LOG.warning("TensorRT runs without CUDA graphs: %s", error)

    def _forget(self) -> None:
        """Drop the shape and the graphs, so that the next computation sets them again."""
        self._shape = None
        for slot in self._slots:
            self._forget_graph(slot)

    def _forget_graph(self, slot: Slot) -> None:
        if slot.graph is not None:
            _release(self._cuda.destroy_graph, slot.graph)
        slot.graph = None

    def _recover(self) -> None:
        """Wait for pending work, which would otherwise write into the buffers of the next call."""
        for stream in (self._copies, self._compute):
            _release(self._cuda.synchronise, stream)
        self._forget()
