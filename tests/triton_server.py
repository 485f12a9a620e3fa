"""A real Triton on loopback: the serve.py of a package, run by the Python of .venv-triton."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from random import SystemRandom
from urllib.request import urlopen

import pytest
import tritonclient.http

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-triton" / "bin" / "python"
SHARED_MEMORY = Path("/dev/shm")
PATIENCE = 180.0  # seconds for a server to become ready: the machine may be busy


def triton_python() -> Path:
    """Return the Python that has Triton; a missing one fails the test, because a skipped one proves nothing."""
    if not (PYTHON.parent.parent / ".ready").is_file():
        pytest.fail("There is no Triton to test with; run: make .venv-triton", pytrace=False)
    return PYTHON


def free_port() -> int:
    """Return a port below those that the system hands out by itself, so that nobody takes it during a restart."""
    while True:
        port = SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Server:
    """A package being served. `crash` ends Triton as the kernel would, `start` brings it back at the same ports.

    Attributes:
        package: the folder that ``package triton`` wrote.
        http, grpc: addresses, such as ``http://localhost:20123``.
        metrics: address of the metrics.
        memory: how the names begin of what its Tritons share with their Python processes.
    """

    def __init__(self, package: Path, log: Path, *options: str) -> None:
        self.package = package
        self._log = log
        self._options = options
        self._ports = free_port(), free_port(), free_port()
        self.http, self.grpc = f"http://localhost:{self._ports[0]}", f"grpc://localhost:{self._ports[1]}"
        self.metrics = f"http://localhost:{self._ports[2]}/metrics"
        self._process: subprocess.Popen[bytes] | None = None
        self.memory: set[str] = set()

    @property
    def command(self) -> list[str]:
        http, grpc, metrics = map(str, self._ports)
        ports = ("--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics, "--exit-timeout", "5")
        return [str(triton_python()), "serve.py", "models", *ports, *self._options]

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self.command, cwd=self.package, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                pytest.fail(f"Triton did not become ready:\n{self.log[-4000:]}", pytrace=False)
            time.sleep(0.1)
        (prefix,) = re.findall(r"shm-region-prefix-name=([^\0]+)", Path(f"/proc/{self.triton}/cmdline").read_text())
        self.memory.add(prefix)

    def is_ready(self) -> bool:
        """Return whether it serves; the metrics come last."""
        with tritonclient.http.InferenceServerClient(self.http.removeprefix("http://")) as client:
            try:
                return bool(client.is_server_ready()) and urlopen(self.metrics).status == HTTPStatus.OK
            except OSError:
                return False

    def stop(self) -> None:
        """End serve.py, which ends Triton, and wait for both."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        self._wait()

    def crash(self) -> None:
        """Kill Triton itself; serve.py ends with it."""
        self.signal(signal.SIGKILL)
        self._wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to Triton itself."""
        os.kill(self.triton, number)

    @property
    def triton(self) -> int:
        """The process id of Triton, the child of serve.py."""
        assert self._process is not None
        (pid,) = children(self._process.pid)
        return pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _wait(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()  # Triton goes with it
                self._process.wait()
            self._process = None


def children(pid: int) -> list[int]:
    """Return the process ids of what a process has started, by whichever thread."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


@contextmanager
def serving(package: Path, log: Path, *options: str) -> Iterator[Server]:
    """Serve a package for as long as the block lasts, and see that nothing stays in shared memory."""
    server = Server(package, log, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
    assert server.memory
    assert not [path for prefix in server.memory for path in SHARED_MEMORY.glob(f"{prefix}*")]
    assert own_memory() == set()


def own_memory() -> set[str]:
    """Return the names of the memory that this process shares with servers."""
    return {path.name for path in SHARED_MEMORY.glob(f"msal-deploy-{os.getpid()}-*")}
