"""``msal-deploy bench --roofline``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from msal_deploy.bundle import Bundle


def check_plot(path: Path | None) -> None:
    """Check the file of the plot, before minutes of work.

    Raises:
        BadInput: Its format is not supported, or it cannot be written.
    """
    from msal_deploy.bench.roofline_plot import FORMATS
    from msal_deploy.files import output_file

    if path is None:
        return
    if path.suffix not in FORMATS:
        raise BadInput(f"{path.name} is not a supported image file", f"use the suffix {', '.join(FORMATS)}")
    output_file(path)


def bench_roofline(
    bundle: "Bundle",
    engines: Sequence[str],
    *,
    threads: Sequence[int],
    batch: Sequence[int],
    size: tuple[int, int],
    images: Path | None,
    seconds: float,
    windows: int,
    json: Path | None,
    plot: Path | None,
) -> None:
    """Measure the roofline, print its tables, and write the JSON and the plot.

    Raises:
        BadInput: An option is out of range, or there are several thread counts or batch sizes.
    """
    from rich.console import Console

    from msal_deploy.bench.roofline_plot import save_roofline
    from msal_deploy.bench.roofline_run import measure_roofline
    from msal_deploy.bench.roofline_tables import roofline_tables
    from msal_deploy.files import write_json

    for name, values in (("--threads", threads), ("--batch", batch)):
        if len(values) > 1:
            raise BadInput(f"--roofline takes one {name}, got {', '.join(map(str, values))}", "leave out the others")
    check_plot(plot)
    count = next(iter(batch), 1)
    report = measure_roofline(
        bundle,
        engines,
        threads=next(iter(threads), None),
        batch=count,
        size=size,
        images=images,
        seconds=seconds,
        windows=windows,
        progress=True,
    )
    if json:
        write_json(json, report.to_json())
    if plot:
        save_roofline(report, plot)
    Console(highlight=False).print(roofline_tables(report))
