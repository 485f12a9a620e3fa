"""The stage: time engines over batches, threads and streams."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from msal_deploy.bench.checks import check_options, require_all, split_by_plan, valid_settings
from msal_deploy.bench.machine import MachineWatch
from msal_deploy.bench.measure import Measurement, Plan, group_settings
from msal_deploy.bench.results import BenchReport, Failure, Setting
from msal_deploy.bundle import Bundle
from msal_deploy.errors import MissingRequirement
from msal_deploy.memory import REMEDY
from msal_deploy.runtimes import missing_needs

SECONDS, WINDOWS, ROUNDS = 1.5, 2, 3


def bench(
    bundle: Bundle,
    engine_ids: Sequence[str],
    *,
    baseline: str | None = None,
    batches: Sequence[int] = (1, 4),
    threads: Sequence[int | None] = (None,),
    streams: Sequence[int] = (1,),
    size: tuple[int, int] = (512, 512),
    seconds: float = SECONDS,
    windows: int = WINDOWS,
    rounds: int = ROUNDS,
    images: Path | None = None,
    in_process: bool = False,
    required: bool = True,
    on_interrupt: Callable[[BenchReport], object] = lambda _: None,
    progress: bool = False,
) -> BenchReport:
    """Time engines on images of tissue in every valid combination of the options.

    In each round, every setting is opened in a process of its own. All settings of one batch size are open at the same
    time and timed interleaved, so they can be compared. More than `MAX_OPEN` settings are split into groups of that
    size, in the order of `engine_ids`. An engine that fails, or whose process ends, does not end the others: it is
    listed in the report.

    >>> from pathlib import Path
    >>> bundle = Bundle(Path("bundle"))
    >>> report = bench(bundle, ["openvino:fp32"], batches=(1,), size=(64, 64), seconds=0.01, windows=2, rounds=1)
    >>> report.results[0].engine, report.results[0].batch
    ('openvino:fp32', 1)

    Args:
        bundle: The bundle with the graphs.
        engine_ids: Engines to time.
        baseline: Engine that speed-ups are relative to, which is timed as well; None for the first of `engine_ids`.
        batches: Images per call.
        threads: Numbers of CPU threads; None lets the runtime choose.
        streams: Images of a batch that are computed in parallel. Engines without streams are timed with one stream, and
            settings with more streams than threads are left out.
        size: Height and width in pixels.
        seconds: Length of a time window in seconds. A window lasts longer if it has fewer than `MIN_RUNS` runs by then.
        windows: Number of time windows of each setting in a round.
        rounds: How often every setting is opened anew. There must be at least two windows in all.
        images: A folder of 8-bit RGB images to cut tiles from; None for synthetic tissue.
        in_process: Open all engines in this process: for debugging, because they disturb each other.
        required: Whether an engine that lacks what it needs is an error. If not, it is listed in the report, with every
            other engine of the catalogue that cannot run here.
        on_interrupt: Called with what was measured until then, if Ctrl-C or SIGTERM ends the measurement.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: An engine is unknown or listed twice, a number is out of range, or the size is not a multiple of 32.
        DeployError: Nothing could be measured; it is the error of the first engine.
    """
    engine_ids = [*([baseline] if baseline and baseline not in engine_ids else []), *engine_ids]
    plan = Plan(size=size, seconds=seconds, windows=windows, rounds=rounds, in_process=in_process, images=images)
    check_options(bundle.spec, engine_ids, batches, plan)
    settings = valid_settings(bundle, engine_ids, batches, threads, streams)
    unavailable: dict[str, str] = {}
    if required:
        require_all(bundle, settings, size)
    else:
        settings, unavailable = _available(bundle, settings, size)
    report = partial(_report, baseline=baseline or settings[0].engine, unavailable=unavailable, required=required)
    watch = MachineWatch()
    groups = group_settings(settings)
    measurement = measure(bundle, groups, plan, lambda part: on_interrupt(report(part, watch.stop(), True)), progress)
    return report(measurement, watch.stop(), False)


def _available(
    bundle: Bundle, settings: Sequence[Setting], size: tuple[int, int]
) -> tuple[tuple[Setting, ...], dict[str, str]]:
    """Return the settings that can run here, and engine -> what it needs for the rest of the catalogue."""
    needs = missing_needs(bundle)
    fitting, unfit = split_by_plan(bundle, [one for one in settings if one.engine not in needs], size)
    if not fitting:
        require_all(bundle, settings, size)
    return fitting, needs | unfit


def measure(
    bundle: Bundle,
    groups: Sequence[Sequence[Setting]],
    plan: Plan,
    on_interrupt: Callable[[Measurement], object] = lambda _: None,
    progress: bool = False,
    label: str = "bench",
) -> Measurement:
    """Time groups of settings, and show how far it is.

    Raises:
        DeployError: Nothing could be measured; it is the error of the first engine.
    """
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(label, total=plan.rounds * plan.windows * sum(map(len, groups)))
        measurement = Measurement(bundle, groups, plan, partial(bar.advance, task))
        try:
            measurement.run()
        except (KeyboardInterrupt, SystemExit):
            bar.stop()
            on_interrupt(measurement)
            raise
    if not measurement.results:
        raise measurement.failures[0].error
    return measurement


def _report(
    measurement: Measurement,
    environment: dict[str, Any],
    interrupted: bool,
    *,
    baseline: str,
    unavailable: dict[str, str],
    required: bool,
) -> BenchReport:
    absent = {one.setting.engine: one.error for one in measurement.failures if not required and _is_absent(one)}
    return BenchReport(
        measurement.results,
        environment,
        baseline,
        tuple(one for one in measurement.failures if one.setting.engine not in absent),
        unavailable | {engine: str(error) for engine, error in absent.items()},
        interrupted,
    )


def _is_absent(failure: Failure) -> bool:
    """Return whether only opening an engine showed that it lacks something, such as instructions of the processor.

    Memory is not meant: an engine that ran out of it has failed.
    """
    lacking = isinstance(failure.error, MissingRequirement) and failure.error.remedy != REMEDY
    return lacking and not failure.opened
