"""Address of a model on a Triton server: what follows ``triton:`` in an engine's id."""

from __future__ import annotations

import math
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec

from msal_deploy.errors import BadInput, suggest

PORTS = {"http": 8000, "grpc": 8001}  # Triton's own
LOCAL = {"localhost", "127.0.0.1", "::1"}
OPTIONS = ("patience", "shared-memory")
EXAMPLE = "triton:http://localhost:8000/msal-net"


class Address(msgspec.Struct, frozen=True):
    """Where a model is served, and how to behave towards the server.

    ::

        http://localhost:8000/msal-net                  Triton's HTTP port
        grpc://localhost:8001/msal-net                  its gRPC port
        grpc://localhost                                the usual port, and the bundle's own model
        http://gpu-box:8000/msal-net/2                  version 2 of the model
        http://localhost:8000/msal-net?patience=300&shared-memory=off

    Attributes:
        version: of the model, empty for what the server chooses.
        shared_memory: hand images over in memory that both have, where the server is local and takes that.
        patience: seconds to ask again after a request was lost, until the server answers.
    """

    scheme: Literal["http", "grpc"]
    host: str
    port: int
    model: str
    version: str = ""
    shared_memory: bool = True
    patience: float = 60.0

    @property
    def netloc(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, by its name."""
        return self.host in LOCAL

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


def parse_address(text: str, model: str) -> Address:
    """Read an address; `model` is the name where it has none.

    Raises:
        BadInput: it is no address.
    """
    parts = _split(text)
    if parts.scheme not in ("http", "grpc") or not parts.hostname:
        known = f" ({suggest(parts.scheme, PORTS)})" if parts.scheme and parts.hostname else ""
        raise BadInput(f"'triton:{text}' names no server{known}; write it like {EXAMPLE}")
    name, _, version = parts.path.strip("/").partition("/")
    if version and not version.isdecimal():
        raise BadInput(f"'triton:{text}' asks for version {version!r}; a version of a model is a number")
    options = _options(text, parts.query)
    return Address(
        scheme="http" if parts.scheme == "http" else "grpc",
        host=parts.hostname,
        port=parts.port or PORTS[parts.scheme],
        model=name or model,
        version=version,
        shared_memory=_shared_memory(options.get("shared-memory", "on")),
        patience=_patience(options.get("patience", "60")),
    )


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port  # read only now, and may be no number
    except ValueError as error:
        raise BadInput(f"'triton:{text}' is no address ({error}); write it like {EXAMPLE}") from error
    return parts


def _options(text: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in OPTIONS:
            raise BadInput(f"'triton:{text}' has the option {name!r}; {suggest(name, OPTIONS)}")
    return options


def _shared_memory(text: str) -> bool:
    if text not in ("on", "off"):
        raise BadInput(f"shared-memory={text} of a Triton address is neither on nor off")
    return text == "on"


def _patience(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise BadInput(f"patience={text} of a Triton address is no number of seconds")
    return seconds
