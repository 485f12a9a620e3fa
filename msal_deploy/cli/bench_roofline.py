"""``msal-deploy bench --roofline``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msal_deploy.errors import BadInput

if TYPE_CHECKING:
    from msal_deploy.bundle import Bundle


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
