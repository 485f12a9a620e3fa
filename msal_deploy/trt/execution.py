"""Execution: images through a TensorRT execution context, copied while others are computed.

Two streams, one that computes and one that copies, and two slots of buffers. With U for upload, C for compute and D for
download, a call with three chunks of images goes like this::

    copies    U0 U1    D0 U2    D1       D2
    compute      C0───────C1───────C2───────

The processor meanwhile fills the pinned buffer of the next upload and empties that of the last download. There is one
execution context, because TensorRT 8.6 allows one a profile and because each holds memory for all activations.
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
MUTE = "it does not say why"


def chunks(images: int, least: int, most: int) -> list[slice]:
    """Return slices of `least` to `most` images that cover all; the last may reach back into the one before it."""
    slices = [slice(start, min(start + most, images)) for start in range(0, images, most)]
    slices[-1] = slice(min(slices[-1].start, images - least), images)
    return slices


class Staging:
    """A tensor's memory twice, pinned on the host and on the GPU. It grows when it must, and never shrinks."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._free = ExitStack()
        self.size = 0

    def reserve(self, size: int) -> None:
        """Have room for `size` bytes."""
        if size <= self.size:
            return
        self.free()
        self.host: Buffer = self._cuda.pin(size)
        self._free.callback(_quietly, self._cuda.unpin, self.host)
        self.device = self._cuda.allocate(size)
        self._free.callback(_quietly, self._cuda.free, self.device)
        self.size = size

    def free(self) -> None:
        """Give everything back."""
        self.size = 0
        self._free.close()


class Slot:
    """What one chunk needs on its way: buffers, events that order the two streams, and a graph once there is one."""

    def __init__(self, cuda: Cuda, pixels: int, free: ExitStack) -> None:
        self.images, self.probability = Staging(cuda), Staging(cuda)
        free.callback(self.images.free)
        free.callback(self.probability.free)
        self.reserve(pixels)
        self.uploaded = _made(cuda.event, cuda.destroy_event, free)
        self.computed = _made(cuda.event, cuda.destroy_event, free)
        self.graph: int | None = None

    def reserve(self, pixels: int) -> None:
        """Have room for images of so many pixels, all together."""
        self.images.reserve(pixels * 3)
        self.probability.reserve(pixels * 4)


def _made(make: Callable[[], int], destroy: Callable[[int], None], free: ExitStack) -> int:
    handle = make()
    free.callback(_quietly, destroy, handle)
    return handle


def _quietly(function: Callable[..., None], *arguments: Any) -> None:
    """Give something back; where the GPU has failed already, that error is the one to be told, not this one."""
    with suppress(CudaError):
        function(*arguments)


class Execution:
    """An execution context with its streams and buffers; everything is called inside of `Cuda.current`.

    Attributes:
        no_graph: why there are no CUDA graphs, None as long as nothing speaks against them.

    Args:
        tensors: names of the input and of the output.
        pixels: of the images that the buffers are made for, all together; they grow for more.
        errors: returns what TensorRT said since it was last asked.
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
            self._compute = _made(cuda.stream, cuda.destroy_stream, free)
            self._copies = _made(cuda.stream, cuda.destroy_stream, free)
            self._slots = [Slot(cuda, pixels, free) for _ in range(2)]
            free.callback(self._forget)
            self._free = free.pop_all()

    def close(self) -> None:
        """Give everything back; nothing is under way, because `run` waits for what it started."""
        self._free.close()

    def run(self, images: UInt8Images, probability: Float32Maps, parts: Sequence[slice]) -> None:
        """Fill `probability`, float32[N,1,H,W], from `images`, uint8[N,H,W,3], part by part; the first is the largest.

        Raises:
            BadInput: TensorRT does not take the shape.
            MissingRequirement: TensorRT or the GPU failed.
        """
        try:
            for slot in self._slots:
                # Addresses change only together with the shape, which drops the graphs that hold them.
                slot.reserve(images[parts[0]].size // 3)
            self._pipe(images, probability, parts)
        except BaseException:
            self._recover()
            raise

    def _pipe(self, images: UInt8Images, probability: Float32Maps, parts: Sequence[slice]) -> None:
        slots = cycle(self._slots)
        slot, part = next(slots), parts[0]
        self._start(slot, images[part])
        for following in parts[1:]:
            other = next(slots)
            # Before the download, which waits for the computation: the stream copies in the order of the queue.
            self._start(other, images[following])
            self._finish(slot, probability[part])
            slot, part = other, following
        self._finish(slot, probability[part])

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
        """Queue the download of a chunk, wait for it, and take it out of the pinned buffer."""
        host = slot.probability.host[: probability.nbytes]
        self._cuda.wait(self._copies, slot.computed)
        self._cuda.download(host, slot.probability.device, self._copies)
        self._cuda.synchronise(self._copies)
        np.copyto(probability, host.view(np.float32).reshape(probability.shape))

    def _enqueue(self, slot: Slot, shape: tuple[int, ...]) -> None:
        """Queue a computation: the first of a shape as it is, the later ones as a graph."""
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
            raise BadInput(
                f"TensorRT takes no images of {shape} ({self._errors() or MUTE}); build the plan for that size"
            )
        self._shape = shape

    def _execute(self, slot: Slot) -> None:
        self._context.set_tensor_address(self._image, slot.images.device)
        self._context.set_tensor_address(self._probability, slot.probability.device)
        if not self._context.execute_async_v3(self._compute):
            raise MissingRequirement(
                f"TensorRT failed ({self._errors() or MUTE}); run it again, or ask: msal-deploy doctor"
            )

    def _capture(self, slot: Slot) -> None:
        """Make the slot's graph, or note why there is none.

        Only after a first computation of the shape: what TensorRT prepares then, no graph can hold.
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
        """Drop shape and graphs, so that the next computation sets everything anew."""
        self._shape = None
        for slot in self._slots:
            self._forget_graph(slot)

    def _forget_graph(self, slot: Slot) -> None:
        if slot.graph is not None:
            _quietly(self._cuda.destroy_graph, slot.graph)
        slot.graph = None

    def _recover(self) -> None:
        """Wait for what is still under way, which would write into the buffers of the next call."""
        for stream in (self._copies, self._compute):
            _quietly(self._cuda.synchronise, stream)
        self._forget()
