"""``msal-deploy bench``."""

from typing import TYPE_CHECKING, Annotated

import typer

from msal_deploy.cli.bench_load import Arrivals, InFlight, LoadPlot, P99Under, Rate, bench_load, is_given
from msal_deploy.cli.options import BundlePath, Engines, Json, Seconds, parse_size
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from msal_deploy.bench import BenchReport


def bench(
    context: typer.Context,
    bundle: BundlePath,
    engine: Engines = None,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", "-b", min=1, help="Images per call; repeatable. Default: 1 and 4.")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="CPU threads; repeatable. Default: each runtime chooses.")
    ] = None,
    streams: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Images of a batch computed in parallel, if the runtime can; repeatable. Default: 1."),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Find the best threads, streams and batch size on this machine. Takes minutes."),
    ] = False,
    size: Annotated[str, typer.Option(help="Image size in pixels: a side, or HEIGHTxWIDTH; multiples of 32.")] = "512",
    seconds: Seconds = 3.0,
    windows: Annotated[int, typer.Option(min=1, max=1000, help="Number of time windows per setting.")] = 3,
    json: Json = None,
    in_flight: InFlight = None,
    rate: Rate = None,
    p99_under: P99Under = None,
    arrivals: Arrivals = "poisson",
    plot: LoadPlot = None,
) -> None:
    """Time engines end to end, from image to probability in memory: p50, p90, p99 and images per second.

    Example: msal-deploy bench bundle --engine openvino:int8 --threads 1 --threads 2 --batch 1 --batch 8
    """
    from rich.console import Console

    from msal_deploy import bench as stage
    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json
    from msal_deploy.runtimes import available_engines

    if tune and (batch or threads or streams):
        raise BadInput("--tune cannot be combined with --batch, --threads or --streams", "leave out those or --tune")
    if in_flight or rate or p99_under is not None:
        if tune:
            raise BadInput("--tune cannot be combined with --in-flight, --rate or --p99-under", "leave out one of them")
        bench_load(
            bundle,
            engine,
            in_flight=in_flight,
            rates=rate,
            p99_under=p99_under,
            arrivals=arrivals,
            batches=batch,
            threads=threads,
            streams=streams,
            size=parse_size(size),
            seconds=seconds if is_given(context, "seconds") else None,
            json=json,
            plot=plot,
        )
        return
    if plot:
        raise BadInput("--plot needs --in-flight, --rate or --p99-under", "give one of them")
    opened = Bundle(bundle)
    engines = _add_fp32_baselines(engine or available_engines(opened, timed=True))
    extent = parse_size(size)
    report: BenchReport
    if tune:
        report = best = stage.tune(opened, engines, size=extent, seconds=seconds, windows=windows, progress=True)
    else:
        report = stage.bench(
            opened,
            engines,
            batches=batch or (1, 4),
            threads=threads or (None,),
            streams=streams or (1,),
            size=extent,
            seconds=seconds,
            windows=windows,
            progress=True,
        )
    if json:
        write_json(json, report.to_json())
    console = Console()
    console.print(report.table())
    if tune:
        console.print(*best.messages(), sep="\n", highlight=False, soft_wrap=True)


def _add_fp32_baselines(engines: list[str]) -> list[str]:
    """Add FP32 for each plan in a precision that is discouraged on this GPU, so that the table shows it is no gain."""
    from msal_deploy.targets import target_of_sm
    from msal_deploy.trt.bindings import TRT_BACKENDS
    from msal_deploy.trt.local_gpu import current_gpu

    plans = [engine.partition(":") for engine in engines if engine.partition(":")[0] in TRT_BACKENDS]
    gpu = current_gpu() if plans else None
    if not gpu or not gpu.sm:
        return engines
    discouraged = target_of_sm(gpu.sm, gpu.name).discouraged
    baselines = dict.fromkeys(f"{backend}:fp32" for backend, _, precision in plans if precision in discouraged)
    added = [engine for engine in baselines if engine not in engines]
    for engine in added:
        typer.echo(f"{' '.join(discouraged.values())}: {engine} is timed for comparison", err=True)
    return engines + added
