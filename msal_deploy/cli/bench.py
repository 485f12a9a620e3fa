"""``msal-deploy bench``."""

from typing import Annotated

import typer

from msal_deploy.cli.options import BundlePath, Engines, Json, Threads, available_engines, parse_size


def bench(
    bundle: BundlePath,
    engine: Engines = None,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", "-b", min=1, help="Images a call; repeatable. Default: 1 and 4.")
    ] = None,
    size: Annotated[str, typer.Option(help="Side in pixels, or HEIGHTxWIDTH; multiples of 32.")] = "512",
    seconds: Annotated[float, typer.Option(help="Length of a time window.")] = 3.0,
    windows: Annotated[int, typer.Option(help="Time windows for each engine and batch.")] = 3,
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Time engines from image in memory to probability in memory: p50, p90, p99 and images a second.

    Example: msal-deploy bench bundle --engine openvino:fp32 --batch 1 --batch 8 --json bench.json
    """
    from rich.console import Console

    from msal_deploy.bench import bench as measure
    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json

    report = measure(
        Bundle(bundle),
        engine or available_engines(),
        batches=batch or (1, 4),
        size=parse_size(size),
        seconds=seconds,
        windows=windows,
        threads=threads,
        progress=True,
    )
    Console().print(report.table())
    if json:
        write_json(json, report.to_json())
