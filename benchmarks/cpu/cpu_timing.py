"""Interleaved timing of the engines and the limit's convolutions, all open at the same time."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle

from cpu_results import ENGINES, INT8, LIMITS, OPTIONAL, CpuResults
from rich.console import Console
from rich.progress import Progress

from msal_deploy.bench import Timing, bench, describe_machine, image_sets, time_interleaved
from msal_deploy.bench.peaks import open_convolutions
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.graph import layers, load_graph
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import UInt8Images, check_extent

Call = Callable[[], object]


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
    with ExitStack() as stack:
        calls, left_out = _open_engines(stack, bundle, image_sets((size, size), 1), threads)
        calls |= {name: peak.call for name, peak in open_convolutions(threads, LIMITS).items()}
        timings = _interleave(calls, seconds, windows, progress=progress)
    throughput = bench(
        bundle, [INT8], batches=(1, 4), threads=(threads,), streams=(1, 2) if threads > 1 else (1,),
        size=(size, size), seconds=seconds, windows=windows, rounds=1, progress=progress,
    )  # fmt: skip
    return CpuResults(
        size=size,
        threads=threads,
        operations={name: _operations(bundle, name, size) for name in LIMITS},
        timings=timings,
        throughput=throughput,
        left_out=left_out,
        environment=environment,
    )


def _open_engines(
    stack: ExitStack, bundle: Bundle, sets: Sequence[UInt8Images], threads: int
) -> tuple[dict[str, Call], dict[str, str]]:
    """Return the calls by engine, in the order of the table, and the reasons for engines that are left out."""
    calls: dict[str, Call] = {}
    left_out: dict[str, str] = {}
    for name in ENGINES:
        try:
            engine = stack.enter_context(open_engine(bundle, name, threads=threads))
        except MissingRequirement as error:
            if name not in OPTIONAL:
                raise
            left_out[name] = str(error)
        else:
            calls[name] = partial(_call_next, engine, cycle(sets))
    return calls, left_out


def _call_next(engine: Callable[[UInt8Images], object], sets: "cycle[UInt8Images]") -> object:
    return engine(next(sets))


def _interleave(calls: Mapping[str, Call], seconds: float, windows: int, *, progress: bool) -> dict[str, Timing]:
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        tick = partial(bar.advance, bar.add_task("timing", total=windows * len(calls)))
        timings = time_interleaved(list(calls.values()), seconds=seconds, windows=windows, tick=tick)
    return dict(zip(calls, timings, strict=True))


def _operations(bundle: Bundle, graph: str, size: int) -> Mapping[str, int]:
    """Return the operations of a graph by precision. A multiply-accumulate counts as two."""
    counts: dict[str, int] = {}
    for layer in layers(load_graph(bundle.file(f"model.{graph}.onnx")), height=size, width=size):
        counts[layer.precision] = counts.get(layer.precision, 0) + 2 * layer.macs
    return counts
