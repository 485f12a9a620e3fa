"""Engine: a graph or plan of a bundle, opened in one runtime. `open_engine` returns one."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, DeployError, suggest, translate_missing_extra
from msal_deploy.runtimes.catalogue import CATALOGUE, extras
from msal_deploy.runtimes.tiling import segment
from msal_deploy.spec import Float32Maps, ModelSpec, UInt8Images
from msal_deploy.trt.plan_metadata import Profile

MAX_THREADS = 1024


class Engine(ABC):
    """A context manager that computes probabilities from images. The graph is loaded on entering.

    >>> from msal_deploy.runtimes import open_engine
    >>> engine = open_engine(Bundle("bundle"), "openvino:fp32")
    >>> engine.id, engine.is_open
    ('openvino:fp32', False)
    >>> with engine:
    ...     engine(np.zeros((2, 32, 32, 3), np.uint8)).shape
    (2, 1, 32, 32)

    Threads may share an engine: calls run one after the other.

    To add a runtime, implement `_open`, `_infer` and `_close`, and add an entry to the catalogue. Leave the entry's
    `precisions` empty if the runtime parses the part after the colon itself, such as Triton's URL.

    Args:
        bundle: Bundle with the graph or plan.
        precision: Part of the id after the colon: ``fp32``, ``fp16``, ``int8``.
        threads: CPU threads; None for the runtime's own choice.
        streams: Images of a batch that are computed in parallel, if the runtime supports it.

    Attributes:
        runtime: Name in the catalogue.
        has_streams: Whether the runtime supports more than one stream.

    Raises:
        BadInput: The runtime does not support the precision, threads or streams.
    """

    runtime: ClassVar[str]
    has_streams: ClassVar[bool] = False

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
        try:
            with translate_missing_extra(extras()):
                self._open()
        except (DeployError, MemoryError):
            raise
        except Exception as error:  # each runtime raises its own types
            raise BadInput(f"{self.id} cannot open {self.bundle.path} ({error})", "export the bundle again") from error
        self.is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            BadInput: The engine cannot take `images`.
            RuntimeError: The engine is not open.
        """
        if not self.is_open:
            raise RuntimeError(f"{self.id} is not open: use it in a with statement")
        self.spec.check_images(images)
        # Views such as images[..., ::-1] (BGR to RGB) are not contiguous, and the runtimes read plain buffers.
        with self._lock:
            if not self.is_open:
                raise RuntimeError(f"{self.id} was closed while this call waited for another")
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

    def _check_names(self, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        """Raise `BadInput` unless the graph has the input and the output of the specification."""
        for tensor, names in ((self.spec.image.name, inputs), (self.spec.probability.name, outputs)):
            if tensor not in (names := list(names)):
                raise BadInput(
                    f"Expected a tensor named {tensor!r}, got {', '.join(names)}",
                    "use a graph that msal-deploy exported",
                )

    @abstractmethod
    def _open(self) -> None:
        """Load the graph."""

    @abstractmethod
    def _infer(self, images: UInt8Images) -> Float32Maps:
        """Compute contiguous images that the specification accepts."""

    @abstractmethod
    def _close(self) -> None:
        """Release everything."""
