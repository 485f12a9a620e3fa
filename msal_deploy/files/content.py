"""Hashes of files, and JSON."""

import hashlib
import json
from pathlib import Path
from typing import Any

from msal_deploy.files.atomic import atomic_file
from msal_deploy.files.checks import StrPath


def sha256(path: StrPath) -> str:
    """Return the SHA-256 of a file as a hexadecimal string.

    >>> _ = Path("empty").write_bytes(b"")
    >>> sha256("empty")[:8]
    'e3b0c442'
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: StrPath, value: Any) -> None:
    """Write `value` (JSON types only, no NaN) as indented JSON, atomically.

    >>> write_json("report.json", {"dice": 0.81})
    >>> print(Path("report.json").read_text(), end="")
    {
      "dice": 0.81
    }
    """
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
