"""Serve a package of the bundle with a real Triton on loopback, as a context manager."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.package import PackageOptions, write_package
from msal_deploy.runtimes import open_engine

START_TIMEOUT = 180.0  # seconds for the server to become ready
POLL_INTERVAL = 0.3  # seconds


class Ports:
    """Three free ports for a server, and the ids of the engines that connect to them."""

    def __init__(self) -> None:
        with ExitStack() as held:
            self.http, self.grpc, self.metrics = (_free_port(held) for _ in range(3))

    def engine(self, protocol: str, *, shared_memory: bool = True) -> str:
        """Return the id of the engine that connects to the server by ``http`` or ``grpc``."""
        port = getattr(self, protocol)
        return f"triton:{protocol}://localhost:{port}{'' if shared_memory else '?shared-memory=off'}"


def _free_port(held: ExitStack) -> int:
    probe = held.enter_context(socket.socket())
    probe.bind(("127.0.0.1", 0))
    port: int = probe.getsockname()[1]
    return port


@contextmanager
def served(bundle: Bundle, precision: str, python: Path) -> Iterator[Ports]:
    """Package `bundle`, serve it with Triton, and yield the server's ports. The server ends with the block.

    Args:
        bundle: The bundle to serve.
        precision: Precision of the graph, such as ``int8``.
        python: The Python interpreter with nvidia-pytriton, which contains Triton.

    Raises:
        MissingRequirement: Triton is not installed or does not start.
    """
    if not python.is_file():
        raise MissingRequirement(f"Triton is not installed ({python} not found)", "run: make .venv-triton")
    with TemporaryDirectory(prefix="msal-deploy-") as folder:
        package = Path(folder) / "package"
        write_package(bundle, "triton", package, PackageOptions(precision, backend="openvino"))
        ports = Ports()
        numbers = {"http": ports.http, "grpc": ports.grpc, "metrics": ports.metrics}
        options = [f"--{name}-port={number}" for name, number in numbers.items()] + ["--exit-timeout=5"]
        with (Path(folder) / "log").open("w+b") as log:
            command = [python.absolute(), "serve.py", "models", *options]
            process = subprocess.Popen(command, cwd=package, stdout=log, stderr=log)
            try:
                _wait(bundle, ports, process, Path(log.name))
                yield ports
            finally:
                process.terminate()
                process.wait()


def _wait(bundle: Bundle, ports: Ports, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT
    while True:
        try:
            with open_engine(bundle, ports.engine("grpc")), urlopen(f"http://localhost:{ports.metrics}/metrics"):
                return  # the metrics come last
        except (MissingRequirement, BadInput, OSError) as error:
            if process.poll() is not None or time.monotonic() > end:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise MissingRequirement(
                    f"Triton did not start ({error}); its last message: {''.join(last)}"
                ) from error
        time.sleep(POLL_INTERVAL)
