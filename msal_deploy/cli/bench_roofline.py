"""``msal-deploy bench --roofline``."""

from collections.abc import Sequence
from pathlib import Path

from msal_deploy.errors import BadInput


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
    bundle: Path,
    engines: Sequence[str] | None,
    *,
    threads: Sequence[int],
    batch: Sequence[int],
    size: str,
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

    from msal_deploy.bench.inputs import image_sets
    from msal_deploy.bench.roofline_plot import save_roofline
    from msal_deploy.bench.roofline_run import measure_roofline
    from msal_deploy.bench.roofline_tables import roofline_tables
    from msal_deploy.bundle import Bundle
    from msal_deploy.cli.options import parse_size
    from msal_deploy.files import write_json
    from msal_deploy.runtimes import available_engines

    for name, values in (("--threads", threads), ("--batch", batch)):
        if len(values) > 1:
            raise BadInput(f"--roofline takes one {name}, got {', '.join(map(str, values))}", "leave out the others")
    check_plot(plot)
    opened, extent, count = Bundle(bundle), parse_size(size), next(iter(batch), 1)
    report = measure_roofline(
        opened,
        engines or available_engines(opened, timed=True),
        threads=next(iter(threads), None),
        batch=count,
        size=extent,
        images=image_sets(extent, count, folder=images) if images else (),
        seconds=seconds,
        windows=windows,
        progress=True,
    )
    if json:
        write_json(json, report.to_json())
    if plot:
        save_roofline(report, plot)
    Console(highlight=False).print(roofline_tables(report))
