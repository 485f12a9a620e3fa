"""Measure a roofline: the machine's peak rates and the engines interleaved, then the profile of each engine."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from msal_deploy.bench.checks import check_options
from msal_deploy.bench.inputs import image_sets
from msal_deploy.bench.machine import describe_machine
from msal_deploy.bench.measure import Plan
from msal_deploy.bench.peaks import last_level_cache, open_convolutions, open_copies
from msal_deploy.bench.roofline_report import MeasuredPeak, RooflineReport
from msal_deploy.bench.timing import Timing, time_interleaved
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.graph import Layer, layers, load_graph
from msal_deploy.hardware import available_cores
from msal_deploy.roofline import Estimate, estimate_all
from msal_deploy.runtimes import find_runtime, open_engine
from msal_deploy.runtimes.base import Engine
from msal_deploy.runtimes.kernels import Kernel
from msal_deploy.spec import UInt8Images
from msal_deploy.targets import targets

GRAPHS = ("fp32", "fp16", "int8")
PROFILED_RUNS = 10


def measure_roofline(
    bundle: Bundle,
    engine_ids: Sequence[str],
    *,
    threads: int | None = None,
    batch: int = 1,
    size: tuple[int, int] = (512, 512),
    images: Path | None = None,
    seconds: float = 1.0,
    windows: int = 5,
    progress: bool = False,
) -> RooflineReport:
    """Measure the peak rates of this machine and engines beside them, and where the engines spend their time.

    ::

        report = measure_roofline(Bundle(Path("bundle")), ["openvino:int8", "openvino:fp32"])
        print(report.floor_ms("int8"), report.times_the_floor("openvino:int8"))

    Args:
        bundle: A bundle with the FP32 graph.
        engine_ids: Engines of the CPU. One that needs a GPU or a server is left out and named in the report.
        threads: CPU threads of every measurement; None for all cores.
        batch: Images per call.
        size: Height and width in pixels.
        images: A folder of images to cut tiles from; None for synthetic tissue.
        seconds: Length of a time window in seconds.
        windows: Number of interleaved windows, at least two.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: The bundle has no FP32 graph, no engine can be measured, or a number is out of range.
    """
    plan = Plan(size=size, seconds=seconds, windows=windows, rounds=1, images=images)
    check_options(bundle.spec, engine_ids, (batch,), plan)
    threads = threads or available_cores()
    found = _layers(bundle, batch, size)
    environment = describe_machine()
    with ExitStack() as stack:
        engines, left_out = _open_engines(stack, bundle, engine_ids, threads)
        peaks = open_convolutions(threads) | open_copies(stack, threads, cache_bytes := last_level_cache())
        sets = image_sets(size, batch, folder=images)
        calls = [peak.call for peak in peaks.values()] + [_calls(engine, sets) for engine in engines.values()]
        timings = _interleave(calls, plan, progress=progress)
        kernels = _profiles(engines, sets[0])
    measured = dict(zip((*peaks, *engines), timings, strict=True))
    return RooflineReport(
        size=size,
        batch=batch,
        threads=threads,
        cache_bytes=cache_bytes,
        peaks={name: MeasuredPeak(peak.amount, measured[name]) for name, peak in peaks.items()},
        layers=found,
        engines={name: measured[name] for name in engines},
        kernels=kernels,
        left_out=left_out,
        estimates=_estimates(found, batch),
        environment=environment,
    )


def _layers(bundle: Bundle, batch: int, size: tuple[int, int]) -> dict[str, tuple[Layer, ...]]:
    present = [precision for precision in GRAPHS if precision == "fp32" or bundle.has_graph(precision)]
    height, width = size
    return {p: layers(load_graph(bundle.graph(p)), batch=batch, height=height, width=width) for p in present}


def _open_engines(
    stack: ExitStack, bundle: Bundle, engine_ids: Sequence[str], threads: int
) -> tuple[dict[str, Engine], dict[str, str]]:
    """Return the open engines by id, and why others are left out."""
    engines: dict[str, Engine] = {}
    left_out: dict[str, str] = {}
    for name in engine_ids:
        engine = open_engine(bundle, name, threads=threads)  # an unknown name is an error
        device = find_runtime(name).device
        if device != "cpu":
            left_out[name] = f"only the peak rates of the CPU are measured, and this engine runs on a {device}"
            continue
        try:
            engines[name] = stack.enter_context(engine)
        except MissingRequirement as error:
            left_out[name] = str(error)
    if not engines:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise BadInput(f"None of the engines can be measured ({reasons})", "name an engine of the CPU")
    return engines, left_out


def _calls(engine: Engine, sets: Sequence[UInt8Images]) -> Callable[[], object]:
    """Return a call of the engine on one set after the other."""
    turn: Iterator[UInt8Images] = cycle(sets)
    return lambda: engine(next(turn))


def _interleave(calls: Sequence[Callable[[], object]], plan: Plan, *, progress: bool) -> tuple[Timing, ...]:
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("roofline", total=plan.windows * len(calls))
        return time_interleaved(calls, seconds=plan.seconds, windows=plan.windows, tick=lambda: bar.advance(task))


def _profiles(engines: dict[str, Engine], images: UInt8Images) -> dict[str, tuple[Kernel, ...]]:
    profiles = {name: engine.kernels(images, PROFILED_RUNS) for name, engine in engines.items()}
    return {name: kernels for name, kernels in profiles.items() if kernels}


def _estimates(found: dict[str, tuple[Layer, ...]], batch: int) -> tuple[Estimate, ...]:
    """Return estimates for the built-in GPUs, which hold for one image."""
    return tuple(bound for target in targets() for bound in estimate_all(found, target)) if batch == 1 else ()
