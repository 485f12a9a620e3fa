"""HTTP and gRPC behind one interface. Every failure is a `TritonError`, whose `kind` decides whether to retry."""

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

# unavailable: no connection, a lost connection, or the server is overloaded; loading: the model is not ready yet;
# not_found: the model or the shared memory does not exist; timeout: no response in time; invalid: the request is wrong;
# failed: an error of the server or the model.
Kind = Literal["unavailable", "loading", "not_found", "timeout", "invalid", "failed"]

# Seconds: to connect, for metadata, for inference, and to release shared memory.
CONNECT_TIMEOUT, CONTROL_TIMEOUT, INFER_TIMEOUT, CLOSE_TIMEOUT = 5.0, 30.0, 300.0, 10.0
MICROSECONDS = 1_000_000  # in a second
KIND_OF_STATUS: dict[int, Kind] = {
    400: "invalid",
    404: "not_found",
    409: "invalid",
    413: "invalid",
    429: "unavailable",
    503: "unavailable",
}
KIND_OF_CODE: dict[str, Kind] = {
    "INVALID_ARGUMENT": "invalid",
    "ALREADY_EXISTS": "invalid",
    "NOT_FOUND": "not_found",
    "UNAVAILABLE": "unavailable",
    "CANCELLED": "unavailable",
    "RESOURCE_EXHAUSTED": "invalid",
    "DEADLINE_EXCEEDED": "timeout",
}


class TritonError(Exception):
    """A failed request; the message is that of the server or the network."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message.strip().removesuffix("."))
        self.kind = kind


class Protocol(ABC):
    """A connection to one server, opened on first use. Threads may share one.

    Attributes:
        module: tritonclient's module, with `InferInput` and `InferRequestedOutput`.
        max_bytes: Maximum size of the images in one request.
    """

    module: ModuleType
    max_bytes: int

    @abstractmethod
    def model(self, address: Address) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the metadata and the configuration of a model as Triton's JSON."""

    @abstractmethod
    def index(self) -> list[dict[str, str]]:
        """Return the name, state and reason of every model in the server's repository."""

    @abstractmethod
    def share(self, name: str, size: int) -> None:
        """Register the shared memory `name` with the server."""

    @abstractmethod
    def unshare(self, name: str) -> None:
        """Unregister the shared memory `name`."""

    @abstractmethod
    def infer(
        self, address: Address, inputs: list[Any], outputs: list[Any], request: str, parameters: dict[str, str]
    ) -> Any:
        """Return tritonclient's `InferResult` for the request with the id `request`.

        The server drops the request from its queue when this client no longer waits for it.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


def connect(address: Address) -> Protocol:
    """Return the protocol of `address`, without sending anything."""
    return _Http(address) if address.scheme == "http" else _Grpc(address)


class _Http(Protocol):
    """HTTP by urllib3, with request bodies by tritonclient.

    tritonclient's HTTP client is bound to the thread that created it (gevent), but threads may share an engine.
    """

    max_bytes = 63 << 20  # Triton's default limit for a request body is 64 MiB

    def __init__(self, address: Address) -> None:
        import urllib3

        with _translate_missing_protocol():
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

    def infer(
        self, address: Address, inputs: list[Any], outputs: list[Any], request: str, parameters: dict[str, str]
    ) -> Any:
        body, header = self._client.generate_request_body(
            inputs,
            outputs=outputs,
            request_id=request,
            timeout=int(INFER_TIMEOUT * MICROSECONDS),
            parameters=parameters,
        )
        headers = {"Inference-Header-Content-Length": str(header)} if header is not None else {}
        response = self._send("POST", f"{_path(address)}/infer", body, headers, INFER_TIMEOUT)
        length = response.headers.get("Inference-Header-Content-Length")
        return self._client.parse_response_body(response.data, header_length=int(length) if length else None)

    def close(self) -> None:
        self._pool.close()

    def _json(self, method: str, path: str) -> Any:
        try:
            return self._send(method, path).json()
        except ValueError as error:
            raise TritonError("invalid", f"the response to {method} {path} is not JSON") from error

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
            response = self._pool.request(method, path, body=body, headers=headers, timeout=limits)
        except self._errors.ReadTimeoutError as error:
            raise TritonError("timeout", f"no response within {timeout:g} s") from error
        except self._errors.HTTPError as error:
            raise TritonError("unavailable", _network_message(error)) from error
        if response.status != 200:
            kind = KIND_OF_STATUS.get(response.status, "failed")
            raise TritonError(kind, _server_message(response.data) or f"status {response.status}")
        return response


class _Grpc(Protocol):
    """gRPC by tritonclient."""

    max_bytes = 1 << 30  # a gRPC message has at most 2 GiB

    def __init__(self, address: Address) -> None:
        with _translate_missing_protocol():
            import tritonclient.grpc as module

        self.module = module
        # By default a channel waits up to two minutes before it reconnects, too long for a restart; and channels with
        # the same options share a connection and its waiting time.
        options = [
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._client = module.InferenceServerClient(address.netloc, channel_args=options)

    def model(self, address: Address) -> tuple[dict[str, Any], dict[str, Any]]:
        options: dict[str, Any] = {"model_version": address.version, "as_json": True, "client_timeout": CONTROL_TIMEOUT}
        metadata = self._call(self._client.get_model_metadata, address.model, **options)
        for tensor in (*metadata.get("inputs", ()), *metadata.get("outputs", ())):
            tensor["shape"] = [int(extent) for extent in tensor["shape"]]  # protobuf's JSON has int64 as text
        return metadata, self._call(self._client.get_model_config, address.model, **options)["config"]

    def index(self) -> list[dict[str, str]]:
        index = self._call(self._client.get_model_repository_index, as_json=True, client_timeout=CONTROL_TIMEOUT)
        models: list[dict[str, str]] = index.get("models", [])
        return models

    def share(self, name: str, size: int) -> None:
        register = self._client.register_system_shared_memory
        self._call(register, name, f"/{name}", size, client_timeout=CONTROL_TIMEOUT)

    def unshare(self, name: str) -> None:
        self._call(self._client.unregister_system_shared_memory, name, client_timeout=CLOSE_TIMEOUT)

    def infer(
        self, address: Address, inputs: list[Any], outputs: list[Any], request: str, parameters: dict[str, str]
    ) -> Any:
        return self._call(
            self._client.infer,
            address.model,
            inputs,
            model_version=address.version,
            outputs=outputs,
            request_id=request,
            timeout=int(INFER_TIMEOUT * MICROSECONDS),
            parameters=parameters,
            client_timeout=INFER_TIMEOUT,
        )

    def close(self) -> None:
        self._client.close()

    def _call(self, method: Callable[..., Any], *arguments: Any, client_timeout: float, **options: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return method(*arguments, client_timeout=client_timeout, **options)
        except InferenceServerException as error:
            kind = KIND_OF_CODE.get(str(error.status()).removeprefix("StatusCode."), "failed")
            text = f"no response within {client_timeout:g} s" if kind == "timeout" else str(error.message())
            raise TritonError(kind, text) from error


def _path(address: Address) -> str:
    version = f"/versions/{address.version}" if address.version else ""
    return f"/v2/models/{quote(address.model, safe='')}{version}"


def _network_message(error: Exception) -> str:
    """Return the message of an urllib3 error without the object names in it."""
    cause = error.__cause__ or (error.args[1] if len(error.args) > 1 and isinstance(error.args[1], Exception) else None)
    text = str(cause or error)
    return text if text.isprintable() else "the response is not HTTP"


def _server_message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


@contextmanager
def _translate_missing_protocol() -> Iterator[None]:
    """Raise `MissingExtra` if tritonclient is installed without a protocol: it raises RuntimeError in that case."""
    try:
        yield
    except RuntimeError as error:
        raise MissingExtra("tritonclient[http,grpc]", "triton") from error
