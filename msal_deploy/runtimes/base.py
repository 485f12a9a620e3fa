"""Engine: a graph or plan of a bundle, opened in one runtime. `open_engine` returns one."""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, DeployError, suggest, translate_missing_extra
from msal_deploy.hardware import limited_cores
from msal_deploy.memory import is_out_of_memory, not_enough_memory
from msal_deploy.runtimes.catalogue import CATALOGUE, extras
from msal_deploy.runtimes.kernels import Kernel
from msal_deploy.runtimes.messages import sentence
from msal_deploy.runtimes.tiling import segment
from msal_deploy.spec import Float32Maps, ModelSpec, UInt8Images
from msal_deploy.trt.plan_metadata import Profile

MAX_THREADS = 1024
EXPORT_AGAIN = "export the bundle again"

# Runtime -> the process that first opened one of its engines: the threads of a runtime do not survive a fork.
_first_opened: dict[str, int] = {}


class Engine(ABC):
    """A context manager that computes probabilities from images. The graph is loaded on entering.

    >>> from msal_deploy.runtimes import open_engine
    >>> engine = open_engine(Bundle("bundle"), "openvino:fp32")
    >>> engine.id, engine.is_open
    ('openvino:fp32', False)
    >>> with engine:
    ...     engine(np.zeros((2, 32, 32, 3), np.uint8)).shape
    (2, 1, 32, 32)

    Threads may share an engine: calls run one after the other. Processes may not: a fork leaves the runtime's threads
    behind, and a call would wait for them forever. So an engine works only in the process that opened it, and most
    runtimes only in the process that first opened one of theirs; start others with the method ``spawn``.

    To add a runtime, implement `_open`, `_infer` and `_close`, and add an entry to the catalogue. Leave the entry's
    `precisions` empty if the runtime parses the part after the colon itself, such as Triton's URL.

    Args:
        bundle: Bundle with the graph or plan.
        precision: Part of the id after the colon: ``fp32``, ``fp16``, ``int8``.
        threads: CPU threads; None for the runtime's own choice, within the CPU quota of a container.
        streams: Images of a batch that are computed in parallel, if the runtime supports it.

    Attributes:
        runtime: Name in the catalogue.
        has_streams: Whether the runtime supports more than one stream.
        opens_after_fork: Whether a forked process can open an engine of the runtime if its parent has opened one.

    Raises:
        BadInput: The runtime does not support the precision, threads or streams.
    """

    runtime: ClassVar[str]
    has_streams: ClassVar[bool] = False
    opens_after_fork: ClassVar[bool] = False

    def __init__(self, bundle: Bundle, precision: str, threads: int | None = None, streams: int = 1) -> None:
        precisions = CATALOGUE[self.runtime].precisions if self.runtime in CATALOGUE else ()
        if precisions and not precision:
            raise BadInput(f"{self.runtime} needs a precision", f"use {self.runtime}:{precisions[0]}")
        if precisions and precision not in precisions:
            raise BadInput(f"{self.runtime} does not support {precision!r}", suggest(precision, precisions))
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise BadInput(f"Expected 1 to {MAX_THREADS} threads, got {threads}", "use a number in that range")
        if streams < 1 or (streams > 1 and not self.has_streams):
            raise BadInput(f"{self.runtime} does not support {streams} streams", "use 1 stream or openvino")
        self.bundle = bundle
        self.precision = precision
        self.threads = threads
        self.streams = streams
        self.is_open = False
        self._lock = threading.Lock()
        self._process = os.getpid()

    @property
    def id(self) -> str:
        """``<runtime>:<precision>``."""
        return f"{self.runtime}:{self.precision}"

    @property
    def spec(self) -> ModelSpec:
        """Input and output of the engine."""
        return self.bundle.spec

    @property
    def profile(self) -> Profile | None:
        """Shapes that the open engine accepts; None if only the specification limits them."""
        return None

    def __enter__(self) -> Self:
        if self.is_open:
            raise RuntimeError(f"{self.id} is already open: use one with statement for each engine")
        self._process = os.getpid()
        if _first_opened.setdefault(self.runtime, self._process) != self._process and not self.opens_after_fork:
            raise RuntimeError(
                f"{self.runtime} was used before this process was forked, and its threads do not survive that: start "
                "the process with the method spawn"
            )
        with self._translated(f"cannot open {self.bundle.path}"), translate_missing_extra(extras()):
            self._open()
        self.is_open = True
        return self

    @contextmanager
    def _translated(self, failure: str) -> Iterator[None]:
        """Report what a runtime raises in one sentence: out of memory, or else a graph that it cannot use."""
        try:
            yield
        except DeployError:
            raise
        except Exception as error:  # each runtime raises its own types
            if is_out_of_memory(error):
                raise not_enough_memory(error) from error
            raise BadInput(f"{self.id} {failure} ({sentence(error)})", EXPORT_AGAIN) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._process:
            return  # the engine belongs to another process, and so do the lock's owner and the runtime's threads
        with self._lock:  # another thread may still be in a call
            if self.is_open:
                self.is_open = False
                self._close()

    def __call__(self, images: UInt8Images) -> Float32Maps:
        """Return the probability that each pixel belongs to a nucleus.

        Args:
            images: uint8[N,H,W,3], RGB, H and W multiples of 32. Any memory layout.

        Returns:
            float32[N,1,H,W], a new array.

        Raises:
            BadInput: The engine cannot take `images`, or its graph is broken.
            MissingRequirement: There is not enough memory.
            RuntimeError: The engine is not open, or was opened before this process was forked.
        """
        if not self.is_open:
            raise RuntimeError(f"{self.id} is not open: use it in a with statement")
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self.id} was opened before this process was forked: open it in this process, started with the "
                "method spawn"
            )
        self.spec.check_images(images)
        # Views such as images[..., ::-1] (BGR to RGB) are not contiguous, and the runtimes read plain buffers.
        with self._lock:
            if not self.is_open:
                raise RuntimeError(f"{self.id} was closed while this call waited for another")
            with self._translated(f"cannot compute images of shape {list(images.shape)}"):
                return self._infer(np.ascontiguousarray(images))

    def segment(
        self, image: NDArray[np.uint8], *, tile: int = 512, overlap: int = 64, batch: int = 1
    ) -> NDArray[np.float32]:
        """Return the probability that each pixel of one image of any size belongs to a nucleus.

        Large images are computed in overlapping tiles, small ones are padded; see `msal_deploy.runtimes.tiling`.

        >>> from msal_deploy.runtimes import open_engine
        >>> with open_engine(Bundle("bundle"), "openvino:fp32") as engine:
        ...     engine.segment(np.zeros((601, 70, 3), np.uint8)).shape
        (601, 70)

        Args:
            image: uint8[H,W,3], RGB, H and W at least 1.
            tile: Largest height and width of a tile in pixels, a multiple of 32.
            overlap: Least number of pixels that neighbouring tiles share, below `tile`.
            batch: Tiles in each call.

        Returns:
            float32[H,W], a new array.

        Raises:
            BadInput: An argument is out of range, or the engine cannot take the tiles.
            RuntimeError: The engine is not open.
        """
        return segment(self, image, tile=tile, overlap=overlap, batch=batch)

    def kernels(self, images: UInt8Images, runs: int) -> tuple[Kernel, ...]:
        """Return the kernels that the open engine runs for `images`, with the mean time of each over some calls.

        They are timed by the runtime's own profiler in a second copy of the graph, with the same settings.

        >>> from msal_deploy.runtimes import open_engine
        >>> with open_engine(Bundle("bundle"), "openvino:fp32") as engine:
        ...     kernels = engine.kernels(np.zeros((1, 64, 64, 3), np.uint8), runs=2)
        >>> "Convolution" in {kernel.kind for kernel in kernels}
        True

        Args:
            images: uint8[N,H,W,3], as for a call.
            runs: Calls to average over, after one that does not count.

        Returns:
            The kernels; none if the runtime has no profiler, or msal-deploy does not read it.
        """
        return ()

    @property
    def _cpu_threads(self) -> int | None:
        """Threads to give a CPU runtime; None to let it choose, which it does by the machine's cores."""
        return self.threads or limited_cores()

    def _check_tensors(self, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
        """Raise `BadInput` unless the graph has only the input and the output of the specification.

        Args:
            inputs, outputs: Name -> NumPy's name of the type. A type that the runtime does not tell is empty.
        """
        for tensor, found in ((self.spec.image, inputs), (self.spec.probability, outputs)):
            if tensor.name not in found:
                cause = f"Expected a tensor named {tensor.name!r}, got {', '.join(found)}"
                raise BadInput(cause, "use a graph that msal-deploy exported")
            if (dtype := found[tensor.name]) not in ("", tensor.dtype):
                cause = f"Expected {tensor.dtype} for {tensor.name!r}, got {dtype}"
                raise BadInput(cause, "use a graph that msal-deploy exported")
        if len(inputs) > 1:
            raise BadInput(f"Expected one input, got {', '.join(inputs)}", "use a graph that msal-deploy exported")

    @abstractmethod
    def _open(self) -> None:
        """Load the graph."""

    @abstractmethod
    def _infer(self, images: UInt8Images) -> Float32Maps:
        """Compute contiguous images that the specification accepts."""

    @abstractmethod
    def _close(self) -> None:
        """Release everything."""
