"""Everything that msal-deploy raises on purpose.

::

    DeployError
    ├── GateFailed        exit 1   a measured gate was not passed (parity, precision, a failed check)
    ├── BadInput          exit 2   what the user gave cannot be used
    └── MissingRequirement  exit 3   this machine lacks something (an extra, a GPU, disk, memory)
        └── MissingExtra           … a Python package, with the pip command that installs it

A message is one sentence: what is wrong, then what to do. The command line prints it and exits with `exit_code`;
no traceback reaches a user. Interrupting with Ctrl-C exits with 130.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar


class DeployError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line exits with."""

    exit_code: ClassVar[int] = 1


class GateFailed(DeployError):
    """A measured gate was not passed: the work was done, and its result is not good enough."""

    exit_code = 1


class BadInput(DeployError):
    """What the user gave cannot be used."""

    exit_code = 2


class MissingRequirement(DeployError):
    """This machine lacks something that the command needs."""

    exit_code = 3


class MissingExtra(MissingRequirement):
    """A Python package is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"This needs {package}, which is not installed; run: pip install 'msal-deploy[{extra}]'")


# Top-level module -> the extra that installs it. Modules of the base install are not listed.
EXTRA_OF_MODULE = {
    "torch": "train",
    "torchvision": "train",
    "lightning": "train",
    "lightning_fabric": "train",
    "onnxscript": "train",
    "tensorboard": "train",
    "segmentation_models_pytorch": "zoo",
    "tensorrt": "gpu",
    "cuda": "gpu",
    "polygraphy": "gpu",
    "pycuda": "pascal",
    "tensorrt_rtx": "rtx",
    "tritonclient": "triton",
}


@contextmanager
def translate_missing_extra() -> Iterator[None]:
    """Turn a failed import of an optional package into `MissingExtra`; other import errors pass unchanged."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRA_OF_MODULE:
            raise
        raise MissingExtra(module, EXTRA_OF_MODULE[module]) from error


def suggest(word: str, words: Iterable[str]) -> str:
    """Return the end of a sentence that helps with a mistyped name: ``did you mean 'x'?`` or the list of names."""
    known = sorted(words)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
