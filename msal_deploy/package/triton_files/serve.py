"""Serve a model repository with Triton on the CPU, without Docker: Linux, x86-64, Python 3.9 to 3.13.

    pip install nvidia-pytriton openvino
    python serve.py models

Triton comes from the nvidia-pytriton wheel, which has only the Python backend. It listens only on this machine unless
you set --host. Ctrl-C or SIGTERM stops it after the running requests are answered. Options not listed here are passed
to Triton.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

PARENT_DEATH_SIGNAL = 1  # of prctl(2)


def main() -> int:
    """Serve until stopped, and return Triton's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="?", default="models", help="the model repository")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--exit-timeout", type=int, default=30, help="seconds to answer running requests")
    given, others = parser.parse_known_args()
    triton, fault = find_triton()
    if fault or not Path(given.models).is_dir():
        print(f"Error: {fault or f'{given.models} is not a folder; pass the model repository'}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="triton-") as folder:
        backends = gather_backend(triton, Path(folder))
        shared = f"{Path(folder).name}-"
        try:
            return run([str(triton / "bin" / "tritonserver"), *options(given, backends, shared), *others], triton)
        finally:
            clean(Path(given.models), shared)


def find_triton() -> tuple[Path, str]:
    """Return the folder of Triton's files and what is missing, which is empty if everything is there."""
    package = find_spec("pytriton")
    if package is None or package.origin is None:
        return Path(), "nvidia-pytriton is not installed; run: pip install nvidia-pytriton openvino"
    folder = Path(package.origin).parent / "tritonserver"
    if not stub(folder).is_file():
        return folder, f"nvidia-pytriton does not support Python {sysconfig.get_python_version()}; use 3.9 to 3.13"
    if find_spec("openvino") is None:
        return folder, "openvino is not installed; run: pip install openvino"
    return folder, ""


def stub(triton: Path) -> Path:
    """Return the program that runs a model.py in this Python version."""
    return triton / "python_backend_stubs" / sysconfig.get_python_version() / "triton_python_backend_stub"


def gather_backend(triton: Path, folder: Path) -> Path:
    """Copy the Python backend and its stub into one folder, as Triton expects, and return the folder of backends."""
    shutil.copytree(triton / "backends" / "python", folder / "backends" / "python")
    shutil.copy(stub(triton), folder / "backends" / "python")
    return folder / "backends"


def options(given: argparse.Namespace, backends: Path, shared: str) -> list[str]:
    """Return Triton's options; `shared` is the name prefix of the memory it shares with its Python processes."""
    return [
        f"--model-repository={given.models}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={shared}",
        "--disable-auto-complete-config",
        f"--http-address={given.host}",
        f"--http-port={given.http_port}",
        f"--grpc-address={given.host}",
        f"--grpc-port={given.grpc_port}",
        "--allow-metrics=false",
        f"--exit-timeout-secs={given.exit_timeout}",
    ]


def run(command: list[str], triton: Path) -> int:
    """Run Triton with this program's Python, and forward signals to it."""
    libraries = [sysconfig.get_config_var("LIBDIR"), str(triton.parent.parent / "nvidia_pytriton.libs")]
    environment = dict(os.environ)
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, [*libraries, environment.get("LD_LIBRARY_PATH")]))
    # The stub uses the first python3 on the PATH and its packages.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    process = subprocess.Popen(command, env=environment, preexec_fn=_end_with_parent, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    try:
        return process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # Python processes outlive a killed Triton


def clean(models: Path, shared: str) -> None:
    """Remove Python's caches in the repository and the shared memory of a killed Triton."""
    for cache in models.glob("*/*/__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
    for left in Path("/dev/shm").glob(f"{shared}*"):
        left.unlink(missing_ok=True)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
