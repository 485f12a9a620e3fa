"""`TritonEngine`: a model on a running Triton server as an engine.

Inference does not change the server, so a failed request is retried: a server that restarts during the work costs only
time. Each result is returned once, and a response to another request is rejected.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.runtimes.base import Engine
from msal_deploy.runtimes.triton.address import Address, parse_address
from msal_deploy.runtimes.triton.protocols import TritonError
from msal_deploy.runtimes.triton.session import Session
from msal_deploy.spec import Float32Maps, UInt8Images

LOG = logging.getLogger(__name__)
FIRST_PAUSE, MAX_PAUSE = 0.1, 2.0  # seconds between attempts; each pause is twice the previous one
MAX_FAILURES = 3  # errors of the server for one request; a lost connection does not count


class TritonEngine(Engine):
    """Sends images to a model on a Triton server::

        with open_engine(Bundle("bundle"), "triton:grpc://localhost:8001/msal-net") as engine:
            probability = engine(images)

    `Address` documents the ids. A batch larger than the model's `max_batch_size` is sent in several requests. Threads
    and streams are set on the server, in the model's config.pbtxt.
    """

    runtime = "triton"

    def __init__(self, bundle: Bundle, precision: str, threads: int | None = None, streams: int = 1) -> None:
        self._address = parse_address(precision, bundle.manifest.recipe.network.model)
        self._session: Session | None = None
        super().__init__(bundle, precision, threads, streams)

    def _open(self) -> None:
        retries = Retries(self._address)
        while self._session is None:
            try:
                self._session = Session(self._address, self.bundle)
            except TritonError as error:
                if error.kind == "unavailable":
                    cause = f"Triton at {self._address} is not available ({error})"
                    raise MissingRequirement(cause, "start it, or correct the address") from error
                retries.wait(error)

    def _infer(self, images: UInt8Images) -> Float32Maps:
        batch, height, width, _ = images.shape
        probability = np.empty((batch, 1, height, width), np.float32)
        done = 0
        while done < batch:
            result = self._request(images[done:])
            probability[done : done + len(result)] = result
            done += len(result)
        return probability

    def _close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            session.close()

    def _request(self, images: UInt8Images) -> Float32Maps:
        """Return the probabilities of the first images, as many as fit into one request; retry failures."""
        retries = Retries(self._address)
        while True:
            try:
                if self._session is None:
                    self._session = Session(self._address, self.bundle)
                return self._session.infer(images[: self._session.max_images(images[0].nbytes)])
            except TritonError as error:
                self._close()
                retries.wait(error)


class Retries:
    """Limits how often and how long one request is retried."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._pause = FIRST_PAUSE
        self._failures = 0
        self._end: float | None = None  # set at the first failure: computing may take long

    def wait(self, error: TritonError) -> None:
        """Wait before the next attempt.

        Raises:
            BadInput: The server would reject another attempt, too.
            MissingRequirement: The limit of attempts or time is reached.
        """
        self._failures += error.kind == "failed"
        if error.kind == "invalid":
            raise BadInput(f"Triton at {self._address} rejects the request ({error})", "see its log") from error
        if error.kind == "timeout" or self._failures >= MAX_FAILURES:
            raise MissingRequirement(f"Triton at {self._address} failed ({error})", "see its log") from error
        now = time.monotonic()
        if self._end is None:
            LOG.warning("Triton at %s: %s; retrying for %g s", self._address, error, self._address.retry_seconds)
            self._end = now + self._address.retry_seconds
        if now + self._pause > self._end:
            raise MissingRequirement(
                f"Triton at {self._address} did not respond within {self._address.retry_seconds:g} s of retries "
                f"({error})",
                "start it again, and see its log",
            ) from error
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, MAX_PAUSE)
