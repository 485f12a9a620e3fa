"""Ctrl-C at a moment that a test chooses."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Return what presses Ctrl-C once, from another thread, and waits until the main thread has felt it.

    Without that wait it might reach pytest itself, on a machine that is busy, after the test.
    """
    felt = threading.Event()

    def handle(signum: int, frame: FrameType | None) -> None:
        felt.set()
        raise KeyboardInterrupt

    def press() -> None:
        if not felt.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            assert felt.wait(60)

    before = signal.signal(signal.SIGINT, handle)
    yield press
    signal.signal(signal.SIGINT, before)
