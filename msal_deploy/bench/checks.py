"""Check the options of bench, and list the settings that they mean, before anything slow."""

import math
from collections.abc import Iterable, Sequence
from itertools import product

from msal_deploy.bench.measure import Plan
from msal_deploy.bench.results import Setting
from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.hardware import available_cores
from msal_deploy.runtimes import check_plan_shape, open_engine, require
from msal_deploy.spec import Axis, ModelSpec, check_extent


def check_options(spec: ModelSpec, engine_ids: Sequence[str], batches: Sequence[int], plan: Plan) -> None:
    """Raise `BadInput` unless all options are valid."""
    check_values("engine", engine_ids)
    check_values("batch size", batches)
    if not 0 < plan.seconds < math.inf:
        raise BadInput(f"A time window of {plan.seconds:g} s is not possible", "give a positive number of seconds")
    if plan.windows < 1 or plan.rounds < 1:
        raise BadInput(f"Expected at least 1 window and 1 round, got {plan.windows} and {plan.rounds}", "give more")
    if plan.windows * plan.rounds < 2:
        raise BadInput("Expected at least 2 time windows, got 1", "give more, so that the stability can be judged")
    for batch in batches:
        for axis, extent in zip(spec.image.axes, (batch, *plan.size), strict=False):
            if isinstance(axis, Axis):
                check_extent(axis, extent)


def check_values(name: str, values: Sequence[object]) -> None:
    """Raise `BadInput` if there are no values, or one of them is listed twice."""
    if not values:
        raise BadInput(f"Expected at least one {name}, got none", "give one or more")
    if len(set(values)) < len(values):
        raise BadInput(f"Expected each {name} only once, got {', '.join(map(str, values))}", "remove the repetitions")


def valid_settings(
    bundle: Bundle,
    engine_ids: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int | None],
    streams: Sequence[int],
) -> tuple[Setting, ...]:
    """Return the valid settings in the order of the report. An unknown engine or a bad number is an error."""
    check_values("thread count", threads)
    check_values("stream count", streams)
    ways = [way for engine in engine_ids for way in _ways(bundle, engine, threads, streams)]
    return tuple(
        Setting(engine=engine, batch=batch, threads=thread_count, streams=stream_count)
        for batch in batches
        for engine, thread_count, stream_count in ways
    )


def _ways(
    bundle: Bundle, engine_id: str, threads: Sequence[int | None], streams: Sequence[int]
) -> list[tuple[str, int | None, int]]:
    """Return the valid combinations of engine, threads and streams.

    The engines are only constructed, which checks their options; no graph is loaded.
    """
    if not supports_streams(bundle, engine_id):
        streams = (1,)
    ways = [(engine_id, count, n) for count, n in product(threads, streams) if n <= (count or available_cores())]
    if not ways:
        raise BadInput(
            f"Expected at least one thread per stream, got {min(streams)} streams with fewer threads",
            "use fewer streams or more threads",
        )
    for _, count, n in ways:
        open_engine(bundle, engine_id, threads=count, streams=n)
    return ways


def supports_streams(bundle: Bundle, engine_id: str) -> bool:
    """Return whether the engine can compute images of a batch in parallel."""
    return open_engine(bundle, engine_id).has_streams


def require_all(bundle: Bundle, settings: Iterable[Setting], size: tuple[int, int]) -> None:
    """Raise an error if an engine lacks what it needs, or its plan does not accept the images.

    Raises:
        BadInput: The bundle has no graph or plan for it, or the plan's profile has no room for the batch.
        MissingRequirement: This machine lacks a GPU or a package.
    """
    for setting in settings:
        require(bundle, setting.engine)
        check_plan_shape(bundle, setting.engine, (setting.batch, *size))


def split_by_plan(
    bundle: Bundle, settings: Iterable[Setting], size: tuple[int, int]
) -> tuple[tuple[Setting, ...], dict[str, str]]:
    """Return the settings whose plans accept the images, and engine -> why not for the others."""
    fitting: list[Setting] = []
    needs: dict[str, str] = {}
    for setting in settings:
        try:
            check_plan_shape(bundle, setting.engine, (setting.batch, *size))
            fitting.append(setting)
        except BadInput as error:
            needs[setting.engine] = str(error)
    return tuple(fitting), needs
