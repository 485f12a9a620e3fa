"""Triton's two protocols behind one face: one request, one answer, and every failure as a `TritonError` of a kind."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal
from urllib.parse import quote

from msal_deploy.errors import MissingExtra
from msal_deploy.runtimes.triton.address import Address

# gone: nobody answers, the connection broke, or the server says to come again; loading: the model is not there yet;
# unknown: no such model or memory; late: no answer in time; invalid: the request is wrong; failed: the server or the
# model broke on it.
Kind = Literal["gone", "loading", "unknown", "late", "invalid", "failed"]

# Seconds: to connect, for a word about the model, for the probabilities, and to say goodbye.
CONNECT_TIMEOUT, CONTROL_TIMEOUT, INFER_TIMEOUT, CLOSE_TIMEOUT = 5.0, 30.0, 300.0, 10.0
OF_STATUS: dict[int, Kind] = {400: "invalid", 404: "unknown", 409: "invalid", 413: "invalid", 429: "gone", 503: "gone"}
OF_CODE: dict[str, Kind] = {
    "INVALID_ARGUMENT": "invalid",
    "ALREADY_EXISTS": "invalid",
    "NOT_FOUND": "unknown",
    "UNAVAILABLE": "gone",
    "CANCELLED": "gone",
    "RESOURCE_EXHAUSTED": "invalid",
    "DEADLINE_EXCEEDED": "late",
}


class TritonError(Exception):
    """A request without an answer; the message is what the server or the network says."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message.strip().removesuffix("."))
        self.kind = kind


class Protocol(ABC):
    """A connection to one server, made when it is first needed. Threads may share one.

    Attributes:
        module: tritonclient's module, for its `InferInput` and `InferRequestedOutput`.
        max_bytes: of images that the server takes in a request.
    """

    module: ModuleType
    max_bytes: int

    @abstractmethod
    def model(self, address: Address) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return metadata and configuration of a model, both as Triton's JSON."""

    @abstractmethod
    def index(self) -> list[dict[str, str]]:
        """Return name, state and reason of every model in the server's repository."""

    @abstractmethod
    def share(self, name: str, size: int) -> None:
        """Let the server open the shared memory `name`, which is called so on both sides."""

    @abstractmethod
    def unshare(self, name: str) -> None:
        """Let the server close it."""

    @abstractmethod
    def infer(self, address: Address, inputs: list[Any], outputs: list[Any], request: str) -> Any:
        """Return tritonclient's `InferResult` to the request of the id `request`."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


def connect(address: Address) -> Protocol:
    """Return the protocol of `address`; nothing is sent yet."""
    return _Http(address) if address.scheme == "http" else _Grpc(address)


class _Http(Protocol):
    """HTTP by urllib3, bodies by tritonclient.

    tritonclient's own HTTP client holds on to the thread that made it (gevent), and engines are shared by threads.
    """

    max_bytes = 63 << 20  # Triton takes bodies of 64 MiB, unless it is told otherwise

    def __init__(self, address: Address) -> None:
        import urllib3

        with _naming_the_extra():
            import tritonclient.http as module

        self.module = module
        self._client = module.InferenceServerClient
        self._errors = urllib3.exceptions
        self._pool = urllib3.HTTPConnectionPool(address.host, address.port, retries=False, maxsize=4)

    def model(self, address: Address) -> tuple[dict[str, Any], dict[str, Any]]:
        path = _path(address)
        return self._json("GET", path), self._json("GET", f"{path}/config")

    def index(self) -> list[dict[str, str]]:
        models: list[dict[str, str]] = self._json("POST", "/v2/repository/index")
        return models

    def share(self, name: str, size: int) -> None:
        body = json.dumps({"key": f"/{name}", "offset": 0, "byte_size": size}).encode()
        self._send("POST", f"/v2/systemsharedmemory/region/{name}/register", body)

    def unshare(self, name: str) -> None:
        self._send("POST", f"/v2/systemsharedmemory/region/{name}/unregister", timeout=CLOSE_TIMEOUT)

    def infer(self, address: Address, inputs: list[Any], outputs: list[Any], request: str) -> Any:
        body, header = self._client.generate_request_body(inputs, outputs=outputs, request_id=request)
        headers = {"Inference-Header-Content-Length": str(header)} if header is not None else {}
        answer = self._send("POST", f"{_path(address)}/infer", body, headers, INFER_TIMEOUT)
        length = answer.headers.get("Inference-Header-Content-Length")
        return self._client.parse_response_body(answer.data, header_length=int(length) if length else None)

    def close(self) -> None:
        self._pool.close()

    def _json(self, method: str, path: str) -> Any:
        try:
            return self._send(method, path).json()
        except ValueError as error:
            raise TritonError("invalid", f"{method} {path} gives no JSON") from error

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        from urllib3.util import Timeout

        timeout = timeout or CONTROL_TIMEOUT
        limits = Timeout(connect=CONNECT_TIMEOUT, read=timeout)
        try:
            answer = self._pool.request(method, path, body=body, headers=headers, timeout=limits)
        except self._errors.ReadTimeoutError as error:
            raise TritonError("late", f"no answer within {timeout:g} s") from error
        except self._errors.HTTPError as error:
            raise TritonError("gone", _plain(error)) from error
        if answer.status != 200:
            raise TritonError(OF_STATUS.get(answer.status, "failed"), _said(answer.data) or f"status {answer.status}")
        return answer


class _Grpc(Protocol):
    """gRPC by tritonclient."""

    max_bytes = 1 << 30  # a message ends at 2 GiB

    def __init__(self, address: Address) -> None:
        with _naming_the_extra():
            import tritonclient.grpc as module

        self.module = module
        # A channel waits up to two minutes before it looks for a lost server again: too long for a restart. One that
        # it shares with others (of the same options) would wait with them.
        options = [
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._client = module.InferenceServerClient(address.netloc, channel_args=options)

    def model(self, address: Address) -> tuple[dict[str, Any], dict[str, Any]]:
        asked: dict[str, Any] = {"model_version": address.version, "as_json": True, "client_timeout": CONTROL_TIMEOUT}
        metadata = self._ask(self._client.get_model_metadata, address.model, **asked)
        for tensor in (*metadata.get("inputs", ()), *metadata.get("outputs", ())):
            tensor["shape"] = [int(extent) for extent in tensor["shape"]]  # int64 is text in protobuf's JSON
        return metadata, self._ask(self._client.get_model_config, address.model, **asked)["config"]

    def index(self) -> list[dict[str, str]]:
        asked = self._ask(self._client.get_model_repository_index, as_json=True, client_timeout=CONTROL_TIMEOUT)
        models: list[dict[str, str]] = asked.get("models", [])
        return models

    def share(self, name: str, size: int) -> None:
        register = self._client.register_system_shared_memory
        self._ask(register, name, f"/{name}", size, client_timeout=CONTROL_TIMEOUT)

    def unshare(self, name: str) -> None:
        self._ask(self._client.unregister_system_shared_memory, name, client_timeout=CLOSE_TIMEOUT)

    def infer(self, address: Address, inputs: list[Any], outputs: list[Any], request: str) -> Any:
        return self._ask(
            self._client.infer,
            address.model,
            inputs,
            model_version=address.version,
            outputs=outputs,
            request_id=request,
            client_timeout=INFER_TIMEOUT,
        )

    def close(self) -> None:
        self._client.close()

    def _ask(self, method: Callable[..., Any], *arguments: Any, client_timeout: float, **options: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return method(*arguments, client_timeout=client_timeout, **options)
        except InferenceServerException as error:
            kind = OF_CODE.get(str(error.status()).removeprefix("StatusCode."), "failed")
            text = f"no answer within {client_timeout:g} s" if kind == "late" else str(error.message())
            raise TritonError(kind, text) from error


def _path(address: Address) -> str:
    version = f"/versions/{address.version}" if address.version else ""
    return f"/v2/models/{quote(address.model, safe='')}{version}"


def _plain(error: Exception) -> str:
    """Return what an error of urllib3 says, without the objects that it names first."""
    cause = error.__cause__ or (error.args[1] if len(error.args) > 1 and isinstance(error.args[1], Exception) else None)
    text = str(cause or error)
    return text if text.isprintable() else "what it says is not HTTP"


def _said(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


@contextmanager
def _naming_the_extra() -> Iterator[None]:
    """Say which extra brings tritonclient with both protocols; without one of them it raises an error of its own."""
    try:
        yield
    except RuntimeError as error:
        raise MissingExtra("tritonclient[http,grpc]", "triton") from error
