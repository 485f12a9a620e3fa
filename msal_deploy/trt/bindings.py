"""Load TensorRT's bindings. `tensorrt` and `tensorrt_rtx` have the same classes, so the same code serves both.

Nothing here calls CUDA. mypy knows the classes from ``typings/tensorrt.pyi``; import them for annotations only::

    if TYPE_CHECKING:
        import tensorrt as trt

    backend = load_backend("tensorrt-rtx")
    builder: trt.Builder = backend.trt.Builder(backend.logger)
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

    >>> from types import SimpleNamespace
    >>> backend = Backend("tensorrt", SimpleNamespace(), "10.13.3.9", None)
    >>> backend.version_tuple
    (10, 13, 3)
    >>> backend.member("ComputeCapability", "SM75") is None
    True

    Attributes:
        name: ``tensorrt`` or ``tensorrt-rtx``.
        trt: The module. Annotate its objects with the classes of `tensorrt`.
        version: Version of the module, such as ``10.13.3.9``.
        logger: TensorRT logger for `Builder`, `Runtime` and `OnnxParser`. It prints nothing and keeps errors in
            `logger.errors`, warnings in `logger.warnings`, and the list of layers that TensorRT-RTX logs at the end of
            a build in `logger.layers`.
    """

    name: TrtBackendName
    trt: Any
    version: str
    logger: Any

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """Major, minor and patch as integers, to compare with."""
        return parse_version(self.version)

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT for RTX."""
        return self.name == "tensorrt-rtx"

    def member(self, enum: str, name: str) -> Any:
        """Return a member of an enum by name, or None if this version has no such enum or member.

        Members are never looked up by number, because numbers have changed between versions.
        """
        return getattr(getattr(self.trt, enum, None), name, None)

    def errors(self) -> str:
        """Return the errors that TensorRT has logged since the last call, in one line, and clear them."""
        return self._take(self.logger.errors)

    def warnings(self) -> str:
        """Return the warnings that TensorRT has logged since the last call, in one line, and clear them."""
        return self._take(self.logger.warnings)

    def clear_log(self) -> None:
        """Clear everything that TensorRT has logged so far."""
        self.errors()
        self.warnings()
        self.logger.layers = ""

    def _take(self, lines: list[str]) -> str:
        text = "; ".join(dict.fromkeys(" ".join(line.split()) for line in lines))
        lines.clear()
        return text


def parse_backend(name: str) -> TrtBackendName:
    """Return `name` if it is a backend.

    >>> parse_backend("tensorrt_rtx")
    Traceback (most recent call last):
        ...
    msal_deploy.errors.BadInput: 'tensorrt_rtx' is not a TensorRT backend; did you mean 'tensorrt-rtx'?

    Raises:
        BadInput: There is no backend of this name.
    """
    if name not in TRT_BACKENDS:
        raise BadInput(f"{name!r} is not a TensorRT backend", suggest(name, TRT_BACKENDS))
    return name


def load_backend(name: str) -> Backend:
    """Import the bindings of a backend.

    ::

        backend = load_backend("tensorrt-rtx")
        backend.version  # "1.7.1.116"

    Args:
        name: ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        BadInput: There is no backend of this name.
        MissingExtra: The package is not installed.
        MissingRequirement: The package is installed, but its libraries cannot be loaded.
    """
    backend = parse_backend(name)
    module = name.replace("-", "_")
    try:
        with translate_missing_extra():
            trt = importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a library that cannot be opened
        raise MissingRequirement(f"{name} is installed but cannot be loaded ({error})", "reinstall it") from error
    if not hasattr(trt, "Builder"):  # a folder of that name, such as tensorrt-stubs leaves, imports as an empty package
        raise MissingExtra(module, EXTRA_OF_MODULE[module])
    return Backend(backend, trt, str(trt.__version__), _logger(trt))


@cache
def _logger(module: Any) -> Any:
    """Return the logger for `module`, which must be derived from the module's own class.

    There is one per process: TensorRT keeps the first logger that it gets, and warns about any other.
    """

    class Logger(module.ILogger):  # type: ignore[misc]
        """Keeps errors, warnings and the list of layers."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.layers = ""

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            """Keep a line that TensorRT logs."""
            if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR):
                self.errors.append(message)
            elif severity == module.ILogger.WARNING:
                self.warnings.append(message)
            elif message.startswith("Layers:"):
                self.layers = message

    return Logger()
