"""Ctrl-C, SIGTERM and SIGHUP end a command within two seconds, whatever it is doing, and without a traceback.

Python's handlers run between two of its own instructions. They unwind the stack, which removes temporary files. While
the main thread is inside a library (a TensorRT build, say) that takes as long as the library does, and an exception
that a handler raises inside a callback is lost. So a second thread hears of each signal, and ends the process if it is
still there after a while.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from msal_deploy.files.temporary import remove_own

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

GRACE = 1.5  # seconds to unwind the stack
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = "\nInterrupted; no partial files are left."


def exit_code(number: int) -> int:
    """Return the exit code of a command that a signal ended, as in shells.

    >>> exit_code(signal.SIGINT), exit_code(signal.SIGTERM)
    (130, 143)
    """
    return 128 + number


def honour_signals() -> None:
    """Install the handlers; call it once, in the main thread."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _unwind)
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget)
    threading.Thread(target=_end_late, args=(read,), name="signals", daemon=True).start()
    sys.unraisablehook = _report


def default_signals() -> None:
    """Let signals end the process at once: it has nothing left to lose, or nothing yet."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(exit_code(number))


def _forget() -> None:
    """In a child process: its signals are not this process's, and Ctrl-C, which reaches both, is for the parent."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_late(read: int) -> NoReturn:
    number = 0
    while number not in ENDING:
        number = os.read(read, 1)[0]
    try:
        time.sleep(GRACE)
        remove_own()
        os.write(2, INTERRUPTED.encode() + b"\n")
    finally:  # also if nobody reads stderr any more
        os._exit(exit_code(number))


def _report(lost: "UnraisableHookArgs") -> None:
    """Say nothing of an exception of a signal handler that was lost in a callback; `_end_late` ends the process."""
    if not isinstance(lost.exc_value, (KeyboardInterrupt, SystemExit)):
        sys.__unraisablehook__(lost)
