"""``msal-deploy bench``."""

from typing import TYPE_CHECKING, Annotated

import typer

from msal_deploy.cli.options import BundlePath, Engines, Json, parse_size
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from msal_deploy.bench import BenchReport


def bench(
    bundle: BundlePath,
    engine: Engines = None,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", "-b", min=1, help="Images a call; repeatable. Default: 1 and 4.")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="CPU threads; repeatable. By default each runtime chooses.")
    ] = None,
    streams: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Images of a batch side by side, where the runtime can; repeatable. Default: 1."),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Find the best threads, streams and batch on this machine; takes minutes.")
    ] = False,
    size: Annotated[str, typer.Option(help="Side in pixels, or HEIGHTxWIDTH; multiples of 32.")] = "512",
    seconds: Annotated[float, typer.Option(help="Length of a time window.")] = 3.0,
    windows: Annotated[int, typer.Option(help="Time windows for each setting.")] = 3,
    json: Json = None,
) -> None:
    """Time engines from image in memory to probability in memory: p50, p90, p99 and images a second.

    Example: msal-deploy bench bundle --engine openvino:int8 --threads 1 --threads 2 --batch 1 --batch 8
    """
    from rich.console import Console

    from msal_deploy import bench as stage
    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json
    from msal_deploy.runtimes import available_engines

    if tune and (batch or threads or streams):
        raise BadInput("--tune chooses batch, threads and streams by itself; leave them out, or leave out --tune")
    opened = Bundle(bundle)
    engines = _with_fp32_beside(engine or available_engines(opened, timed=True))
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
    console = Console()
    console.print(report.table())
    if tune:
        console.print(*best.sentences(), sep="\n", highlight=False, soft_wrap=True)
    if json:
        write_json(json, report.to_json())


def _with_fp32_beside(engines: list[str]) -> list[str]:
    """Add FP32 to a plan's precision that is slow on the GPU here: without it, nobody sees that it does not pay."""
    from msal_deploy.targets import target_of_sm
    from msal_deploy.trt.bindings import TRT_BACKENDS
    from msal_deploy.trt.local_gpu import current_gpu

    plans = [engine.partition(":") for engine in engines if engine.partition(":")[0] in TRT_BACKENDS]
    here = current_gpu() if plans else None
    if not here or not here.sm:
        return engines
    slow = target_of_sm(here.sm, here.name).slow
    beside = dict.fromkeys(f"{backend}:fp32" for backend, _, precision in plans if precision in slow)
    added = [engine for engine in beside if engine not in engines]
    for engine in added:
        typer.echo(f"{' '.join(slow.values())}: {engine} is timed beside it", err=True)
    return engines + added
