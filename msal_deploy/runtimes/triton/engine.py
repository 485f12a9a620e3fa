"""Triton: a model on a live server, over HTTP or gRPC, as an engine.

===========  ================================================================
`address`    what follows ``triton:`` in an engine's id
`protocols`  HTTP and gRPC behind one face
`session`    a connection whose model has been checked, and shared memory
===========  ================================================================

A request is a question without consequences, so one that was lost is asked again: a server that is restarted in the
middle costs time and nothing else. Every answer is kept once, and an answer to another request is refused.
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
FIRST_PAUSE, MAX_PAUSE = 0.1, 2.0  # seconds between two attempts; each pause is twice the one before
FAILURES = 3  # of the server on one request, after which it is told; a lost connection is no failure


class TritonEngine(Engine):
    """Asks a model on a Triton server; see `Address` for the ids.

    A batch larger than the model's `max_batch_size` is asked for in several requests. Threads and streams are the
    server's own: they stand in the model's config.pbtxt.
    """

    runtime = "triton"

    def __init__(self, bundle: Bundle, precision: str, threads: int | None = None, streams: int = 1) -> None:
        self._address = parse_address(precision, bundle.manifest.recipe.network.model)
        self._session: Session | None = None
        super().__init__(bundle, precision, threads, streams)

    def _open(self) -> None:
        patience = Patience(self._address)
        while self._session is None:
            try:
                self._session = Session(self._address, self.bundle)
            except TritonError as error:
                if error.kind == "gone":
                    where = f"No Triton answers at {self._address} ({error})"
                    raise MissingRequirement(f"{where}; start it, or correct the address") from error
                patience.spend(error)

    def _infer(self, images: UInt8Images) -> Float32Maps:
        number, height, width, _ = images.shape
        probability = np.empty((number, 1, height, width), np.float32)
        done = 0
        while done < number:
            answer = self._answer(images[done:])
            probability[done : done + len(answer)] = answer
            done += len(answer)
        return probability

    def _close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            session.close()

    def _answer(self, images: UInt8Images) -> Float32Maps:
        """Return the answer to the first images, as many as a request may have; ask until there is one."""
        patience = Patience(self._address)
        while True:
            try:
                if self._session is None:
                    self._session = Session(self._address, self.bundle)
                return self._session.infer(images[: self._session.most(images[0].nbytes)])
            except TritonError as error:
                self._close()
                patience.spend(error)


class Patience:
    """How often and how long one request is asked again."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._pause = FIRST_PAUSE
        self._failures = 0
        self._end: float | None = None  # counts from the first failure: computing may take long

    def spend(self, error: TritonError) -> None:
        """Wait before the next attempt.

        Raises:
            BadInput: another attempt would be refused too.
            MissingRequirement: there were attempts enough, or it took too long.
        """
        self._failures += error.kind == "failed"
        if error.kind == "invalid":
            raise BadInput(f"Triton at {self._address} refuses the request: {error}") from error
        if error.kind == "late" or self._failures >= FAILURES:
            raise MissingRequirement(f"Triton at {self._address} failed: {error}; see its log") from error
        now = time.monotonic()
        if self._end is None:
            LOG.warning("Triton at %s: %s; asking again for %g s", self._address, error, self._address.patience)
            self._end = now + self._address.patience
        if now + self._pause > self._end:
            raise MissingRequirement(
                f"Triton at {self._address} was asked again for {self._address.patience:g} s without an answer "
                f"({error}); start it again, and see its log"
            ) from error
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, MAX_PAUSE)
