"""The options of ``msal-deploy bench`` that put engines under load."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from msal_deploy.cli.options import finite
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from msal_deploy.bench.load_report import LoadReport
    from msal_deploy.bundle import Bundle

PANEL = "Under load"
SECONDS = 10.0  # of a load, unless --seconds is given: a time window of 3 s has too few requests for a p99

InFlight = Annotated[
    list[int] | None,
    typer.Option(
        "--in-flight",
        min=1,
        max=1024,
        rich_help_panel=PANEL,
        help="Closed loop: so many clients, each of which waits for its answer before it sends the next; repeatable.",
    ),
]
Rate = Annotated[
    list[float] | None,
    typer.Option(
        "--rate",
        min=0.001,
        max=1_000_000,
        rich_help_panel=PANEL,
        help="Open loop: so many requests per second, whatever the engine does; repeatable.",
    ),
]
P99Under = Annotated[
    str | None,
    typer.Option(
        "--p99-under",
        metavar="TIME",
        rich_help_panel=PANEL,
        help="Find the highest rate whose p99 stays under 20ms, 0.02s or 20 (ms). Takes minutes a setting.",
    ),
]
Arrivals = Annotated[
    Literal["poisson", "constant"],
    typer.Option("--arrivals", rich_help_panel=PANEL, help="When requests arrive in an open loop."),
]
UNITS = {"ms": 1.0, "s": 1000.0, "": 1.0}


def parse_milliseconds(text: str) -> float:
    """Return a time in ms.

    >>> parse_milliseconds("20ms"), parse_milliseconds("0.02s"), parse_milliseconds("20")
    (20.0, 20.0, 20.0)

    Raises:
        BadInput: `text` is not a positive time.
    """
    number = text.strip().lower()
    unit = next(unit for unit in UNITS if number.endswith(unit))
    try:
        value = float(number.removesuffix(unit)) * UNITS[unit]
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise BadInput(f"{text!r} is not a time", "use 20ms, 0.02s, or 20 for milliseconds")
    return value


class LoadOptions(NamedTuple):
    """The options that only a load test has; see `load_test`."""

    in_flight: tuple[int, ...]
    rates: tuple[float, ...]
    p99_under_ms: float | None
    spacing: Literal["poisson", "constant"]
    plot: Path | None


def parse_load(
    in_flight: Sequence[int] | None,
    rates: Sequence[float] | None,
    p99_under: str | None,
    arrivals: Literal["poisson", "constant"],
    plot: Path | None,
) -> LoadOptions | None:
    """Return the options of a load test; None if no load was asked for.

    Raises:
        BadInput: An option is not valid, or some of them exclude each other.
    """
    if not (in_flight or rates or p99_under is not None):
        return None
    limit = None if p99_under is None else parse_milliseconds(p99_under)
    if limit is not None and (in_flight or rates):
        raise BadInput("--p99-under cannot be combined with --in-flight or --rate", "leave out those or --p99-under")
    return LoadOptions(tuple(in_flight or ()), tuple(map(_finite, rates or ())), limit, arrivals, plot)


def _finite(rate: float) -> float:
    finite(rate)
    return rate


def bench_load(
    bundle: "Bundle",
    engines: Sequence[str],
    options: LoadOptions,
    *,
    batches: Sequence[int] | None,
    threads: Sequence[int] | None,
    streams: Sequence[int] | None,
    size: tuple[int, int],
    images: Path | None,
    seconds: float | None,
    json: Path | None,
) -> "LoadReport":
    """Run a load test, print its tables and what must be known about them, and write JSON and plot; return the report.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the test; what was measured is written.
    """
    from msal_deploy import bench as stage

    report = stage.load_test(
        bundle,
        engines,
        in_flight=options.in_flight,
        rates=options.rates,
        p99_under_ms=options.p99_under_ms,
        spacing=options.spacing,
        batches=batches or (1,),
        threads=threads or (None,),
        streams=streams or (1,),
        size=size,
        images=images,
        seconds=seconds or SECONDS,
        progress=True,
    )
    _write(report, json, options.plot)
    return report


def _write(report: "LoadReport", json: Path | None, plot: Path | None) -> None:
    from rich.console import Console

    from msal_deploy.bench.load_plot import plot_load
    from msal_deploy.files import write_json

    if json:
        write_json(json, report.to_json())
    console = Console()
    console.print(report.table())
    console.print(*report.messages(), sep="\n", highlight=False, soft_wrap=True, markup=False)
    if plot:
        plot_load(report, plot)
    if report.interrupted:
        raise KeyboardInterrupt
