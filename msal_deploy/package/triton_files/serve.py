"""Check a model repository and serve it with Triton.

    python serve.py models            uses the Triton of this machine or container, or else of the wheel nvidia-pytriton
    python serve.py --check models    checks the files and serves nothing; needs no Triton

The wheel (pip install nvidia-pytriton openvino; Linux, x86-64, Python 3.9 to 3.13) has only the Python backend, which
serves models on the CPU.

The files of each version are checked against model.json in its folder, because Triton loads whatever it finds. A
damaged version is left out, so that an intact older one is served. Triton listens only on this machine unless you set
--host. Ctrl-C or SIGTERM stops it after the running requests are answered. Options not listed here are passed to
Triton.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
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
from typing import NamedTuple

PARENT_DEATH_SIGNAL = 1  # of prctl(2)


def main() -> int:
    """Serve until stopped, and return Triton's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="?", default="models", help="the model repository")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument("--exit-timeout", type=int, default=30, help="seconds to answer running requests")
    parser.add_argument("--check", action="store_true", help="check the files of all versions, and serve nothing")
    given, others = parser.parse_known_args()
    models = Path(given.models)
    triton, fault = (Triton("tritonserver"), "") if given.check else find_triton()
    if fault or not models.is_dir():
        print(f"Error: {fault or f'{models} is not a folder; pass the model repository'}", file=sys.stderr)
        return 2
    damaged = find_damaged(models)
    for version, cause in damaged.items():
        print(f"Error: {version} is damaged ({cause}); package it again", file=sys.stderr)
    if given.check:
        return 1 if damaged else 0
    if damaged:
        print("Damaged versions are left out, and so is whatever is added before the next start", file=sys.stderr)
    return serve(given, others, triton, damaged)


def serve(given: argparse.Namespace, others: list[str], triton: Triton, damaged: dict[Path, str]) -> int:
    """Serve all but the damaged versions until stopped, and return Triton's exit code."""
    with tempfile.TemporaryDirectory(prefix="triton-") as folder:
        models = leave_out(damaged, Path(given.models), Path(folder) / "models")
        shared = f"{Path(folder).name}-"
        words = [triton.program, *options(given, models, shared), *triton.gather_backend(Path(folder)), *others]
        try:
            return run(words, triton.environment())
        finally:
            clean(Path(given.models), shared)


def find_damaged(models: Path) -> dict[Path, str]:
    """Return each version folder whose files differ from its model.json, and how; without that file, it passes."""
    faults = {about.parent: fault_of(about) for about in sorted(models.glob("*/[0-9]*/model.json"))}
    return {version: fault for version, fault in faults.items() if fault}


def fault_of(about: Path) -> str:
    """Return how the files of a version differ from its model.json; empty if they do not."""
    try:
        for name, digest in json.loads(about.read_text(encoding="utf-8"))["files"].items():
            if hashlib.sha256((about.parent / name).read_bytes()).hexdigest() != digest:
                return f"the SHA-256 of {name} differs"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return str(error)
    return ""


def leave_out(damaged: dict[Path, str], models: Path, folder: Path) -> Path:
    """Return a repository without the damaged versions: `models` itself, or `folder` with links to the rest of it.

    Triton loads only the latest version, or none: it would not fall back to an older one.
    """
    if not damaged:
        return models
    folder.mkdir()
    for model in models.resolve().iterdir():
        if not any(version.parent.name == model.name for version in damaged):
            (folder / model.name).symlink_to(model)
            continue
        (folder / model.name).mkdir()
        for path in model.iterdir():
            if models / model.name / path.name not in damaged:
                (folder / model.name / path.name).symlink_to(path)
    return folder


class Triton(NamedTuple):
    """A Triton: its program, and its folder if it is that of the wheel."""

    program: str
    wheel: Path | None = None

    @property
    def stub(self) -> Path:
        """The wheel's program that runs a model.py in this Python version."""
        assert self.wheel is not None
        stubs = self.wheel / "python_backend_stubs"
        return stubs / sysconfig.get_python_version() / "triton_python_backend_stub"

    def gather_backend(self, folder: Path) -> list[str]:
        """Copy the wheel's Python backend and its stub into one folder, as Triton expects; return the option for it."""
        if self.wheel is None:
            return []
        shutil.copytree(self.wheel / "backends" / "python", folder / "backends" / "python")
        shutil.copy(self.stub, folder / "backends" / "python")
        return [f"--backend-directory={folder / 'backends'}"]

    def environment(self) -> dict[str, str]:
        """Return the environment to run it in. The stub uses the first python3 on the PATH and its packages."""
        if self.wheel is None:
            return dict(os.environ)
        libraries = [sysconfig.get_config_var("LIBDIR"), str(self.wheel.parent.parent / "nvidia_pytriton.libs")]
        libraries += filter(None, [os.environ.get("LD_LIBRARY_PATH")])
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, libraries)), "PATH": path}


def find_triton() -> tuple[Triton, str]:
    """Return the Triton to use and what is missing, which is empty if everything is there."""
    own = shutil.which("tritonserver")
    if own:
        return Triton(own), ""
    package = find_spec("pytriton")
    if package is None or package.origin is None:
        return Triton(""), "nvidia-pytriton is not installed; run: pip install nvidia-pytriton openvino"
    folder = Path(package.origin).parent / "tritonserver"
    triton = Triton(str(folder / "bin" / "tritonserver"), folder)
    if not triton.stub.is_file():
        return triton, f"nvidia-pytriton does not support Python {sysconfig.get_python_version()}; use 3.9 to 3.13"
    if find_spec("openvino") is None:
        return triton, "openvino is not installed; run: pip install openvino"
    return triton, ""


def options(given: argparse.Namespace, models: Path, shared: str) -> list[str]:
    """Return Triton's options; `shared` is the name prefix of the memory it shares with its Python processes."""
    return [
        f"--model-repository={models}",
        f"--backend-config=python,shm-region-prefix-name={shared}",
        "--disable-auto-complete-config",
        f"--http-address={given.host}",
        f"--http-port={given.http_port}",
        f"--grpc-address={given.host}",
        f"--grpc-port={given.grpc_port}",
        f"--metrics-address={given.host}",
        f"--metrics-port={given.metrics_port}",
        f"--exit-timeout-secs={given.exit_timeout}",
    ]


def run(command: list[str], environment: dict[str, str]) -> int:
    """Run Triton, and forward signals to it."""
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
