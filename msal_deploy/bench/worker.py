"""An engine in a process of its own, which times it when it is told to.

The process is a fresh interpreter, not a fork: the threads of a runtime do not survive a fork, and a fork would inherit
memory. It reads commands from its stdin and writes replies to its stdout, both as pickles; images are sent once, before
anything is timed. It ends when its stdin does, whatever it is doing, so that it never outlives the process that started
it, however that one ends. If it ends itself, the next reply raises an error that says how.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any, BinaryIO, Self

from msal_deploy.bench.results import Setting
from msal_deploy.bench.session import Session, own_peak_memory_mb
from msal_deploy.bundle import Bundle
from msal_deploy.errors import DeployError, InternalFault, MissingRequirement
from msal_deploy.memory import REMEDY, is_out_of_memory, not_enough_memory
from msal_deploy.runtimes.messages import sentence
from msal_deploy.spec import UInt8Images

START = "from msal_deploy.bench.worker import main; main()"


class WorkerSession:
    """An engine in a process of its own; the same methods as `Session`.

    ::

        with WorkerSession(bundle, Setting(engine="openvino:int8", batch=1), image_sets((512, 512), 1)) as session:
            session.open()
            latencies = session.time_window(seconds=1, min_runs=3)

    Each method raises what the engine raised there, or if the process ended:

    Raises:
        MissingRequirement: It was killed, as the kernel does when memory runs out.
        InternalFault: It crashed.
    """

    def __init__(self, bundle: Bundle, setting: Setting, sets: Sequence[UInt8Images]) -> None:
        self._engine = setting.engine
        self._start = bundle.path, setting, tuple(sets)
        # -P and its own group: no module of the working directory, and Ctrl-C is for this process alone.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            process_group=0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._end()  # without waiting: after Ctrl-C there is a second for what was measured
            return
        if self._process.returncode is None:
            with suppress(DeployError):  # everything was measured
                self._ask("close")
        self._kill()

    @property
    def pid(self) -> int:
        """Of the engine's process."""
        return self._process.pid

    def open(self) -> None:
        """Start to open the engine; `load_s` waits for it, so that several can open at the same time."""
        self._tell(*self._start)
        self._tell("open")

    def load_s(self) -> float:
        """Return the seconds from the start of opening to the end of the first call."""
        self._reply()
        return float(self._ask("load_s"))

    def warm_up(self, seconds: float) -> None:
        """Call the engine until its latency has settled, or `seconds` have passed."""
        self._ask("warm_up", seconds)

    def time_window(self, seconds: float, min_runs: int) -> tuple[float, ...]:
        """Return latencies in ms of at least `min_runs` calls that take at least `seconds` together."""
        latencies: tuple[float, ...] = self._ask("time_window", seconds, min_runs)
        return latencies

    def peak_memory_mb(self) -> float | None:
        """Return the largest memory of the engine's process in MB; None on systems that do not tell."""
        peak: float | None = self._ask("peak_memory_mb")
        return peak

    def _ask(self, *command: Any) -> Any:
        self._tell(*command)
        return self._reply()

    def _tell(self, *message: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended, which `_reply` reports
            pickle.dump(message, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        try:
            reply = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise self._death() from None
        if isinstance(reply, DeployError):
            raise reply
        return reply

    def _death(self) -> DeployError:
        """Return how the process ended; one that only closed its stdout is ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._kill()
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return MissingRequirement(
                f"The process of {self._engine} was killed, most likely because memory ran out", REMEDY
            )
        how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        return InternalFault(f"The process of {self._engine} {how}", "what it wrote to stderr says more")

    def _end(self) -> None:
        """End the process, and those that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _kill(self) -> None:
        """End the process, and wait for it."""
        self._end()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()


def main() -> None:
    """Serve one engine: the entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    commands, replies = _take_pipes()
    received: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(commands, received), daemon=True).start()
    path, setting, sets = received.get()
    session = Session(Bundle(path), setting, sets)
    while True:
        name, *arguments = received.get()
        pickle.dump(_answer(session, name, arguments), replies, pickle.HIGHEST_PROTOCOL)
        replies.flush()
        if name == "close":
            os._exit(0)  # without the teardown of the runtimes, in which some crash


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout for the protocol: what libraries print goes to stderr, and they find nothing to read."""
    commands, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return commands, replies


def _receive(commands: BinaryIO, received: "SimpleQueue[Any]") -> None:
    """Hand on commands until the process that sends them has ended; then end this one, whatever it is doing."""
    try:
        while True:
            received.put(pickle.load(commands))
    finally:
        os._exit(0)


def _answer(session: Session, name: str, arguments: list[Any]) -> Any:
    """Return what a command returns, or the error that it raised."""
    try:
        if name == "peak_memory_mb":
            return own_peak_memory_mb()
        if name == "close":
            return session.__exit__(None, None, None)
        return getattr(session, name)(*arguments)
    except DeployError as error:
        return error
    except Exception as error:  # whatever it is, the other engines go on
        if is_out_of_memory(error):
            return not_enough_memory(error)
        return InternalFault(f"Unexpected {type(error).__name__} ({sentence(error)})", "please report it")
