"""The tools of others that time a graph, each run as a process, with the settings of our engine."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from msal_deploy.errors import BadInput

LIMIT_S = 600  # of one process; a tool that hangs must not hang us
PERF_LOOP = Path(__file__).with_name("onnxruntime_perf.py")


class Job(msgspec.Struct, frozen=True):
    """What every tool is given.

    Attributes:
        bundle: Folder of the bundle.
        graph: File of the graph or plan.
        engine: Our engine's id.
        size: Side of the image in pixels.
        threads: CPU threads.
        seconds: Length of the timing in seconds.
        image: NPY file with one image uint8[1,size,size,3].
        raw: The same bytes without a header.
        folder: For the tool's files.
    """

    bundle: Path
    graph: Path
    engine: str
    size: int
    threads: int
    seconds: float
    image: Path
    raw: Path
    folder: Path

    @property
    def precision(self) -> str:
        """The part of the engine's id after the colon."""
        return self.engine.partition(":")[2]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the image."""
        return 1, self.size, self.size, 3


class Tool(msgspec.Struct, frozen=True):
    """A tool that times a graph.

    Attributes:
        name: Its name.
        runtimes: Runtimes of our engines that it is compared with.
        command: Returns its command line.
        read: Returns its median latency in ms, from what it printed and the files that it wrote.
        differs: What its figure leaves out or adds, beside ours; the explanation if the two do not agree.
    """

    name: str
    runtimes: tuple[str, ...]
    command: Callable[[Job], list[str]]
    read: Callable[[Job, str], float]
    differs: str

    def measure(self, job: Job) -> float:
        """Run the tool and return its median latency in ms.

        Raises:
            BadInput: It failed, or its output is not understood.
        """
        return self.read(job, run_process(self.name, self.command(job)))


def run_process(name: str, command: Sequence[str]) -> str:
    """Run a command, and return what it printed.

    Raises:
        BadInput: It failed, or took longer than `LIMIT_S`.
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput(f"{name} did not run ({error})", "run its command alone to see why") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-1]
        raise BadInput(f"{name} failed with exit code {done.returncode} ({last})", "run its command alone to see why")
    return done.stdout


# --- ours ------------------------------------------------------------------------------------------------------------


def bench_command(job: Job) -> list[str]:
    """Return ``msal-deploy bench`` for the job: one process, one round."""
    return [
        *(sys.executable, "-m", "msal_deploy", "bench", str(job.bundle), "--engine", job.engine, "--batch", "1"),
        *("--threads", str(job.threads), "--size", str(job.size), "--seconds", str(job.seconds / 2)),
        *("--windows", "2", "--rounds", "1", "--json", str(job.folder / "bench.json")),
    ]


def read_bench(job: Job, _printed: str) -> float:
    """Return the median latency of our engine in ms."""
    (result,) = json.loads((job.folder / "bench.json").read_text(encoding="utf-8"))["results"]
    return float(result["latency_ms"]["p50"])


BENCH = Tool("msal-deploy bench", ("openvino", "onnxruntime", "tensorrt"), bench_command, read_bench, "")


# --- OpenVINO --------------------------------------------------------------------------------------------------------


def benchmark_app_command(job: Job) -> list[str]:
    """Return OpenVINO's ``benchmark_app``, whose options for threads require the hint ``none`` and one stream."""
    program = str(Path(sys.executable).with_name("benchmark_app"))
    shape = ",".join(map(str, job.shape))
    return [
        *(program, "-m", str(job.graph), "-d", "CPU", "-shape", f"image[{shape}]", "-i", f"image:{job.image}"),
        *("-hint", "none", "-nstreams", "1", "-nthreads", str(job.threads), "-pin", "NO", "-api", "sync"),
        *("-infer_precision", "bf16" if job.precision == "bf16" else "f32", "-t", str(max(1, round(job.seconds)))),
        *("-report_type", "no_counters", "-report_folder", str(job.folder), "-json_stats"),
    ]


def read_benchmark_app(job: Job, _printed: str) -> float:
    """Return the median latency in ms from the report of ``benchmark_app``, which names it only ``latency``."""
    report = json.loads((job.folder / "benchmark_report.json").read_text(encoding="utf-8"))
    return float(report["execution_results"]["latency (ms)"])


# --- ONNX Runtime ----------------------------------------------------------------------------------------------------


def perf_loop_command(job: Job) -> list[str]:
    """Return the loop of `onnxruntime_perf`, because the wheel has no ``onnxruntime_perf_test``."""
    return [
        *(sys.executable, str(PERF_LOOP), str(job.graph), str(job.image)),
        *("--threads", str(job.threads), "--seconds", str(job.seconds)),
    ]


def read_perf_loop(_job: Job, printed: str) -> float:
    """Return the median latency in ms that the loop printed."""
    return float(json.loads(printed)["p50_ms"])


# --- TensorRT --------------------------------------------------------------------------------------------------------


def trtexec_command(job: Job) -> list[str]:
    """Return ``trtexec`` for a plan, with the options that all its versions since 8.6 have."""
    shape = "x".join(map(str, job.shape))
    return [
        *("trtexec", f"--loadEngine={job.graph}", f"--shapes=image:{shape}", f"--loadInputs=image:{job.raw}"),
        *(f"--duration={max(1, round(job.seconds))}", "--warmUp=500", "--useSpinWait", "--infStreams=1"),
    ]


def read_trtexec(_job: Job, printed: str) -> float:
    """Return the median of ``Latency``: copies to and from the GPU, and the computation, in ms.

    Raises:
        BadInput: trtexec did not print it.
    """
    found = re.search(r"\[I\] Latency: .*?median = ([0-9.]+) ms", printed)
    if not found:
        raise BadInput("trtexec printed no latency", "run its command alone to see why")
    return float(found[1])


TOOLS = (
    Tool(
        "benchmark_app",
        ("openvino",),
        benchmark_app_command,
        read_benchmark_app,
        "benchmark_app times the inference alone: no check of the image, no copy of the output for the caller; and it "
        "computes one image again and again, which stays in the cache",
    ),
    Tool(
        "ONNX Runtime loop",
        ("onnxruntime",),
        perf_loop_command,
        read_perf_loop,
        "the loop writes into one bound array: no check of the image, no new array for each output",
    ),
    Tool(
        "trtexec",
        ("tensorrt",),
        trtexec_command,
        read_trtexec,
        "trtexec copies from and to pinned memory, and enqueues the next image before it has waited for the last; ours "
        "takes images in pageable memory and waits for each",
    ),
)


def missing(tool: Tool, job: Job) -> str | None:
    """Return why a tool cannot run here, or None if it can."""
    program = tool.command(job)[0]
    if shutil.which(program) is None:
        return f"{Path(program).name} is not installed here"
    return None
