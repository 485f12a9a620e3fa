"""Out of memory: told by the error that a library raised, and reported with what to lower.

Every library has its own error: torch a `RuntimeError`, ONNX Runtime and OpenVINO the text of a C++ exception, the
operating system an errno. A process that the kernel kills, or that a native library ends with abort(), raises nothing:
no Python code can report that.
"""

import errno
import re
from collections.abc import Iterator

from msal_deploy.errors import DeployError, MissingRequirement

# What libraries write if an allocation, a thread or a mapping failed. Found by running commands under `ulimit -v`.
TEXTS = re.compile(
    r"(can't|cannot|can not|could not|couldn't|failed to|unable to) (re)?allocate"
    r"|bad[_ ]alloc|(alloc\w*|malloc|mmap\w*) failed|failed to mmap|failed allocation"
    r"|out[ _]?of[ _]?memory|cudaErrorMemoryAllocation|(not enough|insufficient|no more) memory"
    r"|can't start new thread|pthread_create failed|failed to create thread|thread constructor failed"
    r"|failed to map segment|cannot enlarge memory",
    re.IGNORECASE,
)
BYTES = re.compile(r"(\d+)\s*bytes", re.IGNORECASE)
SIZE = re.compile(r"(\d+(?:\.\d+)?)\.?\s*([KMGTP]i?B)\b")
GIB = 2**30
REMEDY = "lower --batch, --size, --tile, --threads or --workers, or give the command more memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one that it was raised from or after, says that memory ran out.

    A `MissingRequirement` is never one: it already says what is missing. The text of other errors of msal-deploy says
    nothing, for it may quote a file; what they were raised from does.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"))
    True
    >>> is_out_of_memory(ValueError("not a memory error"))
    False
    """
    if isinstance(error, MissingRequirement):
        return False
    return any(_says_so(one) for one in _chain(error))


def not_enough_memory(error: BaseException) -> MissingRequirement:
    """Return the error to report, with the size of the allocation that failed if a library told it.

    >>> not_enough_memory(RuntimeError("can't allocate memory: you tried to allocate 8589934592 bytes")).cause
    'Not enough memory (8.0 GiB more were needed)'
    """
    sizes = (size for one in _chain(error) if _says_so(one) if (size := _needed(str(one))))
    needed = next(sizes, "")
    return MissingRequirement(f"Not enough memory{needed and f' ({needed} more were needed)'}", REMEDY)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from or after."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError):  # NumPy's, Pillow's and Python's own
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM or (error.errno is None and bool(TEXTS.search(str(error))))
    return not isinstance(error, DeployError) and bool(TEXTS.search(f"{type(error).__name__}: {error}"))


def _needed(text: str) -> str:
    """Return the size in an error's text, such as ``8.0 GiB``; empty without one of at least 0.05 GiB."""
    if (found := SIZE.search(text)) is not None:
        return f"{found[1]} {found[2]}"
    numbers = [int(one) for one in BYTES.findall(text)]
    return f"{max(numbers) / GIB:.1f} GiB" if numbers and max(numbers) >= GIB // 20 else ""
