"""Compare the nuclei that C++ separates with Python's, pixel by pixel, and the times of both.

Example: python benchmarks/hosts/labels.py run bundle --data monuseg --json labels.json
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, Any

import typer

from msal_deploy.cli.options import BundlePath
from msal_deploy.cli.terminal import command_line, run_command_line

app = command_line("Compare the nuclei that C++ separates with Python's.")
RESOLUTIONS = (0.25, 0.5, 1.0)  # µm/px that the maps are taken to have: the parameters are in µm
SYNTHETIC = 600


class Separation(ctypes.Structure):
    """``msal_deploy_separation`` of the C API."""

    _fields_ = (
        *(("struct_size", ctypes.c_uint64), ("microns_per_pixel", ctypes.c_double)),
        *((name, ctypes.c_double) for name in ("min_area", "max_hole", "smoothing", "saddle")),
        *(("levels", ctypes.c_void_p), ("level_count", ctypes.c_uint64)),
        *(("threshold", ctypes.c_float), ("reserved", ctypes.c_int32)),
    )


@app.command()
def run(
    bundle: BundlePath,
    data: Annotated[
        Path, typer.Option("--data", help="A MoNuSeg folder or zip file; its test images are used.", show_default=False)
    ],
    engine: Annotated[
        list[str] | None, typer.Option(help="Engine of the maps; repeatable. Default: openvino:int8.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file as JSON.")] = None,
) -> None:
    """Separate the nuclei of synthetic maps and of a data set's images in Python and in C++.

    Example: python benchmarks/hosts/labels.py run bundle --data monuseg --json labels.json
    """
    from cpp import CppIntegration

    from msal_deploy.bench import describe_machine
    from msal_deploy.bundle import Bundle
    from msal_deploy.files import write_json

    opened = Bundle(bundle)
    engines = engine or ["openvino:int8"]
    with TemporaryDirectory(prefix="msal-deploy-") as folder:
        package = CppIntegration(opened, "fp32", Path(folder) / "cpp", program="msal_deploy").package
        library = ctypes.CDLL(str(package / "build" / "libmsal_deploy.so"))
        results = {"synthetic": _compare(library, _synthetic())}
        for one in engines:
            results[one] = _compare(library, _maps(opened, one, data))
    for name, result in results.items():
        typer.echo(f"{name}: {result['maps']} maps, {result['different_pixels']} different pixels, {result['time']}")
    if json:
        write_json(json, {"environment": describe_machine(), "results": results})


def _synthetic() -> Iterator[tuple[Any, float]]:
    """Yield smooth noise with plateaus, of random sizes and densities, and a resolution for each."""
    import cv2
    import numpy as np

    random = np.random.default_rng(0)
    for index in range(SYNTHETIC):
        height, width = random.integers(1, 200, 2)
        noise = cv2.GaussianBlur(random.normal(size=(height, width)).astype(np.float32), (0, 0), random.uniform(1, 6))
        scaled = noise / (noise.std() or 1) * random.uniform(1, 8) + random.normal()
        yield (1 / (1 + np.exp(-scaled))).astype(np.float32), RESOLUTIONS[index % len(RESOLUTIONS)]


def _maps(bundle: Any, engine: str, data: Path) -> Iterator[tuple[Any, float]]:
    from msal_deploy.data import open_dataset
    from msal_deploy.runtimes import open_engine

    with open_dataset(data) as dataset, open_engine(bundle, engine) as opened:
        for annotated in dataset.test:
            probability = opened.segment(annotated.image())
            yield from ((probability, resolution) for resolution in RESOLUTIONS)


def _compare(library: Any, maps: Iterator[tuple[Any, float]]) -> dict[str, Any]:
    from statistics import median

    import numpy as np

    from msal_deploy.instances import separate

    different, nuclei, ratios = 0, 0, []
    for probability, resolution in maps:
        start = perf_counter()
        expected = separate(probability, microns_per_pixel=resolution)
        middle = perf_counter()
        found = _separate(library, probability, resolution)
        ratios.append((perf_counter() - middle) / (middle - start))
        different += int(np.count_nonzero(found != expected))
        nuclei += int(expected.max())
    time = f"C++ takes {median(ratios):.2f} of Python's time (median of {len(ratios)})"
    return {"maps": len(ratios), "nuclei": nuclei, "different_pixels": different, "ratios": ratios, "time": time}


def _separate(library: Any, probability: Any, resolution: float) -> Any:
    """Call ``msal_deploy_labels``."""
    import numpy as np

    separation, labels = Separation(), np.empty(probability.shape, np.int32)
    library.msal_deploy_separation_init(ctypes.byref(separation), ctypes.c_uint64(ctypes.sizeof(separation)))
    separation.microns_per_pixel = resolution
    pixels, height, width = (ctypes.c_void_p(probability.ctypes.data), *map(ctypes.c_uint64, probability.shape))
    out = ctypes.c_void_p(labels.ctypes.data)
    code = library.msal_deploy_labels(pixels, height, width, ctypes.byref(separation), out, None, None)
    if code:
        raise RuntimeError(f"msal_deploy_labels returned {code}")
    return labels


if __name__ == "__main__":
    run_command_line(app)
