"""``msal-deploy bench``."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from msal_deploy.cli.bench_compare import CsvFile, MarkdownFile, OldReport, SuiteName, judge, read_old, write_tables
from msal_deploy.cli.bench_load import Arrivals, InFlight, P99Under, Rate, bench_load, parse_load
from msal_deploy.cli.bench_modes import check_combination, is_given
from msal_deploy.cli.bench_options import (
    Baseline,
    Batches,
    EngineNames,
    ImageFolder,
    InProcess,
    Plot,
    Predict,
    PredictFormat,
    Roofline,
    Rounds,
    Size,
    StreamCounts,
    ThreadCounts,
    Timeline,
    Tune,
    Windows,
)
from msal_deploy.cli.options import BundlePath, Json, Seconds, parse_size
from msal_deploy.errors import GateFailed, MissingRequirement

if TYPE_CHECKING:
    from msal_deploy.bench import BenchReport
    from msal_deploy.bench.load_report import LoadReport
    from msal_deploy.bundle import Bundle

ALL = "all"


def bench(
    context: typer.Context,
    bundle: BundlePath,
    engine: EngineNames = None,
    baseline: Baseline = None,
    batch: Batches = None,
    threads: ThreadCounts = None,
    streams: StreamCounts = None,
    size: Size = "512",
    images: ImageFolder = None,
    seconds: Seconds = 1.5,
    windows: Windows = 2,
    rounds: Rounds = 3,
    in_process: InProcess = False,
    suite: SuiteName = None,
    compare: OldReport = None,
    csv: CsvFile = None,
    markdown: MarkdownFile = None,
    json: Json = None,
    tune: Tune = False,
    in_flight: InFlight = None,
    rate: Rate = None,
    p99_under: P99Under = None,
    arrivals: Arrivals = "poisson",
    roofline: Roofline = False,
    predict: Predict = None,
    predict_format: PredictFormat = "geojson",
    timeline: Timeline = None,
    plot: Plot = None,
) -> None:
    """Time engines end to end, from image to probability in memory: p50, p90, p99 and images per second.

    Speed-ups have an interval of 95%, from the differences between processes. An engine that fails does not end the
    others; it is listed, and the exit code is 3 if a failed engine lacked something, such as memory, else 1.

    Example: msal-deploy bench bundle --engine openvino:int8 --threads 1 --threads 2 --batch 1 --batch 8

    Example: msal-deploy bench bundle --engine all --baseline torch:fp32 --json bench.json

    Example: msal-deploy bench bundle --suite cpu --compare bench.json --markdown bench.md

    Example: msal-deploy bench bundle --engine openvino:int8 --p99-under 400ms

    Example: msal-deploy bench bundle --engine openvino:int8 --predict docs/images/tissue.png --rounds 2
    """
    from msal_deploy import bench as stage
    from msal_deploy.bundle import Bundle

    check_combination(context)
    load = parse_load(in_flight, rate, p99_under, arrivals, plot)
    opened, extent = Bundle(bundle), parse_size(size)
    if predict:
        from msal_deploy.cli.bench_pipeline import bench_predict

        bench_predict(
            opened,
            predict,
            engine,
            formats=predict_format,
            batches=batch,
            threads=threads,
            rounds=rounds,
            json=json,
            timeline=timeline,
        )
        return
    if roofline:
        from msal_deploy.cli.bench_roofline import bench_roofline

        bench_roofline(
            opened,
            _engines(opened, engine),
            threads=threads or (),
            batch=batch or (),
            size=extent,
            images=images,
            seconds=seconds,
            windows=windows * rounds,
            json=json,
            plot=plot,
        )
        return
    report: BenchReport | LoadReport
    if load:
        report = bench_load(
            opened,
            _engines(opened, engine),
            load,
            batches=batch,
            threads=threads,
            streams=streams,
            size=extent,
            images=images,
            seconds=seconds if is_given(context, "seconds") else None,
            json=json,
        )
        _require_all(report)
        return
    engines = _add_fp32_baselines(_engines(opened, engine))
    named = set(engines) if suite and engine and ALL not in engine else None
    show = partial(_show, json=json, csv=csv, markdown=markdown, named=named)
    if tune:
        tuned = stage.tune(
            opened,
            engines,
            size=extent,
            seconds=seconds,
            windows=windows,
            rounds=rounds,
            in_process=in_process,
            on_interrupt=show,
            progress=True,
        )
        show(tuned)
        _require_all(tuned)
        return
    old = read_old(compare, baseline or engines[0], extent)
    report = stage.bench(
        opened,
        engines,
        baseline=baseline,
        batches=batch or (1, 4),
        threads=threads or (None,),
        streams=streams or (1,),
        size=extent,
        images=images,
        seconds=seconds,
        windows=windows,
        rounds=rounds,
        in_process=in_process,
        required=engine is not None and ALL not in engine and suite is None,
        on_interrupt=show,
        progress=True,
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


def _require_all(report: "BenchReport | LoadReport") -> None:
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
