"""The seam to TensorRT's bindings: `tensorrt` and `tensorrt_rtx` have the same classes, so one code path serves both.

Nothing here calls CUDA: the module is imported, and a logger is made for it. mypy knows the classes from
``typings/tensorrt.pyi``; import them for annotations only::

    if TYPE_CHECKING:
        import tensorrt as trt

    backend = load_backend("tensorrt-rtx")
    builder: trt.Builder = backend.trt.Builder(backend.messages)
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from msal_deploy.errors import (
    EXTRA_OF_MODULE,
    BadInput,
    MissingExtra,
    MissingRequirement,
    suggest,
    translate_missing_extra,
)
from msal_deploy.trt.plan_metadata import TrtBackendName
from msal_deploy.versions import parse_version

if TYPE_CHECKING:
    import tensorrt as trt

TRT_BACKENDS: tuple[TrtBackendName, ...] = get_args(TrtBackendName)


class Backend(msgspec.Struct, frozen=True):
    """A loaded TensorRT.

    Attributes:
        trt: the module; annotate what comes from it with the classes of `tensorrt`.
        version: such as ``10.13.3.9``.
        messages: a logger to give to `Builder`, `Runtime` and `OnnxParser`. It keeps the lines of their errors in
            `messages.errors` and of their warnings in `messages.warnings`, and prints nothing. In `messages.layers` it
            keeps the list of an engine's layers, which TensorRT-RTX ends a build with.
    """

    name: TrtBackendName
    trt: Any
    version: str
    messages: Any

    @property
    def number(self) -> tuple[int, ...]:
        """Major, minor and patch, to compare with."""
        return parse_version(self.version)

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT for RTX."""
        return self.name == "tensorrt-rtx"

    def member(self, enum: str, name: str) -> Any:
        """Return a member of an enum by its name, None where this version has no such enum or member.

        Never by number: the parse_version have moved between versions.
        """
        return getattr(getattr(self.trt, enum, None), name, None)

    def errors(self) -> str:
        """Return TensorRT's errors since the last call, in one line, and forget them."""
        return self._take(self.messages.errors)

    def warnings(self) -> str:
        """Return TensorRT's warnings since the last call, in one line, and forget them."""
        return self._take(self.messages.warnings)

    def forget(self) -> None:
        """Forget all that TensorRT said so far."""
        self.errors()
        self.warnings()
        self.messages.layers = ""

    def _take(self, lines: list[str]) -> str:
        said = "; ".join(dict.fromkeys(" ".join(line.split()) for line in lines))
        lines.clear()
        return said


def load_backend(name: str) -> Backend:
    """Import the bindings of a backend.

    Args:
        name: ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        BadInput: no such backend.
        MissingExtra: its package is not installed.
        MissingRequirement: the package is there and its libraries cannot be loaded.
    """
    if name not in TRT_BACKENDS:
        raise BadInput(f"No backend is called {name!r}; {suggest(name, TRT_BACKENDS)}")
    module = name.replace("-", "_")
    try:
        with translate_missing_extra():
            trt = importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a library that cannot be opened
        raise MissingRequirement(f"{name} is installed and cannot be loaded ({error}); install it again") from error
    if not hasattr(trt, "Builder"):  # a folder of that name, such as tensorrt-stubs leaves, imports as an empty package
        raise MissingExtra(module, EXTRA_OF_MODULE[module])
    return Backend(name, trt, str(trt.__version__), _messages(trt))


@cache
def _messages(module: Any) -> Any:
    """Return the logger for `module`, whose base class is the module's own.

    One for the whole process: TensorRT keeps the first that it is given, and warns about any other.
    """

    class Messages(module.ILogger):  # type: ignore[misc]
        """Keeps errors, warnings and the list of layers."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.layers = ""

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            """Take a line from TensorRT."""
            if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR):
                self.errors.append(message)
            elif severity == module.ILogger.WARNING:
                self.warnings.append(message)
            elif message.startswith("Layers:"):
                self.layers = message

    return Messages()
