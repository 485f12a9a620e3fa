"""Address of a model on a Triton server: the part of an engine's id after ``triton:``."""

from __future__ import annotations

import math
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec

from msal_deploy.errors import BadInput, suggest

PORTS = {"http": 8000, "grpc": 8001}  # Triton's defaults
LOCAL = {"localhost", "127.0.0.1", "::1"}
OPTIONS = ("patience", "shared-memory")
REMEDY = "use the form triton:http://localhost:8000/msal-net"


class Address(msgspec.Struct, frozen=True):
    """Server and model, and the options of the connection.

    ::

        http://localhost:8000/msal-net                  Triton's HTTP port
        grpc://localhost:8001/msal-net                  Triton's gRPC port
        grpc://localhost                                default port, and the model of the bundle
        http://gpu-box:8000/msal-net/2                  version 2 of the model
        http://localhost:8000/msal-net?patience=300&shared-memory=off

    Attributes:
        version: Version of the model, empty for the server's default.
        shared_memory: Whether to pass images in shared memory if the server is local and supports it.
        retry_seconds: How long to retry a failed request (the option ``patience``).
    """

    scheme: Literal["http", "grpc"]
    host: str
    port: int
    model: str
    version: str = ""
    shared_memory: bool = True
    retry_seconds: float = 60.0

    @property
    def netloc(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether the host name is that of this machine."""
        return self.host in LOCAL

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


def parse_address(text: str, model: str) -> Address:
    """Parse the part of an engine's id after ``triton:``.

    >>> address = parse_address("grpc://gpu-box?patience=5", model="msal-net")
    >>> address.netloc, address.model, address.retry_seconds
    ('gpu-box:8001', 'msal-net', 5.0)

    Args:
        model: Name of the model if the address has none.

    Raises:
        BadInput: `text` is not an address.
    """
    parts = _split(text)
    if parts.scheme not in ("http", "grpc") or not parts.hostname:
        remedy = suggest(parts.scheme, PORTS) if parts.scheme and parts.hostname else REMEDY
        raise BadInput(f"'triton:{text}' is not an address with http:// or grpc:// and a host", remedy)
    name, _, version = parts.path.strip("/").partition("/")
    if version and not version.isdecimal():
        raise BadInput(f"Expected a number as the model's version, got {version!r} in 'triton:{text}'", REMEDY)
    options = _options(text, parts.query)
    return Address(
        scheme="http" if parts.scheme == "http" else "grpc",
        host=parts.hostname,
        port=parts.port or PORTS[parts.scheme],
        model=name or model,
        version=version,
        shared_memory=_shared_memory(options.get("shared-memory", "on")),
        retry_seconds=_retry_seconds(options.get("patience", "60")),
    )


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port  # parsed on access; raises ValueError if it is not a number
    except ValueError as error:
        raise BadInput(f"'triton:{text}' is not an address ({error})", REMEDY) from error
    return parts


def _options(text: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in OPTIONS:
            raise BadInput(f"{name!r} is not an option (in 'triton:{text}')", suggest(name, OPTIONS))
    return options


def _shared_memory(text: str) -> bool:
    if text not in ("on", "off"):
        raise BadInput(f"Expected shared-memory=on or off in a Triton address, got {text!r}", "use on or off")
    return text == "on"


def _retry_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise BadInput(f"Expected patience in seconds in a Triton address, got {text!r}", "use a number such as 60")
    return seconds
