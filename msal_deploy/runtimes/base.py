"""Engine: one graph opened in one runtime. Everything that runs a network goes through `open_engine`."""

import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from importlib.util import find_spec
from types import TracebackType
from typing import ClassVar, Self

import numpy as np

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, DeployError, suggest, translate_missing_extra
from msal_deploy.spec import Float32Maps, ModelSpec, UInt8Images

# Runtime -> where its Engine is. Imported only when it is opened, so a runtime costs nothing until it is used.
RUNTIMES = {
    "torch": "msal_deploy.runtimes.torch:TorchEngine",
    "onnxruntime": "msal_deploy.runtimes.onnxruntime:OnnxRuntimeEngine",
    "openvino": "msal_deploy.runtimes.openvino:OpenVinoEngine",
    "tensorrt": "msal_deploy.runtimes.tensorrt:TensorRtEngine",
    "tensorrt-rtx": "msal_deploy.runtimes.tensorrt:TensorRtRtxEngine",
    "triton": "msal_deploy.runtimes.triton:TritonEngine",
}


# By evidence (benchmarks/README.md), the fastest first.
CPU_ENGINES = ("openvino:int8", "onnxruntime:int8", "openvino:fp32", "onnxruntime:fp32", "torch:fp32")
MAX_THREADS = 1024


class Engine(ABC):
    """A context manager that turns images into probabilities; nothing is loaded before it is entered.

    A runtime whose `precisions` are empty checks by itself what follows the colon of its ids.

    Threads may share one; it serves them one after the other. A runtime implements `_open`, `_infer` and `_close`.

    Args:
        bundle: where the graph is.
        precision: which graph of the bundle: ``fp32``, ``fp16``, ``int8``.
        threads: CPU threads, or None for as many as the runtime takes by itself.
        streams: how many images of a batch are computed side by side, where the runtime can.
    """

    runtime: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    has_streams: ClassVar[bool] = False

    def __init__(self, bundle: Bundle, precision: str, threads: int | None = None, streams: int = 1) -> None:
        if self.precisions and precision not in self.precisions:
            raise BadInput(f"{self.runtime} runs no {precision!r}; {suggest(precision, self.precisions)}")
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise BadInput(f"{threads} threads are no sensible number; give 1 to {MAX_THREADS}")
        if streams < 1 or (streams > 1 and not self.has_streams):
            raise BadInput(f"{self.runtime} does not run {streams} streams; leave it at 1, or use openvino")
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
        """What the engine takes and gives."""
        return self.bundle.spec

    def __enter__(self) -> Self:
        if self.is_open:
            raise RuntimeError(f"{self.id} is already open: use one with statement for each engine")
        try:
            with translate_missing_extra():
                self._open()
        except (DeployError, MemoryError):
            raise
        except Exception as error:  # each runtime has its own
            raise BadInput(
                f"{self.id} cannot open the graph of {self.bundle.path} ({error}); export it again"
            ) from error
        self.is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:  # a thread may still be inside a call
            if self.is_open:
                self.is_open = False
                self._close()

    def __call__(self, images: UInt8Images) -> Float32Maps:
        """Return the probability of a nucleus.

        Args:
            images: uint8[N,H,W,3], RGB, H and W multiples of 32.

        Returns:
            float32[N,1,H,W], the caller's own.

        Raises:
            BadInput: the images are not that.
            RuntimeError: the engine has not been entered.
        """
        if not self.is_open:
            raise RuntimeError(f"{self.id} is not open: use it in a with statement")
        self.spec.check_images(images)
        # Views such as images[..., ::-1], which turn BGR into RGB, are not laid out as the runtimes take them.
        with self._lock:
            if not self.is_open:
                raise RuntimeError(f"{self.id} was closed while this call waited for another")
            return self._infer(np.ascontiguousarray(images))

    def _check_names(self, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        """Raise `BadInput` unless the graph has the input and the output that the spec names."""
        for tensor, names in ((self.spec.image.name, inputs), (self.spec.probability.name, outputs)):
            if tensor not in (names := list(names)):
                raise BadInput(f"The graph has no {tensor!r} but {', '.join(names)}; it is not one of msal-deploy's")

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _infer(self, images: UInt8Images) -> Float32Maps: ...

    @abstractmethod
    def _close(self) -> None: ...


def is_available(bundle: Bundle, engine_id: str) -> bool:
    """Return whether a CPU engine's runtime is installed and the bundle has the graph of its precision."""
    runtime, _, precision = engine_id.partition(":")
    return find_spec(runtime) is not None and f"model.{precision}.onnx" in bundle.manifest.artifacts


def open_engine(
    bundle: Bundle, engine_id: str | None = None, *, threads: int | None = None, streams: int = 1
) -> Engine:
    """Return the engine that `engine_id` names, to be entered with ``with``; by default the fastest on this CPU.

    ::

        with open_engine(Bundle(Path("bundle")), "openvino:fp32") as engine:
            probability = engine(images)

    Raises:
        BadInput: no such runtime, or it does not run that precision.
        MissingExtra: the runtime's package is not installed.
    """
    if engine_id is None:
        engine_id = next((one for one in CPU_ENGINES if is_available(bundle, one)), CPU_ENGINES[0])
    runtime, _, precision = engine_id.partition(":")
    if runtime not in RUNTIMES:
        raise BadInput(f"No runtime is called {runtime!r} (in {engine_id!r}); {suggest(runtime, RUNTIMES)}")
    module, _, name = RUNTIMES[runtime].partition(":")
    with translate_missing_extra():
        engine: type[Engine] = getattr(importlib.import_module(module), name)
    return engine(bundle, precision, threads, streams)
