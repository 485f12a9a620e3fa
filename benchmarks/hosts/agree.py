"""Compare the integrations: Python, C++ and a real Triton on golden tiles and MoNuSeg, and the latency of C++.

Example: python benchmarks/hosts/agree.py run bundle --data monuseg --json agree.json
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from msal_deploy.cli.options import BundlePath
from msal_deploy.cli.terminal import command_line, run_command_line

app = command_line("Compare the results and latencies of Python, C++ and Triton.")
CALLS = 40  # per window of the latency measurement
PATCHES_PER_CALL = 8


@app.command()
def run(
    bundle: BundlePath,
    data: Annotated[
        Path, typer.Option("--data", help="A MoNuSeg folder or zip file; its test images are used.", show_default=False)
    ],
    precision: Annotated[
        list[str] | None, typer.Option(help="Precision of the graph; repeatable. Default: fp32 and int8.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the timed image in pixels.")] = 512,
    windows: Annotated[
        int, typer.Option(min=5, help="Number of time windows; Python and C++ are timed interleaved.")
    ] = 11,
    triton: Annotated[Path, typer.Option(help="The Python interpreter with nvidia-pytriton.")] = Path(
        ".venv-triton/bin/python"
    ),
    json: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file as JSON.")] = None,
) -> None:
    """Run the bundle in Python, C++ and Triton, all through OpenVINO, and compare their results.

    Example: python benchmarks/hosts/agree.py run bundle --data monuseg --json agree.json
    """
    from rich.console import Console

    from msal_deploy.bench import describe_machine
    from msal_deploy.bundle import Bundle
    from msal_deploy.data import open_dataset, patches_of
    from msal_deploy.files import write_json

    opened, console = Bundle(bundle), Console(highlight=False)
    with open_dataset(data) as dataset:
        patches = patches_of(dataset.test)
    results = []
    for one in precision or ("fp32", "int8"):
        opened.file(f"model.{one}.onnx")
        results.append(_compare(opened, one, patches, size, windows, triton))
        console.print(_table(results[-1]), _message(results[-1]["latency"]), sep="\n")
    if json:
        write_json(json, {"patches": len(patches), "environment": describe_machine(), "precisions": results})


def _compare(bundle: Any, precision: str, patches: Any, size: int, windows: int, triton: Path) -> dict[str, Any]:
    from cpp import CppIntegration
    from served import served

    from msal_deploy.runtimes import open_engine

    with TemporaryDirectory(prefix="msal-deploy-") as folder, ExitStack() as stack:
        python = stack.enter_context(open_engine(bundle, f"openvino:{precision}"))
        cpp = CppIntegration(bundle, precision, Path(folder) / "cpp")
        latency = _latency(bundle, precision, cpp, size, windows)
        ports = stack.enter_context(served(bundle, precision, triton))
        by_triton = stack.enter_context(open_engine(bundle, ports.engine("grpc")))
        integrations = {"python": python, "cpp": cpp, "triton": by_triton}
        scores = _scores(bundle, integrations, patches, _golden(cpp.package, integrations, precision))
    return {"precision": precision, "hosts": scores, "latency": latency}


def _golden(package: Path, integrations: dict[str, Any], precision: str) -> dict[str, dict[str, Any]]:
    """Compare each integration with the golden tiles. Return the differences, and whether they are within tolerance."""
    import numpy as np

    from msal_deploy.package import check_golden

    images, results = np.load(package / "golden" / "image.npy"), package / "results"
    results.mkdir()
    comparisons = {}
    for name, integration in integrations.items():
        np.save(results / f"{name}.npy", integration(images))
        measured, passed = check_golden.compare(package / "golden", [results / f"{name}.npy"], precision)
        comparisons[name] = {"golden": measured, "golden_passed": passed}
    return comparisons


def _scores(
    bundle: Any, integrations: dict[str, Any], patches: Any, results: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Add the score of each integration on the patches, compared with the first integration."""
    import numpy as np

    from msal_deploy.scoring import score_pixels

    images = np.stack([patch.image for patch in patches])
    parts = [images[start : start + PATCHES_PER_CALL] for start in range(0, len(images), PATCHES_PER_CALL)]
    first = None
    for name, integration in integrations.items():
        probability = np.concatenate([integration(part)[:, 0] for part in parts])
        first = probability if first is None else first
        score = score_pixels(patches, probability, first, bundle.spec.threshold).to_json()
        kept = ("pixel_dice_mean", "pixel_iou_mean", "max_abs_delta_probability", "flipped_pixels")
        results[name] |= {key: score[key] for key in kept} | {"bit_exact": bool(np.array_equal(probability, first))}
    return results


def _latency(bundle: Any, precision: str, cpp: Any, size: int, windows: int) -> dict[str, Any]:
    """Time C++ and Python interleaved, and return the medians in ms and their ratio."""
    from statistics import median

    from msal_deploy.bench import median_interval
    from msal_deploy.export import example_images
    from msal_deploy.hardware import available_cores
    from msal_deploy.runtimes import open_engine

    image, threads = example_images(1, size, size), available_cores()
    times: dict[str, list[float]] = {"python": [], "cpp": []}
    with open_engine(bundle, f"openvino:{precision}", threads=threads) as engine:
        for _ in range(windows):
            times["cpp"].append(cpp.p50(image, CALLS, threads))
            times["python"].append(_p50(lambda: engine(image)))
    ratios = [a / b for a, b in zip(times["cpp"], times["python"], strict=True)]
    return {
        "size": size,
        "threads": threads,
        "calls_per_window": CALLS,
        "window_p50_ms": times,
        "p50_ms": {name: median(medians) for name, medians in times.items()},
        "cpp_over_python": median(ratios),
        "interval": list(median_interval(ratios)),
    }


def _p50(call: Callable[[], object]) -> float:
    """Return the median of a window in ms, after the same warm-up as in `msal-segment --bench`."""
    from statistics import median
    from time import perf_counter

    times = []
    for _ in range(5 + CALLS):
        start = perf_counter()
        call()
        times.append(1000 * (perf_counter() - start))
    return median(times[5:])


def _table(result: dict[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"{result['precision']}: golden tiles, and MoNuSeg test patches compared with Python",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for column in ("golden |Δp|", "", "Dice", "IoU", "|Δp|", "flipped", "bits"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in result["hosts"].items():
        table.add_row(
            name,
            f"{one['golden']['largest']:.1e}",
            "[green]✓[/]" if one["golden_passed"] else "[red]✗[/]",
            f"{one['pixel_dice_mean']:.4f}",
            f"{one['pixel_iou_mean']:.4f}",
            f"{one['max_abs_delta_probability']:.1e}",
            f"{one['flipped_pixels']:.4%}",
            "same" if one["bit_exact"] else "differ",
        )
    return table


def _message(latency: dict[str, Any]) -> str:
    low, high = latency["interval"]
    ms = latency["p50_ms"]
    return (
        f"C++ {ms['cpp']:.1f} ms, Python {ms['python']:.1f} ms for one image of {latency['size']} px: C++ differs by "
        f"{latency['cpp_over_python'] - 1:+.1%} (about 95%: {low - 1:+.1%} to {high - 1:+.1%})"
    )


def main() -> None:
    """Run the command line."""
    run_command_line(app)


if __name__ == "__main__":
    main()
