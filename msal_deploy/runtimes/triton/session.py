"""Session: a connection to a server whose model has been checked, and its shared memory.

A session ends with its first failure. A restarted server may have lost its shared memory, and a slow one may still be
computing an old request, so the next session starts anew with other memory.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, MissingRequirement, suggest
from msal_deploy.runtimes.triton.address import Address
from msal_deploy.runtimes.triton.protocols import TritonError, connect
from msal_deploy.spec import Axis, Float32Maps, TensorSpec, UInt8Images

DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
SHARED_MEMORY = Path("/dev/shm")
REMEDY = "use a model that msal-deploy packaged"
ACCEPTED = "graph_sha256"  # the request parameter with the SHA-256 of the graphs that the client accepts
MAX_SHARED_BYTES = 1 << 30  # bytes of images in one request
UNSHARE_TIMEOUT, UNSHARE_PAUSE = 1.0, 0.005  # seconds


class Session:
    """One connection, for one thread at a time.

    Raises:
        BadInput: The server does not have the model, or it is not the bundle's.
        MissingRequirement: The server could not load the model.
        TritonError: The server does not respond, or is loading the model.
    """

    def __init__(self, address: Address, bundle: Bundle) -> None:
        self._address = address
        self._spec = bundle.spec
        self._protocol = connect(address)
        self._memory: SharedMemory | None = None
        self._shares = address.shared_memory and address.is_local
        self._token, self._requests = secrets.token_hex(4), 0
        graphs = sorted(one.sha256 for name, one in bundle.manifest.artifacts.items() if name.endswith(".onnx"))
        self._accepted, self._version = " ".join(graphs), ""
        try:
            self._max_batch = self._check(bundle)
        except BaseException:
            self.close()
            raise

    def max_images(self, image_bytes: int) -> int:
        """Return how many images of `image_bytes` fit into one request."""
        room = MAX_SHARED_BYTES if self._shares else self._protocol.max_bytes
        fitting = max(1, room // image_bytes)
        return min(fitting, self._max_batch) if self._max_batch else fitting

    def infer(self, images: UInt8Images) -> Float32Maps:
        """Return the probabilities of one request, as a new array.

        Raises:
            TritonError: There is no response, or it does not belong to this request.
        """
        batch, height, width, _ = images.shape
        shape = (batch, 1, height, width)
        self._reserve(images.nbytes, 4 * batch * height * width)
        self._requests += 1
        request = f"{self._token}-{self._requests}"
        inputs, outputs = self._tensors(images, shape)
        # A version that was deployed after the check refuses the request if its graph is another bundle's.
        result = self._protocol.infer(self._address, inputs, outputs, request, {ACCEPTED: self._accepted})
        return self._take(result, request, shape, images.nbytes)

    def close(self) -> None:
        """Close the connection and release the memory."""
        self._release_memory()
        self._protocol.close()

    # ---- the model on the server

    def _check(self, bundle: Bundle) -> int:
        """Check that the server's model is the bundle's; return its maximum batch, 0 for any."""
        try:
            metadata, config = self._protocol.model(self._address)
        except TritonError as error:
            raise (self._explain(error) if error.kind in ("not_found", "invalid") else error) from error
        for side, tensor in (("inputs", self._spec.image), ("outputs", self._spec.probability)):
            self._check_tensor(tensor, metadata.get(side, []))
        self._version = self._address.version or max(metadata.get("versions", ()), key=int, default="")
        served = _served_graph(config, self._version)
        if served and served not in self._accepted.split():
            raise BadInput(
                f"{self._model} serves a graph that is not in {bundle.path} (SHA-256 {served[:12]}…)",
                "package this bundle for Triton again, or use the bundle that is served",
            )
        return int(config.get("max_batch_size", 0))

    @property
    def _model(self) -> str:
        version = f" version {self._address.version}" if self._address.version else ""
        return f"{self._address.model!r}{version} at {self._address}"

    def _explain(self, error: TritonError) -> Exception:
        """Return why the model cannot be used; a `TritonError` if it is being loaded."""
        try:
            models = self._protocol.index()
        except TritonError as other:
            return BadInput(f"{self._address} is not a Triton server ({other})", "correct the address")
        same = [model for model in models if model["name"] == self._address.model]
        if not same:
            names = {model["name"] for model in models}
            remedy = suggest(self._address.model, names) if names else "add a model to its repository"
            return BadInput(f"{self._address.model!r} is not a model of Triton at {self._address}", remedy)
        if any(model.get("state") == "LOADING" for model in same):
            return TritonError("loading", "the model is being loaded")
        reasons = {model["reason"] for model in same if model.get("reason")}
        if any(model.get("state") == "READY" for model in same) or not reasons:
            return BadInput(f"Triton does not serve {self._model} ({error})", "correct the address")
        return MissingRequirement(f"Triton could not load {self._model} ({', '.join(sorted(reasons))})", "see its log")

    def _check_tensor(self, tensor: TensorSpec, served: list[dict[str, Any]]) -> None:
        expected = (DATATYPES[tensor.dtype], [-1 if isinstance(axis, Axis) else axis for axis in tensor.axes])
        actual = next((one for one in served if one["name"] == tensor.name), None)
        if actual is None:
            names = ", ".join(one["name"] for one in served)
            raise BadInput(f"Expected a tensor named {tensor.name!r} in {self._model}, got {names}", REMEDY)
        if actual["datatype"] != expected[0] or not _fits(actual["shape"], expected[1]):
            raise BadInput(
                f"Expected {expected[0]} {expected[1]} for {tensor.name!r} of {self._model}, got {actual['datatype']} "
                f"{actual['shape']}",
                REMEDY,
            )

    # ---- requests and responses

    def _tensors(self, images: UInt8Images, shape: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
        module, image = self._protocol.module, self._spec.image
        sent = module.InferInput(image.name, list(images.shape), DATATYPES[image.dtype])
        requested = module.InferRequestedOutput(self._spec.probability.name)
        if self._memory is None:
            sent.set_data_from_numpy(images)
        else:
            np.copyto(_view(self._memory, np.uint8, 0, images.shape), images)
            sent.set_shared_memory(self._memory.name, images.nbytes)
            requested.set_shared_memory(self._memory.name, 4 * int(np.prod(shape)), _aligned(images.nbytes))
        return [sent], [requested]

    def _take(self, result: Any, request: str, shape: tuple[int, ...], image_bytes: int) -> Float32Maps:
        """Check that a result belongs to the request, and return its probabilities."""
        response, output = result.get_response(), result.get_output(self._spec.probability.name)
        answered, version = (
            (response.get("id"), response.get("model_version"))
            if isinstance(response, dict)
            else (response.id, response.model_version)
        )
        if version and version != self._version:
            raise TritonError("loading", f"version {version} has replaced version {self._version}, which was checked")
        if answered != request or output is None:
            raise TritonError("failed", f"expected a response to request {request!r}, got {answered!r}")
        datatype, actual = _described(output)
        if (datatype, actual) != (DATATYPES[self._spec.probability.dtype], shape):
            raise TritonError("failed", f"expected a response of shape {shape}, got {datatype} {actual}")
        if self._memory is None:
            return np.array(result.as_numpy(self._spec.probability.name), np.float32)
        probability: Float32Maps = _view(self._memory, np.float32, _aligned(image_bytes), shape).copy()
        return probability

    def _reserve(self, image_bytes: int, probability_bytes: int) -> None:
        """Share at least this much memory with the server, if possible."""
        size = _aligned(image_bytes) + probability_bytes
        if not self._shares or (self._memory and self._memory.size >= size):
            return
        self._release_memory()
        self._memory = _allocate(size)
        if self._memory is None:
            self._shares = False
            return
        try:
            self._protocol.share(self._memory.name, self._memory.size)
        except TritonError as error:
            # A forwarded port, or a container without shared memory, is also at localhost.
            self._release_memory()
            self._shares = False
            if error.kind in ("unavailable", "timeout"):
                raise

    def _release_memory(self) -> None:
        if self._memory is not None:
            self._unshare(self._memory.name)
            self._memory.close()
            self._memory.unlink()
            self._memory = None

    def _unshare(self, name: str) -> None:
        """Unregister the memory. The server refuses while a request uses it, until shortly after the response."""
        end = time.monotonic() + UNSHARE_TIMEOUT
        while True:
            try:
                self._protocol.unshare(name)
            except TritonError as error:
                if error.kind == "failed" and time.monotonic() < end:
                    time.sleep(UNSHARE_PAUSE)
                    continue
            return


def _allocate(size: int) -> SharedMemory | None:
    """Return reserved shared memory, or None if there is not enough: containers often have little.

    Without the reservation, the kernel would kill the process on the first write to a page that is not available.
    """
    memory = SharedMemory(f"msal-deploy-{os.getpid()}-{secrets.token_hex(8)}", create=True, size=size)
    try:
        with (SHARED_MEMORY / memory.name).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, memory.size)
    except OSError:
        memory.close()
        memory.unlink()
        return None
    return memory


def _served_graph(config: dict[str, Any], version: str) -> str | None:
    """Return the SHA-256 of a version's graph, if config.pbtxt tells it."""
    text = config.get("parameters", {}).get(f"version_{version}", {}).get("string_value", "{}")
    try:
        return str(json.loads(text)["graph_sha256"])
    except (ValueError, KeyError, TypeError):
        return None


def _fits(served: list[int], expected: list[int]) -> bool:
    """Return whether the shapes are compatible; a server may fix an axis that is dynamic in the specification."""
    pairs = zip(served, expected, strict=True) if len(served) == len(expected) else [(0, 1)]
    return all(one == other or other == -1 for one, other in pairs)


def _described(output: Any) -> tuple[str, tuple[int, ...]]:
    if isinstance(output, dict):
        return output["datatype"], tuple(output["shape"])
    return output.datatype, tuple(output.shape)


def _aligned(size: int) -> int:
    """Return `size` rounded up to a cache line: the offset of the probabilities after the images."""
    return -(-size // 64) * 64


def _view(memory: SharedMemory, dtype: Any, offset: int, shape: tuple[int, ...]) -> Any:
    return np.ndarray(shape, dtype, memory.buf, offset)
