"""Read the tensors of a weight file by its content, whatever its name, without running code from it.

A file is safetensors, or was written by ``torch.save`` (a zip, or the older pickle). Everything else is refused in one
sentence that says what the file is.
"""

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from torch.serialization import safe_globals

from msal_deploy.errors import BadInput
from msal_deploy.files import regular_file

ZIP, PICKLE = b"PK", b"\x80"
TORCH_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch.save wrote first until 1.6
MAX_HEADER = 100_000_000  # bytes of JSON at the start of a safetensors file: the limit of its own library
SAVE_WEIGHTS = 'save only the weights: torch.save(model.state_dict(), "weights.pt")'

# How other files start, what they are, and what to do.
OTHER_FILES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights", "run: git lfs pull"),
    (b"<", "a web page, not weights", "download it again"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"\x89HDF", "an HDF5 file (Keras)", SAVE_WEIGHTS),
    (b"GGUF", "a GGUF file", SAVE_WEIGHTS),
)
# Packages whose objects hold settings and scores beside the weights: each becomes an empty stand-in.
PLAIN_DATA = (
    "argparse", "collections", "datetime", "easydict", "enum", "hydra", "lightning", "lightning_fabric", "mmcv",
    "mmengine", "numpy", "omegaconf", "pathlib", "pytorch_lightning", "types", "typing", "uuid", "yacs",
)  # fmt: skip
PLAIN_TYPES = (
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "object",
    "set",
    "str",
    "tuple",
)
MAX_IGNORED = 64  # different classes in one file


class WeightFile(msgspec.Struct, frozen=True):
    """The content of a weight file.

    Attributes:
        content: Tensors in nested mappings, among other things; safetensors have one flat mapping.
        metadata: The texts that safetensors store beside the tensors.
    """

    content: Any
    metadata: dict[str, str] = {}


class _Ignored:
    """Takes the place of an object that is not needed. Its class is neither imported nor called."""

    def __new__(cls, *_: Any, **__: Any) -> "_Ignored":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        """Drop the object's state."""


class _IgnoredMapping:
    """The same for an object that may be a mapping: torch fills only mappings of exactly these types."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]  # it never makes an instance
        return OrderedDict()


def read_weights(path: Path) -> WeightFile:
    """Return the content of a weight file, on the CPU::

        read_weights(Path("runs/r34/best.safetensors")).metadata["licence"]

    Raises:
        BadInput: The file is missing, is not a regular file, is damaged, is of another kind, or could run code.
    """
    path = regular_file(path, "weight file")
    with path.open("rb") as stream:
        head = stream.read(512)
    if is_safetensors(head):
        return _read_safetensors(path)
    if head.startswith(ZIP):
        _check_zip(path)
    elif not head.startswith(TORCH_PICKLE):
        raise _other_file(path, head)
    return WeightFile(_read_pickle(path))


def is_safetensors(head: bytes) -> bool:
    """Return whether a file that starts with `head` (at least 9 bytes) is safetensors.

    >>> is_safetensors((2).to_bytes(8, "little") + b"{}"), is_safetensors(b"PK")
    (True, False)
    """
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER


def read_metadata(path: Path) -> dict[str, str]:
    """Return the texts beside the tensors of a safetensors file, and none for another file; reads no tensor.

    Raises:
        BadInput: The file is missing, or is not a complete safetensors file.
    """
    path = regular_file(path, "weight file")
    with path.open("rb") as stream:
        head = stream.read(9)
    if not is_safetensors(head):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:
        raise _damaged_safetensors(path, error) from error


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
            return WeightFile(tensors, dict(file.metadata() or {}))
    except MemoryError:
        raise
    except Exception as error:  # types that torch does not have raise other errors than SafetensorError
        raise _damaged_safetensors(path, error) from error


def _damaged_safetensors(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path} is not a complete safetensors file ({first_line(error)})", "copy or train it again")


def _check_zip(path: Path) -> None:
    """Raise `BadInput` unless a zip is one of torch.save, which stores without compression."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadInput(f"{path} is not a complete PyTorch file ({first_line(error)})", "copy it again") from error
    names = {member.filename.rpartition("/")[2] for member in members}
    if "constants.pkl" in names:
        raise BadInput(f"{path} is a TorchScript program", SAVE_WEIGHTS)
    if "data.pkl" not in names:
        raise BadInput(f"{path} is a zip that torch.save did not write", f"unpack it, or {SAVE_WEIGHTS}")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise BadInput(f"{path} unpacks to more bytes than it has, which torch.save never writes", SAVE_WEIGHTS)


def _other_file(path: Path, head: bytes) -> BadInput:
    if not head:
        return BadInput(f"{path} is empty", "copy or train it again")
    for start, kind, remedy in OTHER_FILES:
        if head.lstrip().startswith(start):
            return BadInput(f"{path} is {kind}", remedy)
    if head[257:262] == b"ustar":
        return BadInput(f"{path} is a tar archive", "unpack it first")
    if head.startswith(PICKLE):
        return BadInput(
            f"{path} is a pickle that torch.save did not write, and reading it could run code", SAVE_WEIGHTS
        )
    return BadInput(f"{path} is neither a safetensors nor a PyTorch file", "copy or train it again")


def _read_pickle(path: Path) -> Any:
    ignored: list[str] = []
    while True:
        try:
            with warnings.catch_warnings(), path.open("rb") as stream, safe_globals(list(map(_stand_in, ignored))):
                warnings.simplefilter("ignore")
                return torch.load(stream, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # a damaged pickle may raise anything
            name = _forbidden(error)
            if name is None or name in ignored or len(ignored) == MAX_IGNORED or not _is_plain_data(name):
                raise _refusal(path, error, name) from error
            ignored.append(name)


def _stand_in(name: str) -> tuple[Any, str]:
    return (_Ignored if name.startswith("numpy.") else _IgnoredMapping), name


def _forbidden(error: Exception) -> str | None:
    """Return the name that torch refused to import, or None if it failed for another reason."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    found = re.search(r"unsupported global(?:: GLOBAL)? (\S+)", str(error), re.IGNORECASE)
    if found is None:
        return None
    return f"builtins.{found[1]}" if found[1] in PLAIN_TYPES else found[1]  # torch leaves the module out


def _is_plain_data(name: str) -> bool:
    package, _, rest = name.partition(".")
    return package in PLAIN_DATA or (package == "builtins" and rest in PLAIN_TYPES)


def _refusal(path: Path, error: Exception, name: str | None) -> BadInput:
    if name is not None:
        cause = f"{path} contains more than weights ({name[:80]}), and unpickling it could run code"
        return BadInput(cause, SAVE_WEIGHTS)
    reason = str(error).partition("WeightsUnpickler error: ")[2].strip() or error
    return BadInput(f"{path} is not a complete PyTorch file ({first_line(reason)})", "copy or save it again")


def first_line(error: BaseException | str) -> str:
    """Return the first sentence of an error's message.

    >>> first_line(ValueError("It is too big. Make it smaller."))
    'It is too big'
    """
    return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
