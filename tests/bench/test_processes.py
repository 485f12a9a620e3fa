"""Every engine in a process of its own: what happens if one of them, or their parent, ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner

from msal_deploy.bench import Setting, image_sets, measure
from msal_deploy.bench.measure import Measurement, Plan
from msal_deploy.bench.session import Session
from msal_deploy.bench.worker import WorkerSession
from msal_deploy.bundle import Bundle
from msal_deploy.cli import app
from msal_deploy.errors import BadInput, InternalFault, MissingRequirement

ENGINES = ("onnxruntime:fp32", "onnxruntime:int8")
ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds; a busy machine needs some of them


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def sets():
    return image_sets((32, 32), 1)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; one that nobody has waited for is a zombie."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_engine_is_timed_in_a_process_of_its_own(tiny, sets):
    with WorkerSession(tiny, Setting(engine=ENGINES[0], batch=1), sets) as session:
        assert session.pid != os.getpid()
        session.open()
        assert session.load_s() > 0
        session.warm_up(0.001)
        latencies = session.time_window(0.001, 3)
        assert len(latencies) >= 3 and min(latencies) > 0
        peak = session.peak_memory_mb()
        assert peak is None or 20 < peak < 2000
    assert is_gone(session.pid)


def test_an_error_of_the_engine_arrives_as_it_was_raised(tmp_path, sets):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    (bundle.path / "model.fp32.onnx").unlink()
    setting = Setting(engine=ENGINES[0], batch=1)
    with Session(bundle, setting, sets) as session, pytest.raises(BadInput) as here:
        session.open()
    with WorkerSession(bundle, setting, sets) as worker:
        worker.open()
        with pytest.raises(BadInput) as there:
            worker.load_s()
    assert str(there.value) == str(here.value)


def test_what_a_library_prints_does_not_disturb_the_replies(tiny, sets, capfd):
    """The process's stdout is its stderr, which is that of its parent."""
    code = (
        "import os; from msal_deploy.bench import worker; from msal_deploy.runtimes.onnxruntime import *\n"
        "infer = OnnxRuntimeEngine._infer\n"
        "OnnxRuntimeEngine._infer = lambda *a: (print('noise', flush=True), os.write(1, b'more'), infer(*a))[2]\n"
        "worker.main()"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msal_deploy.bench.worker.START", code)
        with WorkerSession(tiny, Setting(engine=ENGINES[0], batch=1), sets) as session:
            session.open()
            assert session.load_s() > 0
    assert "noise" in capfd.readouterr().err


class Recorded(WorkerSession):
    """Remembers the process of each engine."""

    pids: dict[str, int]

    def open(self) -> None:
        self.pids[self._engine] = self.pid
        super().open()


def measured_until_killed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> Measurement:
    """Time both engines in two rounds, and end the process of the first one with a signal after the first round."""
    monkeypatch.setattr(measure, "WorkerSession", Recorded)
    monkeypatch.setattr(Recorded, "pids", {}, raising=False)
    ticks = iter(range(100))

    def tick() -> None:
        if next(ticks) == 2:  # the first window of the second round
            os.kill(Recorded.pids[ENGINES[0]], number)

    settings = [Setting(engine=engine, batch=1) for engine in ENGINES]
    plan = Plan(size=(32, 32), seconds=0.001, windows=1, rounds=3, min_runs=1)
    measurement = Measurement(bundle, [settings], plan, tick)
    measurement.run()
    return measurement


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (signal.SIGKILL, MissingRequirement, "was killed, most likely because memory ran out"),
        (signal.SIGSEGV, InternalFault, "crashed (SIGSEGV)"),
    ],
)
def test_the_results_of_the_others_are_kept(tiny, monkeypatch, number, kind, words):
    measurement = measured_until_killed(tiny, monkeypatch, number)
    (failure,) = measurement.failures
    assert failure.setting.engine == ENGINES[0] and isinstance(failure.error, kind)
    assert f"The process of {ENGINES[0]} {words}" in str(failure.error)
    (result,) = measurement.results
    assert (result.engine, len(result.timing.windows)) == (ENGINES[1], 3)
    assert all(is_gone(pid) for pid in Recorded.pids.values())


def test_no_process_outlives_a_parent_that_is_killed(tiny):
    code = (
        "import sys\n"
        "from msal_deploy.bench import Setting, image_sets\n"
        "from msal_deploy.bench.worker import WorkerSession\n"
        "from msal_deploy.bundle import Bundle\n"
        f"setting = Setting(engine='{ENGINES[0]}', batch=1)\n"
        "with WorkerSession(Bundle(sys.argv[1]), setting, image_sets((32, 32), 1)) as s:\n"
        "    s.open(); s.load_s(); print(s.pid, flush=True)\n"
        "    s.time_window(1000, 1)\n"
    )
    command = [sys.executable, "-c", code, str(tiny.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=here()) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert not is_gone(worker)
        parent.kill()
        parent.wait()
        wait_until(lambda: is_gone(worker))


def here() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


INTERRUPTED = """
import sys
from msal_deploy.bench import run

class Bar(run.Progress):
    def advance(self, *args):
        super().advance(*args)
        print("window", flush=True)

run.Progress = Bar
from msal_deploy.cli import main
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_was_measured_is_kept_after_a_signal(tiny, tmp_path, number, code):
    words = ["bench", str(tiny.path), "-e", ENGINES[0], "-e", ENGINES[1], "-b", "1", "--size", "32"]
    words += ["--seconds", "0.001", "--windows", "1000", "--json", str(tmp_path / "bench.json")]
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", INTERRUPTED, *words]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=here()) as process:
        assert process.stdout is not None
        for _ in range(6):
            assert process.stdout.readline() == "window\n"
        workers = psutil.Process(process.pid).children()
        process.send_signal(number)
        out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, errors
    assert "Traceback" not in errors and "Interrupted" in out
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["interrupted"] is True and [one["engine"] for one in report["results"]] == list(ENGINES)
    assert all(len(one["window_medians_ms"]) >= 3 for one in report["results"])
    assert len(workers) == 2
    wait_until(lambda: all(is_gone(worker.pid) for worker in workers))


def test_the_command_names_a_failed_engine_and_lists_what_is_unavailable(tiny, tmp_path, monkeypatch):
    """The process of one engine is killed, as the kernel does when memory runs out."""
    start = WorkerSession.open

    def open_or_end(self: WorkerSession) -> None:
        if self._engine == ENGINES[0]:
            os.kill(self.pid, signal.SIGKILL)
        start(self)

    monkeypatch.setattr(WorkerSession, "open", open_or_end)
    monkeypatch.setattr("msal_deploy.runtimes.available_engines", lambda *_, **__: list(ENGINES))
    words = ["bench", tiny.path, "-b", 1, "--size", 32, "--seconds", 0.001, "--json", tmp_path / "bench.json"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    report = json.loads((tmp_path / "bench.json").read_text())
    assert result.exit_code == 3 and result.output.count("Error: ") == 1
    (failure,) = report["failed"]
    assert failure["engine"] == ENGINES[0] and "was killed" in failure["message"]
    (timed,) = report["results"]
    assert (report["baseline"], timed["engine"], timed["speed_up"]) == (ENGINES[0], ENGINES[1], None)
    assert "failed" in result.stdout
    unavailable = {one["engine"]: one["needs"] for one in report["unavailable"]}
    assert "an NVIDIA GPU" in unavailable["tensorrt:int8"] and ENGINES[0] not in unavailable
    assert "Not available: tensorrt:fp32, tensorrt:fp16, tensorrt:int8: an NVIDIA GPU" in result.stdout
