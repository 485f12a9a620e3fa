"""Compare C++ with Python on images of any size and layout: bits, time, and compilations.

Example: python benchmarks/hosts/any_size.py run bundle --json any-size.json
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from msal_deploy.cli.options import BundlePath
from msal_deploy.cli.terminal import command_line, run_command_line

app = command_line("Compare C++ with Python on images of any size and layout.")
SIZES = ((33, 31), (1000, 777), (1000, 1000), (5000, 5000))
LAYOUTS = (("rgb", 0), ("rgb", 40), ("bgr", 0), ("bgra", 40))  # order of the bytes, and bytes between two rows
TIMED = ((512, 512), (1000, 1000))
IN_TURN = ((256, 256), (320, 200), (400, 512), (512, 512))  # each has tiles of its own size


@app.command()
def run(
    bundle: BundlePath,
    engine: Annotated[
        list[str] | None, typer.Option(help="Engine; repeatable. Default: openvino:fp32 and openvino:int8.")
    ] = None,
    largest: Annotated[
        int, typer.Option(min=32, help="Largest side of an image in pixels; larger ones are left out.")
    ] = 5000,
    pairs: Annotated[int, typer.Option(min=5, help="Number of pairs of calls, one in Python and one in C++.")] = 31,
    cmake: Annotated[
        list[str] | None, typer.Option(help="Option for CMake, such as -Donnxruntime_ROOT=FOLDER; repeatable.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file as JSON.")] = None,
) -> None:
    """Segment the same images in Python and in C++, whose calls take turns, and compare bits and times.

    Example: python benchmarks/hosts/any_size.py run bundle --json any-size.json
    """
    from rich.console import Console

    from msal_deploy.bench import describe_machine
    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json

    opened, environment, results = Bundle(bundle), describe_machine(), []
    for one in engine or ("openvino:fp32", "openvino:int8"):
        results.append(_compare(opened, one, largest, pairs, cmake or []))
        Console(highlight=False).print(*_lines(results[-1]), sep="\n", soft_wrap=True)
    if json:
        write_json(json, {"environment": environment, "engines": results})


def _compare(bundle: Any, engine: str, largest: int, pairs: int, cmake: list[str]) -> dict[str, Any]:
    from cpp import CppIntegration

    from msal_deploy.hardware import available_cores
    from msal_deploy.runtimes import open_engine

    threads, (backend, precision) = available_cores(), engine.split(":")
    with TemporaryDirectory(prefix="msal-deploy-") as folder:
        package = CppIntegration(bundle, precision, Path(folder) / "cpp", "raw", cmake)
        with open_engine(bundle, engine, threads=threads) as python:
            with package.raw(backend, threads) as cpp:
                in_turn = _in_turn(cpp)
            with package.raw(backend, threads) as cpp:
                images = [_bits(python, cpp, size) for size in SIZES if max(size) <= largest]
                times = [_times(python, cpp, size, pairs) for size in TIMED if max(size) <= largest]
    return {"engine": engine, "threads": threads, "images": images, "times": times, "in_turn": in_turn}


def _bits(python: Any, cpp: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return whether C++ computes the bits of Python from each layout of an image."""
    import numpy as np

    from msal_deploy.runtimes.tiling import segment

    image = _image(size)
    expected = segment(python, image)
    same = {}
    for order, gap in LAYOUTS if max(size) <= 1000 else LAYOUTS[::2]:
        found = cpp(image, order, gap).probability
        same[f"{order}, {gap} bytes between rows"] = bool(np.array_equal(found, expected))
    return {"height": size[0], "width": size[1], "bit_exact": same, "distinct_values": len(np.unique(expected))}


def _times(python: Any, cpp: Any, size: tuple[int, int], pairs: int) -> dict[str, Any]:
    """Time pairs of calls, of which each side begins every other one, and return the median of their ratios."""
    from statistics import median
    from time import perf_counter

    from msal_deploy.bench import median_interval
    from msal_deploy.runtimes.tiling import segment

    image = _image(size)

    def python_ms() -> float:
        start = perf_counter()
        segment(python, image)
        return 1000 * (perf_counter() - start)

    calls = {"python": python_ms, "cpp": lambda: cpp(image).ms}
    times: dict[str, list[float]] = {"python": [], "cpp": []}
    for pair in range(-1, pairs):  # the first pair is the warm-up
        for name in sorted(calls, reverse=pair % 2 == 1):
            ms = calls[name]()
            if pair >= 0:
                times[name].append(ms)
    ratios = [a / b for a, b in zip(times["cpp"], times["python"], strict=True)]
    return {
        "height": size[0],
        "width": size[1],
        "ms": times,
        "p50_ms": {name: median(values) for name, values in times.items()},
        "cpp_over_python": median(ratios),
        "interval": list(median_interval(ratios)),
    }


def _in_turn(cpp: Any) -> dict[str, Any]:
    """Segment four images of different sizes in turn, twice, in C++."""
    rounds = [[cpp(_image(size)) for size in IN_TURN] for _ in range(2)]
    return {
        "sizes": [list(size) for size in IN_TURN],
        "compilations": [done[-1].compilations for done in rounds],
        "ms": [[one.ms for one in done] for done in rounds],
    }


def _image(size: tuple[int, int]) -> Any:
    from msal_deploy.export import example_images

    return example_images(1, *size)[0]


def _lines(result: dict[str, Any]) -> list[str]:
    """Return what to print about an engine."""
    lines = [result["engine"]]
    for one in result["images"]:
        differ = [layout for layout, same in one["bit_exact"].items() if not same]
        said = f"differs from Python: {differ}" if differ else f"Python's bits in {len(one['bit_exact'])} layouts"
        lines.append(f"  {one['height']} × {one['width']} px: {said}")
    for one in result["times"]:
        (low, high), ms = one["interval"], one["p50_ms"]
        lines.append(
            f"  {one['height']} × {one['width']} px: C++ {ms['cpp']:.1f} ms, Python {ms['python']:.1f} ms, ratio "
            f"{one['cpp_over_python']:.3f} (about 95%: {low:.3f} to {high:.3f})"
        )
    first, second = result["in_turn"]["compilations"]
    return [*lines, f"  four sizes in turn: {first} compilations, then {second - first}"]


def main() -> None:
    """Run the command line."""
    run_command_line(app)


if __name__ == "__main__":
    main()
