"""Measure the overhead of Triton over the bare engine, for one request and for many clients.

Example: python benchmarks/hosts/overhead.py run bundle --precision int8 --json overhead.json
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from msal_deploy.cli.options import BundlePath
from msal_deploy.cli.terminal import command_line, run_command_line

app = command_line("Measure the overhead of Triton over the bare engine.")
TRANSPORTS = {
    "http, shared memory": ("http", True),
    "http": ("http", False),
    "grpc, shared memory": ("grpc", True),
    "grpc": ("grpc", False),
}


@app.command()
def run(
    bundle: BundlePath,
    precision: Annotated[str, typer.Option(help="Precision of the graph to serve with OpenVINO.")] = "int8",
    size: Annotated[
        list[int] | None, typer.Option(help="Side of the image in pixels; repeatable. Default: 64 and 512.")
    ] = None,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Number of parallel clients for the throughput.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.01, max=600, help="Length of a time window in seconds.")] = 5.0,
    windows: Annotated[int, typer.Option(min=2, max=100, help="Number of interleaved time windows.")] = 5,
    triton: Annotated[Path, typer.Option(help="The Python interpreter with nvidia-pytriton.")] = Path(
        ".venv-triton/bin/python"
    ),
    json: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file as JSON.")] = None,
) -> None:
    """Serve the bundle with a real Triton and time it and the bare engine in one run.

    Example: python benchmarks/hosts/overhead.py run bundle --precision int8 --json overhead.json
    """
    from rich.console import Console
    from served import served

    from msal_deploy.bench import describe_machine
    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json

    opened = Bundle(bundle)
    opened.file(f"model.{precision}.onnx")
    environment = describe_machine()
    results = []
    with served(opened, precision, triton) as ports:
        engines = {
            name: ports.engine(protocol, shared_memory=shares) for name, (protocol, shares) in TRANSPORTS.items()
        }
        for side in size or (64, 512):
            results.append(_measure(opened, f"openvino:{precision}", engines, side, clients, seconds, windows))
    for result in results:
        Console().print(_table(result, precision))
    if json:
        about = {"precision": precision, "triton": _triton_version(triton), "environment": environment}
        write_json(json, {**about, "results": results})


def _measure(
    bundle: Any, bare: str, engines: dict[str, str], side: int, clients: int, seconds: float, windows: int
) -> dict[str, Any]:
    """Return latencies of one client and throughputs of one and of many clients, as JSON types."""
    from contextlib import ExitStack
    from functools import partial

    from load import Load, throughputs

    from msal_deploy.bench import time_interleaved
    from msal_deploy.export import example_images
    from msal_deploy.runtimes import open_engine

    image = example_images(1, side, side)
    everything = {"bare engine": bare, **engines}
    with ExitStack() as stack:
        calls = [partial(stack.enter_context(open_engine(bundle, one)), image) for one in everything.values()]
        timings = time_interleaved(calls, seconds=seconds, windows=windows)
    median = timings[0].latency_ms["p50"]
    latency = [
        {"name": name, **timing.to_json(), "overhead_ms": timing.latency_ms["p50"] - median}
        for name, timing in zip(everything, timings, strict=True)
    ]
    loads = [
        Load("bare engine", 1, partial(open_engine, bundle, bare)),
        Load("bare engine", clients, partial(open_engine, bundle, bare), shared=True),
        *(Load(name, clients, partial(open_engine, bundle, one)) for name, one in engines.items()),
    ]
    measured = throughputs(loads, image, seconds=seconds, windows=windows)
    throughput = [
        {**one.to_json(), "of_the_bare_engine": one.images_per_s / measured[0].images_per_s} for one in measured
    ]
    return {"size": side, "latency": latency, "throughput": throughput}


def _table(result: dict[str, Any], precision: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"{precision}, one image of {result['size']} × {result['size']} px per request",
        caption="Overhead: median latency minus that of the bare engine. !: the windows vary by more than 2.5%.",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for column in ("p50 ms", "overhead ms", "clients", "images/s", "of bare", ""):
        table.add_column(column, justify="right", no_wrap=True)
    latency = {one["name"]: one for one in result["latency"]}
    for one in result["throughput"]:
        single = latency[one["name"]]
        stable = single["stable"] and one["coefficient_of_variation"] <= 0.025
        cells = (single["latency_ms"]["p50"], single["overhead_ms"], one["clients"], one["images_per_s"])
        texts = ("{:.2f}", "{:+.2f}", "{}", "{:.1f}")
        shown = [text.format(cell) for text, cell in zip(texts, cells, strict=True)]
        table.add_row(one["name"], *shown, f"{one['of_the_bare_engine']:.1%}", "" if stable else "[yellow]![/]")
    return table


def _triton_version(python: Path) -> str:
    """Return the version of the wheel that contains Triton."""
    import subprocess

    question = "from importlib.metadata import version; print('nvidia-pytriton', version('nvidia-pytriton'))"
    return subprocess.run([python, "-c", question], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Run the command line."""
    run_command_line(app)


if __name__ == "__main__":
    main()
