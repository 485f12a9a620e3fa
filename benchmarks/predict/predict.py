"""What predict costs beyond its engine, how it scales, and what seams and kills change.

python benchmarks/predict/predict.py slide BUNDLE SLIDE --json FILE --plot FILE
python benchmarks/predict/predict.py scale BUNDLE --json FILE
python benchmarks/predict/predict.py seams BUNDLE monuseg --json FILE
python benchmarks/predict/predict.py kills BUNDLE IMAGE --json FILE
python benchmarks/predict/predict.py workers BUNDLE SLIDE --json FILE
python benchmarks/predict/predict.py pyramid FILE --side 10000
"""

import hashlib
import os
import random
import signal
import statistics
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
from msal_deploy.prediction import predict, predict_all
from msal_deploy.prediction.grid import Grid
from msal_deploy.prediction.readers import open_slide
from msal_deploy.prediction.record import SlideFolder, find_slides
from msal_deploy.prediction.steps import Steps
from msal_deploy.prediction.tissue import find_tissue

app = command_line("Measure predict.")
Json = Annotated[Path | None, typer.Option("--json")]
ENGINE = "openvino:int8"
ERR = Console(stderr=True)


@app.command("slide")
def slide(
    bundle: Path,
    image: Path,
    runs: int = 3,
    tile: int = 512,
    batch: int = 1,
    engine: str = ENGINE,
    json: Json = None,
    plot: Path | None = None,
) -> None:
    """Time predict against its engine alone on the same tiles, in turns."""
    totals, pictures, engines, record = [], [], [], None
    with tempfile.TemporaryDirectory() as folder:
        for index in range(runs):
            options: dict[str, Any] = {"bundle": Bundle(bundle), "engine": engine, "tile": tile, "batch": batch}
            began = time.perf_counter()
            predict_all([image], f"{folder}/{index}p", formats=["geojson", "png"], **options)
            pictures.append(time.perf_counter() - began)
            began = time.perf_counter()
            report = predict_all([image], f"{folder}/{index}", formats=["geojson"], **options)
            totals.append(time.perf_counter() - began)
            engines.append(_engine_alone(bundle, image, engine, tile, batch))
            (record,) = report.slides.values()
    assert record is not None
    mm2 = record.tissue_mm2
    result = {
        "image": image.name, "engine": engine, "tile": tile, "batch": batch, "mm2": mm2, "nuclei": record.nuclei,
        "end_to_end_s": totals,
        "end_to_end_with_pictures_s": pictures, "engine_alone_s": engines,
        "ratio": statistics.median(totals) / statistics.median(engines),
        "seconds_per_mm2": statistics.median(totals) / mm2, "stages_s": record.seconds,
    }  # fmt: skip
    if plot:
        _plot_timeline(record.timeline, plot)
    _end(result, json)


def _engine_alone(bundle: Path, image: Path, engine_id: str, tile: int, batch: int) -> float:
    """Return the seconds of a bare loop over the tiles that predict computes, of an image that is in memory."""
    with open_slide(image, 0.25) as opened, open_engine(Bundle(bundle), engine_id) as engine:
        grid, tissue = Grid(opened.shape, tile), find_tissue(opened, 0.25)
        steps = Steps(opened, engine, SlideFolder("unused"), grid, tissue)
        whole = opened.read(0, 0, *opened.shape)
        missing = [(0, max(side - size, 0)) for side, size in zip(grid.side, opened.shape, strict=True)]
        whole = np.pad(whole, [*missing, (0, 0)])
        places = [place for region in grid.regions() for place in steps.tissue_tiles(*region)]
        tiles = [whole[grid.rows[i].tile, grid.columns[j].tile] for i, j in places]
        batches = [np.stack(tiles[first : first + batch]) for first in range(0, len(tiles), batch)]
        engine(batches[0])
        began = time.perf_counter()
        for one in batches:
            engine(one)
        return time.perf_counter() - began


def _plot_timeline(events: Any, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    stages = ["read", "infer", "stitch", "separate", "measure", "write"]
    figure, axes = pyplot.subplots(figsize=(10, 3), layout="constrained")
    for row, stage in enumerate(stages):
        spans = [(begin, end - begin) for name, _, begin, end in events if name == stage]
        axes.broken_barh(spans, (row - 0.4, 0.8), color=f"C{row}")
    axes.set_yticks(range(len(stages)), stages)
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the start")
    axes.set_title("What predict does when: stages overlap")
    figure.savefig(path, dpi=110)


@app.command("scale")
def scale(bundle: Path, side: list[int] | None = None, json: Json = None) -> None:
    """Measure time and peak memory of synthetic pyramidal slides of 5,000, 10,000 and 20,000 px, or of each --side."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.tif"
        _write_pyramid(small, 512)
        start = _measured(bundle, small, Path(folder) / "small")["seconds"]
        for extent in side or (5000, 10000, 20000):
            path = Path(folder) / f"{extent}.tif"
            with ProcessPoolExecutor(1, get_context("spawn")) as other:  # its memory would count as predict's
                other.submit(_write_pyramid, path, extent).result()
            rows.append({"side": extent, **_measured(bundle, path, Path(folder) / f"out-{extent}")})
            ERR.print(rows[-1])
            path.unlink()
    pixels = np.log([row["side"] ** 2 for row in rows])
    exponents = [
        float(np.polyfit(pixels, np.log([row["seconds"] - fixed for row in rows]), 1)[0]) for fixed in (0, start)
    ]
    names = ("exponent_of_pixels", "exponent_without_start")
    _end({"sizes": rows, "start_s": start, **dict(zip(names, exponents, strict=True))}, json)


@app.command("pyramid")
def pyramid(path: Path, side: int = 10000) -> None:
    """Write a synthetic slide for the other commands: 0.25 µm/px, tissue everywhere."""
    _write_pyramid(path, side)


def _write_pyramid(path: Path, side: int) -> None:
    """Write a tiled JPEG pyramid: synthetic tissue of 1,024 px, repeated."""
    from msal_deploy.data.tissue import draw_tissue

    image, _ = draw_tissue(np.random.default_rng(0), 1024)
    repeats = -(-side // 1024)
    whole = np.tile(image, (repeats, repeats, 1))[:side, :side]
    options = {"tile": (256, 256), "compression": "jpeg", "photometric": "rgb", "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(whole, subifds=2, resolution=(40000, 40000), **options)
        for factor in (4, 16):
            tiff.write(whole[::factor, ::factor], subfiletype=1, resolution=(40000 / factor,) * 2, **options)


def _command(bundle: Path, image: Path, out: Path, *options: str) -> list[str]:
    """Return the command line of predict; a later `-e` replaces the engine."""
    program = [sys.executable, "-m", "msal_deploy", "predict", str(image)]
    return [*program, "-b", str(bundle), "-e", ENGINE, "-o", str(out), *options]


def _measured(bundle: Path, image: Path, out: Path, *options: str) -> dict[str, float]:
    """Run the command line; return its seconds and its peak memory in MB."""
    began = time.perf_counter()
    process = subprocess.Popen(_command(bundle, image, out, *options))
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"predict ended with {os.waitstatus_to_exitcode(status)}")
    return {"seconds": time.perf_counter() - began, "peak_mb": usage.ru_maxrss / 1024}


@app.command("seams")
def seams(bundle: Path, data: str, json: Json = None) -> None:
    """Score the test images in tiles of 256, 512 and 1,024 px against one pass over each image."""
    rows: dict[str, dict[str, float]] = {}
    with open_dataset(data) as dataset, open_engine(Bundle(bundle), ENGINE) as engine:
        images = list(dataset.test)
        passes = _one_pass(images, engine)
        for tile in (256, 512, 1024):
            counts, ajis, qualities = [], [], []
            for image in track(images, f"tiles of {tile}", console=ERR):
                nuclei = predict(image.image(), bundle=Bundle(bundle), engine=engine.id, tile=tile, mpp=0.25)
                scored = count_nuclei(image.instances(), nuclei.labels)
                counts.append(len(nuclei))
                ajis.append(aji(scored))
                qualities.append(panoptic_quality(scored))
            mean = {"nuclei": np.mean(counts), "aji": np.mean(ajis), "pq": np.mean(qualities)}
            rows[str(tile)] = {name: float(value) for name, value in mean.items()}
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
        seconds = _measured(bundle, image, Path(folder) / "whole", *FORMATS)["seconds"]
        expected = _hashes(Path(folder) / "whole")
        killed, rounds, same = 0, 0, True
        while killed < times:
            rounds += 1
            out = Path(folder) / f"round-{rounds}"
            while not _survives(_command(bundle, image, out, *FORMATS), chance.uniform(0.1, 0.6) * seconds):
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
            rows[name] = _measured(bundle, image, out, *FORMATS, "-e", engine, "--batch", str(batch), *options)
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
