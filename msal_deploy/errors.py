"""Every error that msal-deploy raises on purpose.

::

    DeployError
    ├── GateFailed          exit 1   a measured gate failed: parity, precision, a failed check
    ├── BadInput            exit 2   the input or the usage is wrong
    ├── MissingRequirement  exit 3   a GPU, a package, memory or disk space is missing
    │   └── MissingExtra             … a Python package; the message has the pip command that installs it
    └── InternalFault       exit 70  a fault of msal-deploy itself; nothing that a user does should cause it

Each error has a `cause` (what is wrong) and a `remedy` (what to do), and prints as ``cause; remedy``. The command line
prints that line and exits with `exit_code`; users never see a traceback. Signals exit as in shells: Ctrl-C with 130,
SIGTERM with 143, SIGHUP with 129.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar


class DeployError(Exception):
    """Base class of all errors raised on purpose.

    >>> error = BadInput("bundle is not a bundle (no manifest.json)", "create one with: msal-deploy export")
    >>> str(error)
    'bundle is not a bundle (no manifest.json); create one with: msal-deploy export'
    >>> error.remedy
    'create one with: msal-deploy export'

    Attributes:
        cause: What is wrong, such as ``X is not Y`` or ``Expected …, got …``.
        remedy: What to do about it; empty if the cause says it all.
        exit_code: Exit code of the command line.
    """

    exit_code: ClassVar[int] = 70  # EX_SOFTWARE of sysexits.h

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause}; {remedy}" if remedy else cause)
        self.cause = cause
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.cause, self.remedy)  # workers of Dask send errors as pickles


def _restored(kind: type[DeployError], cause: str, remedy: str) -> DeployError:
    error = kind.__new__(kind)
    DeployError.__init__(error, cause, remedy)
    return error


class GateFailed(DeployError):
    """A measured gate failed: the command ran to its end, and the result is not good enough."""

    exit_code = 1


class BadInput(DeployError):
    """The input or the usage is wrong."""

    exit_code = 2


class MissingRequirement(DeployError):
    """A requirement is missing: a GPU, a package, memory or disk space."""

    exit_code = 3


class InternalFault(DeployError):
    """A fault of msal-deploy itself, which its authors should know of; never the result of a gate."""


class MissingExtra(MissingRequirement):
    """A Python package is not installed; the remedy is the pip command that installs it.

    >>> str(MissingExtra("torch", "train"))
    "torch is not installed; run: pip install 'msal-deploy[train]'"
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", f"run: pip install 'msal-deploy[{extra}]'")


# Optional top-level module -> the extra that installs it. A runtime names its own in the catalogue of runtimes; listed
# here are the modules that other parts of the package import, too.
EXTRA_OF_MODULE = {
    "torch": "train",
    "torchvision": "train",
    "lightning": "train",
    "lightning_fabric": "train",
    "tensorboard": "train",
    "segmentation_models_pytorch": "zoo",
    "tensorrt": "gpu",
    "cuda": "gpu",
    "polygraphy": "gpu",
    "pycuda": "pascal",
    "tensorrt_rtx": "rtx",
    "tritonclient": "triton",
    "openslide": "slides",
    "pandas": "slides",
    "pyarrow": "slides",
    "zarr": "slides",
    "distributed": "dask",
}


@contextmanager
def translate_missing_extra(extras: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn a failed import of an optional package into `MissingExtra`; other import errors pass unchanged.

    >>> with translate_missing_extra({"no_such_module": "fast"}):
    ...     import no_such_module
    Traceback (most recent call last):
    msal_deploy.errors.MissingExtra: no_such_module is not installed; run: pip install 'msal-deploy[fast]'

    Args:
        extras: More optional modules and the extras that install them.
    """
    extra_of_module = {**EXTRA_OF_MODULE, **(extras or {})}
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in extra_of_module:
            raise
        raise MissingExtra(module, extra_of_module[module]) from error


def suggest(word: str, words: Iterable[str]) -> str:
    """Return a remedy for a mistyped name: the closest name, or the list of all names.

    >>> suggest("openvno", ["openvino", "onnxruntime"])
    "did you mean 'openvino'?"
    >>> suggest("keras", ["openvino", "onnxruntime"])
    'choose from: onnxruntime, openvino'
    """
    known = sorted(words)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from: {', '.join(known)}"
