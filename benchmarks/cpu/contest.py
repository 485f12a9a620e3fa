"""Everything that is compared, open at once and timed in turns: engines, a bare loop, and the limit's convolutions."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import limit
import numpy as np
import openvino
from openvino import properties
from openvino.properties import hint
from proof import BARE, ENGINES, INT8, LIMITS, OPTIONAL, Proof
from rich.console import Console
from rich.progress import Progress

from msal_deploy.bench import Timing, bench, describe_machine, time_interleaved
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.graph import layers, load_graph
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import ModelSpec, UInt8Images, check_extent

Call = Callable[[], object]
PAIRS = 100  # of a run of our engine and one of the bare loop


def measure(bundle: Bundle, *, size: int, threads: int, seconds: float, windows: int, progress: bool) -> Proof:
    """Time everything on one image, and the INT8 engine on batches.

    Args:
        size: side of the image in pixels.
        threads: CPU threads of everything.
        seconds: length of a time window.
        windows: time windows of each; all take turns.

    Raises:
        BadInput: the bundle has no INT8 graph, or a number is out of range.
    """
    for name in ("model.fp32.onnx", "model.int8.onnx"):
        if name not in bundle.manifest.artifacts:
            raise BadInput(f"{bundle.path} holds no {name}; export it with: msal-deploy export --int8")
    check_extent(bundle.spec.image.axes[1], size)
    environment = describe_machine()
    images = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    with ExitStack() as stack:
        calls, left_out = _open_engines(stack, bundle, images, threads)
        calls[BARE] = bare_loop(bundle.file("model.int8.onnx"), bundle.spec, images, threads)
        calls |= {name: _convolutions(precision, threads) for precision, name in LIMITS.items()}
        timings = _take_turns(calls, seconds, windows, progress=progress)
        pairs = _take_turns({name: calls[name] for name in (INT8, BARE)}, 1e-6, PAIRS, min_runs=1, progress=progress)
    throughput = bench(
        bundle, [INT8], batches=(1, 4), threads=(threads,), streams=(1, 2) if threads > 1 else (1,),
        size=(size, size), seconds=seconds, windows=windows, progress=progress,
    )  # fmt: skip
    return Proof(
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
    """Return engine -> call, in the order of the table, and engine -> why it is left out."""
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


def _take_turns(
    calls: Mapping[str, Call], seconds: float, windows: int, *, min_runs: int | None = None, progress: bool
) -> dict[str, Timing]:
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        tick = partial(bar.advance, bar.add_task("turns" if min_runs is None else "pairs", total=windows * len(calls)))
        timings = time_interleaved(list(calls.values()), seconds=seconds, windows=windows, min_runs=min_runs, tick=tick)
    return dict(zip(calls, timings, strict=True))


def bare_loop(graph: Path, spec: ModelSpec, images: UInt8Images, threads: int) -> Call:
    """Return a call of OpenVINO's own API alone, that gives a view of the output: nothing is checked or copied."""
    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape(list(images.shape))
    request = _compile(core, model, threads).create_infer_request()
    inputs, output = {spec.image.name: images}, spec.probability.name

    def call() -> object:
        request.infer(inputs, share_inputs=True)
        return request.get_tensor(output).data

    return call


def _convolutions(precision: str, threads: int) -> Call:
    core = openvino.Core()
    model = core.read_model(limit.convolutions(precision).SerializeToString())
    request = _compile(core, model, threads).create_infer_request()
    data = np.random.default_rng(0).normal(size=list(model.input(0).shape)).astype(np.float32)
    return partial(request.infer, {0: data}, share_inputs=True)


def _compile(core: openvino.Core, model: openvino.Model, threads: int) -> openvino.CompiledModel:
    """Compile as the engines do: for the shortest wait, and floating point in FP32."""
    settings = {
        hint.performance_mode: hint.PerformanceMode.LATENCY,
        hint.inference_precision: openvino.Type.f32,
        properties.inference_num_threads: threads,
    }
    return core.compile_model(model, "CPU", settings)


def _operations(bundle: Bundle, graph: str, size: int) -> Mapping[str, int]:
    """Return precision -> operations of a graph of the bundle, two a multiply-accumulate."""
    found: dict[str, int] = {}
    for layer in layers(load_graph(bundle.file(f"model.{graph}.onnx")), height=size, width=size):
        found[layer.precision] = found.get(layer.precision, 0) + 2 * layer.macs
    return found
