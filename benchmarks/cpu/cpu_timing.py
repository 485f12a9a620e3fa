"""Interleaved timing of the engines, a bare loop and the limit's convolutions, all open at the same time."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import limit
import numpy as np
import openvino
from cpu_results import BARE, ENGINES, INT8, LIMITS, OPTIONAL, CpuResults
from openvino import properties
from openvino.properties import hint
from rich.console import Console
from rich.progress import Progress

from msal_deploy.bench import Timing, bench, describe_machine, time_interleaved
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.graph import layers, load_graph
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes.openvino import CORE
from msal_deploy.spec import ModelSpec, UInt8Images, check_extent

Call = Callable[[], object]
PAIRS = 100  # each a run of our engine and a run of the bare loop


def measure(bundle: Bundle, *, size: int, threads: int, seconds: float, windows: int, progress: bool) -> CpuResults:
    """Time everything on one image, and the INT8 engine on batches of images.

    Args:
        bundle: A bundle with the FP32 and INT8 graphs.
        size: Side of the image in pixels.
        threads: CPU threads of every measurement.
        seconds: Length of a time window in seconds.
        windows: Number of interleaved time windows.
        progress: Show progress bars on stderr.

    Raises:
        BadInput: The bundle has no INT8 graph, or a number is out of range.
    """
    for name in ("model.fp32.onnx", "model.int8.onnx"):
        if name not in bundle.manifest.artifacts:
            raise BadInput(f"{name} is not in {bundle.path}", "export it with: msal-deploy export --int8")
    check_extent(bundle.spec.image.axes[1], size)
    environment = describe_machine()
    images = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    with ExitStack() as stack:
        calls, left_out = _open_engines(stack, bundle, images, threads)
        calls[BARE] = bare_loop(bundle.file("model.int8.onnx"), bundle.spec, images, threads)
        calls |= {name: _convolutions(precision, threads) for precision, name in LIMITS.items()}
        timings = _interleave(calls, seconds, windows, progress=progress)
        pairs = _interleave({name: calls[name] for name in (INT8, BARE)}, 1e-6, PAIRS, min_runs=1, progress=progress)
    throughput = bench(
        bundle, [INT8], batches=(1, 4), threads=(threads,), streams=(1, 2) if threads > 1 else (1,),
        size=(size, size), seconds=seconds, windows=windows, progress=progress,
    )  # fmt: skip
    return CpuResults(
        size=size,
        threads=threads,
        operations={name: _operations(bundle, name, size) for name in LIMITS},
        timings=timings,
        pairs=pairs,
        throughput=throughput,
        left_out=left_out,
        environment=environment,
    )


def _open_engines(
    stack: ExitStack, bundle: Bundle, images: UInt8Images, threads: int
) -> tuple[dict[str, Call], dict[str, str]]:
    """Return the calls by engine, in the order of the table, and the reasons for engines that are left out."""
    calls: dict[str, Call] = {}
    left_out: dict[str, str] = {}
    for name in ENGINES:
        try:
            calls[name] = partial(stack.enter_context(open_engine(bundle, name, threads=threads)), images)
        except MissingRequirement as error:
            if name not in OPTIONAL:
                raise
            left_out[name] = str(error)
    return calls, left_out


def _interleave(
    calls: Mapping[str, Call], seconds: float, windows: int, *, min_runs: int | None = None, progress: bool
) -> dict[str, Timing]:
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        tick = partial(bar.advance, bar.add_task("timing" if min_runs is None else "pairs", total=windows * len(calls)))
        timings = time_interleaved(list(calls.values()), seconds=seconds, windows=windows, min_runs=min_runs, tick=tick)
    return dict(zip(calls, timings, strict=True))


def bare_loop(graph: Path, spec: ModelSpec, images: UInt8Images, threads: int) -> Call:
    """Return a call of OpenVINO's API that returns a view of the output, without checks or copies."""
    model = CORE.read_model(graph)
    model.reshape(list(images.shape))
    request = _compile(model, threads).create_infer_request()
    inputs, output = {spec.image.name: images}, spec.probability.name

    def call() -> object:
        request.infer(inputs, share_inputs=True)
        return request.get_tensor(output).data

    return call


def _convolutions(precision: str, threads: int) -> Call:
    model = CORE.read_model(limit.convolutions(precision).SerializeToString())
    request = _compile(model, threads).create_infer_request()
    data = np.random.default_rng(0).normal(size=list(model.input(0).shape)).astype(np.float32)
    return partial(request.infer, {0: data}, share_inputs=True)


def _compile(model: openvino.Model, threads: int) -> openvino.CompiledModel:
    """Compile with the settings of the engines: low latency, and FP32 for floating point."""
    settings = {
        hint.performance_mode: hint.PerformanceMode.LATENCY,
        hint.inference_precision: openvino.Type.f32,
        properties.inference_num_threads: threads,
    }
    return CORE.compile_model(model, "CPU", settings)


def _operations(bundle: Bundle, graph: str, size: int) -> Mapping[str, int]:
    """Return the operations of a graph by precision. A multiply-accumulate counts as two."""
    counts: dict[str, int] = {}
    for layer in layers(load_graph(bundle.file(f"model.{graph}.onnx")), height=size, width=size):
        counts[layer.precision] = counts.get(layer.precision, 0) + 2 * layer.macs
    return counts
