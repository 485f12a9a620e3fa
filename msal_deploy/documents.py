"""Read JSON and TOML that others wrote into a struct. Whatever the bytes are, a failure is one `BadInput` sentence.

Every text in a document is one printable line: it may end in a script, a configuration or on a terminal.
"""

import math
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec

from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, regular_file

T = TypeVar("T")
# `\Z`, because `$` also matches before a final line break.
Identifier = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", max_length=100)]
FileName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z", max_length=200)
]
VersionText = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*\Z", max_length=100)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
MAX_JSON, MAX_TOML = 64 << 20, 32 << 10  # bytes; tomllib takes a minute for 120 KB of one dotted key
MAX_DEPTH, MAX_INTEGER, MAX_SHOWN = 64, 1 << 63, 200
# Control characters, line separators, and what changes the direction of text (Unicode Standard Annex 9).
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
BOM = b"\xef\xbb\xbf"


def read_json(path: StrPath, kind: type[T], what: str, remedy: str) -> T:
    """Read a JSON file into a struct.

    >>> _ = Path("two.json").write_text('{"sha256": 2}')
    >>> read_json("two.json", dict[str, str], "a list of files", "write it again")
    Traceback (most recent call last):
    msal_deploy.errors.BadInput: two.json is not a list of files (Expected `str`, got `int` - at `$[...]`); write it ...

    Args:
        path: The file, at most `MAX_JSON` bytes of UTF-8, with or without a byte order mark.
        kind: The struct, or another type that msgspec converts to.
        what: What the file should be, such as ``a valid manifest``, for the message.
        remedy: What to do if it is not.

    Raises:
        FileNotFoundError: There is no such file.
        BadInput: It is not a regular file, cannot be read, is too large, is not JSON or is not of this kind.
    """
    return parse_json(_read(path, MAX_JSON, what, remedy), kind, str(path), what, remedy)


def read_toml(path: StrPath, remedy: str) -> dict[str, Any]:
    """Read a TOML file of at most `MAX_TOML` bytes.

    >>> _ = Path("mine.toml").write_text('name = "mine"')
    >>> read_toml("mine.toml", "correct the file")
    {'name': 'mine'}

    Raises:
        FileNotFoundError: There is no such file.
        BadInput: It is not a regular file, cannot be read, is too large or is not TOML.
    """
    data = _read(path, MAX_TOML, "valid TOML", remedy)
    return parse(lambda: tomllib.loads(data.removeprefix(BOM).decode()), str(path), "valid TOML", remedy)


def parse_json(data: bytes | str, kind: type[T], name: str, what: str, remedy: str) -> T:
    """Return the struct that JSON holds; `name` is what the message calls it. The other arguments are `read_json`'s.

    >>> parse_json('{"a": 1}', dict[str, int], "The metadata", "a table", "write it again")
    {'a': 1}

    Raises:
        BadInput: It is not JSON or not of this kind.
    """
    content = data.encode(errors="replace") if isinstance(data, str) else data
    value = parse(lambda: msgspec.json.decode(content.removeprefix(BOM)), name, what, remedy)
    return parse(lambda: msgspec.convert(value, kind), name, what, remedy)


def parse(read: Callable[[], T], name: str, what: str, remedy: str) -> T:
    """Return what `read` returns, if all texts in it are printable lines and all numbers finite.

    >>> parse(lambda: {"licence": "MIT" + chr(10)}, "m.json", "a valid manifest", "export the bundle again")
    Traceback (most recent call last):
    msal_deploy.errors.BadInput: m.json is not a valid manifest (licence: 'MIT\\n' is not one line ...); ...

    Raises:
        BadInput: They are not, or `read` fails.
    """
    try:
        value = read()
        if isinstance(value, dict | list | str):
            _check_values(value)
    except RecursionError as error:
        refuse(name, what, "it is nested too deeply", remedy, error)
    except msgspec.ValidationError as error:
        refuse(name, what, str(error), remedy, error)
    except (ValueError, msgspec.DecodeError, OverflowError) as error:  # tomllib's and Unicode's are ValueErrors
        text = "a number in it is too long" if "integer string conversion" in str(error) else str(error)
        refuse(name, what, text, remedy, error)
    return value


def refuse(name: str, what: str, why: str, remedy: str, error: BaseException | None = None) -> NoReturn:
    """Raise `BadInput` in one short line, whatever a library says."""
    line = UNSAFE.sub("?", " ".join(why.split()))
    line = line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}…"
    raise BadInput(f"{name} is not {what} ({line})", remedy) from error


def _read(path: StrPath, limit: int, what: str, remedy: str) -> bytes:
    try:
        if not Path(path).exists():
            raise FileNotFoundError(path)
        with regular_file(path).open("rb") as stream:
            data = stream.read(limit + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise BadInput(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})", remedy) from error
    if len(data) > limit:
        refuse(str(path), what, f"it is larger than {limit >> 10:,} KiB", remedy)
    return data


def _check_values(root: object) -> None:
    for value, where in _walk(root):
        try:
            _check_value(value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}" if where else str(error)) from error


def _check_value(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if isinstance(value, int) and abs(value) >= MAX_INTEGER:
        raise ValueError("a number is too long")
    if isinstance(value, str):
        check_line(value)


def check_line(text: str) -> str:
    """Return `text` if it is one line that can be printed: no control characters, none that change its direction.

    >>> check_line("CC-BY-NC-SA-4.0")
    'CC-BY-NC-SA-4.0'

    Raises:
        ValueError: It is not.
    """
    if UNSAFE.search(text):
        raise ValueError(f"{text[:50]!a} is not one line of printable text")
    return text


def _walk(root: object) -> Iterator[tuple[object, str]]:
    """Yield all values and keys, and the keys that lead to them, such as ``train.rate``; without recursion."""
    stack: list[tuple[object, tuple[str, ...]]] = [(root, ())]
    while stack:
        value, keys = stack.pop()
        if len(keys) > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        yield value, ".".join(filter(None, keys))
        if isinstance(value, dict):
            stack.extend((key, keys) for key in value)
            stack.extend((item, (*keys, str(key)[:50])) for key, item in value.items())
        elif isinstance(value, list | tuple):
            stack.extend((item, (*keys, "")) for item in value)
