"""How predict scales, and what seams and kills change; for its stages: msal-deploy bench BUNDLE --predict IMAGE.

python benchmarks/predict/predict.py scale BUNDLE --json FILE
python benchmarks/predict/predict.py images BUNDLE --json FILE
python benchmarks/predict/predict.py seams BUNDLE monuseg --json FILE
python benchmarks/predict/predict.py kills BUNDLE IMAGE --json FILE
python benchmarks/predict/predict.py workers BUNDLE SLIDE --json FILE
python benchmarks/predict/predict.py pyramid FILE --side 10000
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tifffile
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from msal_deploy import Bundle, Engine, open_dataset, open_engine
from msal_deploy.bench import describe_machine
from msal_deploy.cli.terminal import command_line
from msal_deploy.data import AnnotatedImage
from msal_deploy.files import write_json
from msal_deploy.hardware import available_cores
from msal_deploy.instances import separate
from msal_deploy.metrics import count_nuclei
from msal_deploy.metrics.nuclei import aji, panoptic_quality
from msal_deploy.prediction import predict
from msal_deploy.prediction.grid import Grid, choose_tile
from msal_deploy.prediction.record import find_slides

app = command_line("Measure predict.")
Json = Annotated[Path | None, typer.Option("--json")]
ENGINE = "openvino:int8"
ERR = Console(stderr=True)


@app.command("scale")
def scale(bundle: Path, side: list[int] | None = None, json: Json = None) -> None:
    """Measure time and peak memory of synthetic pyramidal slides of 2,752, 4,992 and 9,920 px, or of each --side.

    Tiles of 512 px that share 64 px cover these sides without a remainder. Others take more tiles than their pixels
    say, small ones most: 5,000 px 144, 20,000 px 2,025, which is 14 times as many for 16 times the pixels.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        start = _seconds_of_start(bundle, Path(folder), ".tif")
        for extent in side or (2752, 4992, 9920):
            path = Path(folder) / f"{extent}.tif"
            with ProcessPoolExecutor(1, get_context("spawn")) as other:  # its memory would count as predict's
                other.submit(_write_pyramid, path, extent).result()
            rows.append(_row(extent, 1, _measured(bundle, [path], Path(folder) / f"out-{extent}"), start, 512))
            path.unlink()
    _end({"sizes": rows, "start_s": start, **_exponents(rows)}, json)


@app.command("images")
def images(bundle: Path, side: list[int] | None = None, json: Json = None) -> None:
    """Measure time and peak memory of plain PNG images of 1,000, 2,000 and 4,000 px, 16, 4 and 1 in a call."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        start = _seconds_of_start(bundle, Path(folder), ".png")
        for extent in side or (1000, 2000, 4000):
            paths = [Path(folder) / f"{extent}-{seed}.png" for seed in range(min(max(1, (4000 // extent) ** 2), 16))]
            for seed, path in enumerate(paths):
                Image.fromarray(_tissue(extent, seed)).save(path)
            measured = _measured(bundle, paths, Path(folder) / f"out-{extent}", "--format", "geojson")
            rows.append(_row(extent, len(paths), measured, start, choose_tile((extent, extent))))
    _end({"sizes": rows, "start_s": start, **_exponents(rows)}, json)


def _seconds_of_start(bundle: Path, folder: Path, suffix: str) -> float:
    """Return the seconds of the command line for one tile: Python, the engine's compilation, the page."""
    small = folder / f"small{suffix}"
    if suffix == ".tif":
        _write_pyramid(small, 512)
    else:
        Image.fromarray(_tissue(512, 0)).save(small)
    # The first run also reads the libraries from the disk.
    return min(_measured(bundle, [small], folder / f"small-{index}")["seconds"] for index in range(3))


def _row(side: int, count: int, measured: dict[str, float], start: float, tile: int) -> dict[str, float]:
    grid = Grid((side, side), tile)
    computed = len(grid.rows) * grid.side[0] * len(grid.columns) * grid.side[1]
    each = (measured["seconds"] - start) / count
    row = {"side": side, "images": count, **measured, "seconds_each_without_start": each, "computed_pixels": computed}
    ERR.print(row)
    return row


def _exponents(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the exponents of the time without the start, in an image's pixels and in those of its tiles."""
    if any(row["seconds_each_without_start"] <= 0 for row in rows):
        raise SystemExit("The start took longer than an image: run this on a quiet machine, or with larger images")
    seconds = np.log([row["seconds_each_without_start"] for row in rows])
    pixels = {"pixels": [row["side"] ** 2 for row in rows], "computed_pixels": [row["computed_pixels"] for row in rows]}
    return {f"exponent_of_{name}": float(np.polyfit(np.log(values), seconds, 1)[0]) for name, values in pixels.items()}


@app.command("pyramid")
def pyramid(path: Path, side: int = 10000) -> None:
    """Write a synthetic slide for the other commands: 0.25 µm/px, tissue everywhere."""
    _write_pyramid(path, side)


def _tissue(side: int, seed: int) -> NDArray[np.uint8]:
    """Return uint8[side,side,3]: synthetic tissue of 1,024 px, repeated."""
    from msal_deploy.data.tissue import draw_tissue

    image, _ = draw_tissue(np.random.default_rng(seed), 1024)
    repeats = -(-side // 1024)
    return np.tile(image, (repeats, repeats, 1))[:side, :side]


def _write_pyramid(path: Path, side: int) -> None:
    """Write a tiled JPEG pyramid of `_tissue`."""
    whole = _tissue(side, 0)
    options = {"tile": (256, 256), "compression": "jpeg", "photometric": "rgb", "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(whole, subifds=2, resolution=(40000, 40000), **options)
        for factor in (4, 16):
            tiff.write(whole[::factor, ::factor], subfiletype=1, resolution=(40000 / factor,) * 2, **options)


def _command(bundle: Path, images: Sequence[Path], out: Path, *options: str) -> list[str]:
    """Return the command line of predict; a later `-e` replaces the engine."""
    program = [sys.executable, "-m", "msal_deploy", "predict", *map(str, images)]
    return [*program, "-b", str(bundle), "-e", ENGINE, "-o", str(out), *options]


def _measured(bundle: Path, images: Sequence[Path], out: Path, *options: str) -> dict[str, float]:
    """Run the command line; return its seconds and its peak memory in MB."""
    began = time.perf_counter()
    process = subprocess.Popen(_command(bundle, images, out, *options))
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"predict ended with {os.waitstatus_to_exitcode(status)}")
    return {"seconds": time.perf_counter() - began, "peak_mb": usage.ru_maxrss / 1024}


@app.command("seams")
def seams(bundle: Path, data: str, training: int = 0, json: Json = None) -> None:
    """Score the test images in tiles of 256, 512 and 1,024 px and of the default against one pass over each image.

    --training N takes N training images instead, to choose by.
    """
    rows: dict[str, dict[str, float]] = {}
    with open_dataset(data) as dataset, open_engine(Bundle(bundle), ENGINE) as engine:
        images = list(dataset.train)[:training] if training else list(dataset.test)
        passes = _one_pass(images, engine)
        for tile in (256, 512, 1024, None):
            counts, ajis, qualities = [], [], []
            for image in track(images, f"tiles of {tile or 'the default'}", console=ERR):
                nuclei = predict(image.image(), bundle=Bundle(bundle), engine=engine.id, tile=tile, mpp=0.25)
                scored = count_nuclei(image.instances(), nuclei.labels)
                counts.append(len(nuclei))
                ajis.append(aji(scored))
                qualities.append(panoptic_quality(scored))
            mean = {"nuclei": np.mean(counts), "aji": np.mean(ajis), "pq": np.mean(qualities)}
            rows[str(tile or "default")] = {name: float(value) for name, value in mean.items()}
    _end({"images": len(images), "tiles": rows, "one_pass": passes}, json)


def _one_pass(images: Sequence[AnnotatedImage], engine: Engine) -> dict[str, float]:
    """Score the nuclei of each image in one call of the engine, without any tile."""
    rows = []
    for image in images:
        labels = separate(engine.segment(image.image(), tile=1024))
        scored = count_nuclei(image.instances(), labels)
        rows.append((labels.max(), aji(scored), panoptic_quality(scored)))
    return dict(zip(("nuclei", "aji", "pq"), np.mean(rows, axis=0).tolist(), strict=True))


@app.command("kills")
def kills(bundle: Path, image: Path, times: int = 20, seed: int = 0, json: Json = None) -> None:
    """Kill runs at random moments, resume them, and compare every output with that of a run in one go."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        seconds = _measured(bundle, [image], Path(folder) / "whole", *FORMATS)["seconds"]
        expected = _hashes(Path(folder) / "whole")
        killed, rounds, same = 0, 0, True
        while killed < times:
            rounds += 1
            out = Path(folder) / f"round-{rounds}"
            while not _survives(_command(bundle, [image], out, *FORMATS), chance.uniform(0.1, 0.6) * seconds):
                killed += 1
            same &= _hashes(out) == expected
    _end({"kills": killed, "rounds": rounds, "files": len(expected), "identical": same}, json)


def _survives(command: list[str], limit: float) -> bool:
    """Run a command; kill it after `limit` seconds. Return whether it ended before."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return False
    return True


FORMATS = ("--format", "geojson,geojson.gz,parquet,tiff,png")


def _hashes(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every result; the run record and the page contain times."""
    files = [path for path in sorted(out.glob("*/**/*")) if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@app.command("workers")
def workers(
    bundle: Path,
    image: Path,
    count: list[int] | None = None,
    engine: str = ENGINE,
    batch: int = 1,
    json: Json = None,
) -> None:
    """Compare one process with 1 and 2 Dask workers, or each --count, that share all cores: result and throughput."""
    rows, hashes = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for number in (0, *(count or (1, 2))):
            threads = str(max(available_cores() // max(number, 1), 1))
            options = ("--workers", str(number), "--threads", threads) if number else ()
            name, out = f"{number} workers" if number else "one process", Path(folder) / str(number)
            rows[name] = _measured(bundle, [image], out, *FORMATS, "-e", engine, "--batch", str(batch), *options)
            hashes.append(_hashes(out))
            (record,) = (slide.record() for slide in find_slides(out))
            rows[name] |= {"seconds_per_mm2": rows[name]["seconds"] / record.tissue_mm2}
    same = all(one == hashes[0] for one in hashes)
    _end({"engine": engine, "batch": batch, "runs": rows, "identical": same}, json)


def _end(result: dict[str, Any], json: Path | None) -> None:
    """Print the result, and write it with the machine on which it was measured."""
    Console().print(result)
    result["environment"] = describe_machine()
    if json:
        write_json(json, result)


if __name__ == "__main__":
    app()
