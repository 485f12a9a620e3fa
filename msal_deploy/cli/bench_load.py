"""The options of ``msal-deploy bench`` that put engines under load."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from msal_deploy.cli.options import finite, output
from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from msal_deploy.bench.load_report import LoadReport

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
        help="Find the highest rate whose p99 stays under 20ms, 0.02s or 20 (ms). Takes about two minutes a setting.",
    ),
]
Arrivals = Annotated[
    Literal["poisson", "constant"],
    typer.Option("--arrivals", rich_help_panel=PANEL, help="When requests arrive in an open loop."),
]
LoadPlot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        rich_help_panel=PANEL,
        callback=output,
        help="Draw latency over throughput into this .png, .svg or .pdf file.",
    ),
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


def is_given(context: typer.Context, name: str) -> bool:
    """Return whether the user gave a value for a parameter, rather than having its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def bench_load(
    bundle: Path,
    engines: Sequence[str] | None,
    *,
    in_flight: Sequence[int] | None,
    rates: Sequence[float] | None,
    p99_under: str | None,
    arrivals: Literal["poisson", "constant"],
    batches: Sequence[int] | None,
    threads: Sequence[int] | None,
    streams: Sequence[int] | None,
    size: tuple[int, int],
    seconds: float | None,
    json: Path | None,
    plot: Path | None,
) -> None:
    """Run the load options of ``bench``: print the tables and what must be known about them, write JSON and plot."""
    from msal_deploy.bench.load import load
    from msal_deploy.bench.load_plot import check_plot_file
    from msal_deploy.bundle import Bundle
    from msal_deploy.runtimes import available_engines

    limit = None if p99_under is None else parse_milliseconds(p99_under)
    if limit is not None and (in_flight or rates):
        raise BadInput("--p99-under cannot be combined with --in-flight or --rate", "leave out those or --p99-under")
    if plot:
        check_plot_file(plot)
    opened = Bundle(bundle)
    report = load(
        opened,
        engines or available_engines(opened, timed=True),
        in_flight=in_flight or (),
        rates=[rate for rate in rates or () if finite(rate)],
        p99_under_ms=limit,
        spacing=arrivals,
        batches=batches or (1,),
        threads=threads or (None,),
        streams=streams or (1,),
        size=size,
        seconds=seconds or SECONDS,
        progress=True,
    )
    _write(report, json, plot)


def _write(report: "LoadReport", json: Path | None, plot: Path | None) -> None:
    """Write and print the report, then fail if an engine did or Ctrl-C was pressed."""
    from rich.console import Console

    from msal_deploy.bench.load_plot import plot_load
    from msal_deploy.files import write_json

    measured = bool(report.results or report.searches)
    if json and (measured or report.failed):
        write_json(json, report.to_json())
    console = Console()
    if measured:
        console.print(report.table())
    console.print(*report.messages(), sep="\n", highlight=False, soft_wrap=True, markup=False)
    if plot and measured and not report.interrupted:
        plot_load(report, plot)
    if report.interrupted:
        raise typer.Exit(130)
    if report.failed:
        raise typer.Exit(report.failed[0].exit_code)
