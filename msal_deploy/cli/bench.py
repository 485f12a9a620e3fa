"""``msal-deploy bench``."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msal_deploy.cli.bench_compare import CsvFile, MarkdownFile, OldReport, SuiteName, judge, read_old, write_tables
from msal_deploy.cli.options import BundlePath, Json, Seconds, parse_size
from msal_deploy.errors import BadInput, GateFailed, MissingRequirement

if TYPE_CHECKING:
    from msal_deploy.bench import BenchReport
    from msal_deploy.bundle import Bundle

ALL = "all"


def bench(
    bundle: BundlePath,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            "-e",
            help="An engine such as openvino:int8; repeatable. all: every engine of the catalogue that can run here. "
            "Default: every engine installed on this machine that the bundle has a graph for.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE", help="Engine that speed-ups are relative to; it is timed as well. Default: the first."
        ),
    ] = None,
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
    images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Cut the images from those in this folder. Default: synthetic tissue."),
    ] = None,
    seconds: Seconds = 1.5,
    windows: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of time windows per setting in each round.")
    ] = 2,
    rounds: Annotated[
        int, typer.Option(min=1, max=1000, help="How often every engine is started anew, in a process of its own.")
    ] = 3,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Open all engines in one process, for debugging.")
    ] = False,
    json: Json = None,
    csv: CsvFile = None,
    markdown: MarkdownFile = None,
    compare: OldReport = None,
    suite: SuiteName = None,
) -> None:
    """Time engines end to end, from image to probability in memory: p50, p90, p99 and images per second.

    Speed-ups have an interval of 95%, from the differences between processes. An engine that fails does not end the
    others; it is listed, and the exit code is 3 if a failed engine lacked something, such as memory, else 1.

    Example: msal-deploy bench bundle --engine openvino:int8 --threads 1 --threads 2 --batch 1 --batch 8

    Example: msal-deploy bench bundle --engine all --baseline torch:fp32 --json bench.json

    Example: msal-deploy bench bundle --suite cpu --compare bench.json --markdown bench.md
    """
    from msal_deploy import bench as stage
    from msal_deploy.bundle import Bundle

    if tune and (batch or threads or streams or baseline or images):
        raise BadInput(
            "--tune cannot be combined with --batch, --threads, --streams, --baseline or --images",
            "leave out those or --tune",
        )
    opened = Bundle(bundle)
    engines = _add_fp32_baselines(_engines(opened, engine))
    extent = parse_size(size)
    old = read_old(compare, baseline or engines[0], extent, tune=tune)
    named = set(engines) if suite and engine and ALL not in engine else None
    show = partial(_show, json=json, csv=csv, markdown=markdown, named=named)
    report: BenchReport
    common: dict[str, Any] = {
        "size": extent,
        "seconds": seconds,
        "windows": windows,
        "rounds": rounds,
        "in_process": in_process,
    }
    if tune:
        report = stage.tune(opened, engines, on_interrupt=show, progress=True, **common)
        show(report)
    else:
        report = stage.bench(
            opened,
            engines,
            baseline=baseline,
            batches=batch or (1, 4),
            threads=threads or (None,),
            streams=streams or (1,),
            images=images,
            required=engine is not None and ALL not in engine and suite is None,
            on_interrupt=show,
            progress=True,
            **common,
        )
        show(report)
    judge(old, report)
    _require_all(report)


def _engines(bundle: "Bundle", named: list[str] | None) -> list[str]:
    """Return the engines to time: those that were named, every one that can run here, or the usual ones of those."""
    from msal_deploy.runtimes import all_engines, available_engines, missing_needs

    if not named:
        return available_engines(bundle, timed=True)
    if ALL not in named:
        return named
    needs = missing_needs(bundle)
    return list(dict.fromkeys([*(one for one in named if one != ALL), *(e for e in all_engines() if e not in needs)]))


def _show(
    report: "BenchReport", json: Path | None, csv: Path | None, markdown: Path | None, named: set[str] | None
) -> None:
    """Write the files, then print the table and what else there is to say.

    If engines are `named`, as by a suite, the rest of the catalogue is not listed as unavailable.
    """
    from msgspec.structs import replace
    from rich.console import Console

    from msal_deploy.files import write_json

    if named is not None:
        report = replace(report, unavailable={one: why for one, why in report.unavailable.items() if one in named})
    if json:
        write_json(json, report.to_json())
    write_tables(report, csv, markdown)
    console = Console()
    console.print(report.table())
    console.print(*report.messages(), sep="\n", highlight=False, markup=False, soft_wrap=True)


def _require_all(report: "BenchReport") -> None:
    """Raise an error if an engine failed: everything else was measured.

    Raises:
        MissingRequirement: A failed engine lacked something.
        GateFailed: They failed for other reasons.
    """
    if not report.failed:
        return
    names = ", ".join(dict.fromkeys(one.setting.engine for one in report.failed))
    cause = f"Not every engine could be timed: {names} failed: {report.failed[0].error}"
    lacking = any(isinstance(one.error, MissingRequirement) for one in report.failed)
    raise MissingRequirement(cause) if lacking else GateFailed(cause)


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
