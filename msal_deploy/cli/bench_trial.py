"""A process of its own for each trial of ``msal-deploy bench --predict``: a fresh interpreter, as a user starts it."""

import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from msal_deploy.errors import DeployError, InternalFault, MissingRequirement

if TYPE_CHECKING:
    from msal_deploy.prediction.trial import Trial

START = "from msal_deploy.cli.bench_trial import main; main()"


class Request(msgspec.Struct, frozen=True):
    """What a trial computes; see `predict_all`."""

    sources: tuple[str, ...]
    bundle: str
    engine: str
    formats: tuple[str, ...]
    batch: int = 1
    threads: int | None = None


def run_trial(request: Request) -> "Trial":
    """Run a trial in a process of its own, which ends with this call, also by Ctrl-C.

    Raises:
        DeployError: What predict raised there.
        MissingRequirement: The process was killed, as the kernel does when memory runs out.
        InternalFault: The process crashed.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        process_group=0,  # Ctrl-C is for this process alone
    )
    try:
        answer, _ = process.communicate(pickle.dumps(request))
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return _answered(answer, process.returncode, request.engine)


def _answered(answer: bytes, code: int, engine: str) -> "Trial":
    try:
        reply: Any = pickle.loads(answer)
    except (EOFError, pickle.UnpicklingError):
        if code == -signal.SIGKILL:
            raise MissingRequirement(f"predict with {engine} was killed, most likely because memory ran out") from None
        how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        raise InternalFault(f"predict with {engine} {how}", "what it wrote to stderr says more") from None
    if isinstance(reply, DeployError):
        raise reply
    trial: Trial = reply
    return trial


def main() -> None:
    """Read a request from stdin and write a `Trial`, or the error of predict, to stdout."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    request: Request = pickle.load(sys.stdin.buffer)
    try:
        reply: Any = measure(request)
    except DeployError as error:
        reply = error
    with answer:
        pickle.dump(reply, answer)


def measure(request: Request) -> "Trial":
    """Run predict, then its engine alone, in this process."""
    from msal_deploy.bench.session import own_peak_memory_mb
    from msal_deploy.prediction import trial as stage

    batch, threads = request.batch, request.threads
    options = {"formats": request.formats, "batch": batch, "threads": threads}
    report = stage.predicted(request.sources, request.bundle, request.engine, **options)
    peak = own_peak_memory_mb()
    records = report.slides.values()
    return stage.Trial(
        seconds=dict(report.seconds),
        cpu_seconds=stage.with_engine_threads(dict(report.cpu_seconds)),
        timeline=report.timeline,
        mm2=sum(record.tissue_mm2 for record in records),
        nuclei=sum(record.nuclei for record in records),
        alone=stage.engine_alone(request.sources, request.bundle, request.engine, batch, threads),
        peak_memory_mb=peak,
    )
