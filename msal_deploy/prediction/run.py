"""The stage's entries: one image or slide to `Nuclei`, or many of them to a folder of outputs."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, output_folder, output_lock, temporary_folder
from msal_deploy.prediction.checks import check_formats, check_out, check_tiles, has_results, names_of
from msal_deploy.prediction.clock import Clock, processor_time, work
from msal_deploy.prediction.cluster import connect
from msal_deploy.prediction.grid import region_side
from msal_deploy.prediction.job import Job
from msal_deploy.prediction.nuclei import Nuclei, join
from msal_deploy.prediction.outputs import write_index
from msal_deploy.prediction.progress import Progress
from msal_deploy.prediction.record import SlideFolder, find_slides
from msal_deploy.prediction.report import PredictReport
from msal_deploy.prediction.runner import Runner, timeline
from msal_deploy.runtimes import open_engine
from msal_deploy.shipped import shipped_bundle


def predict(
    source: StrPath | NDArray[np.uint8],
    *,
    bundle: Bundle | None = None,
    engine: str | None = None,
    mpp: float | None = None,
    threads: int | None = None,
    tile: int | None = None,
    overlap: int = 64,
    batch: int = 1,
    progress: bool = False,
) -> Nuclei:
    """Find the nuclei of one image or slide.

    >>> from PIL import Image
    >>> tissue = np.asarray(Image.open("monuseg/MoNuSegTestData/SYNTH-TEST-000.tif"))
    >>> nuclei = predict(tissue, bundle=Bundle("bundle"))
    >>> nuclei.labels.shape
    (512, 512)

    Args:
        source: A file that `msal-deploy predict` reads, or uint8[H,W,3], RGB, of any size.
        bundle: The weights; None for those of the package, exported once into the user's cache.
        engine: Such as ``openvino:int8``; None for the fastest CPU engine of the bundle.
        mpp: µm per pixel of level 0, which replaces the file's.
        threads: CPU threads; None for the runtime's own choice.
        tile: Side of a tile in pixels, a multiple of 32; None for 512, or up to 640 if these are fewer pixels in all.
        overlap: Pixels that neighbouring tiles share.
        batch: Tiles in each call of the engine.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: The image or slide cannot be read, or has no resolution, or a part of it is damaged.
    """
    check_tiles(tile, overlap, batch)
    bundle = bundle or shipped_bundle()
    opened = open_engine(bundle, engine, threads=threads)
    with temporary_folder(name="predict") as folder, opened:
        group = None if tile is None else region_side(tile)
        text = source if isinstance(source, np.ndarray) else str(source)
        job = Job(text, str(folder), str(bundle.path), opened.id, mpp, threads, tile, overlap, group, batch)
        record = Runner(opened, Progress(progress), (), Clock()).compute(replace(job, start=time.time()))()
        if record.failed:
            raise BadInput(next(iter(record.failed.values())), "copy the file again")
        joined = join(region.nuclei for region in SlideFolder(folder).regions())
    return replace(joined, shape=record.shape, scale=record.scale, microns_per_pixel=record.model_microns_per_pixel)


def predict_all(
    sources: Sequence[StrPath],
    out: StrPath,
    *,
    bundle: Bundle | None = None,
    engine: str | None = None,
    mpp: float | None = None,
    formats: Sequence[str] = ("geojson", "png"),
    threads: int | None = None,
    tile: int | None = None,
    overlap: int = 64,
    batch: int = 1,
    workers: int | None = None,
    dask: str | None = None,
    progress: bool = False,
) -> PredictReport:
    """Find the nuclei of images and slides, and write the outputs of each into a folder of `out`.

    The same call resumes a run that was interrupted. A slide that fails does not stop the others::

        report = predict_all(["a.svs", "b.svs"], "nuclei", formats=["geojson", "parquet"])
        report.require_passed()

    Args:
        sources: Files, or folders of OME-Zarr.
        out: Folder of the results. Each slide gets a folder with its name in it.
        bundle, engine, mpp, threads, tile, overlap, batch: See `predict`.
        formats: Of `FORMATS`.
        workers: Processes of a local Dask cluster.
        dask: Address of a Dask scheduler, such as ``tcp://10.0.0.1:8786``.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: An option is wrong, two sources have the same name, or `out` contains results of another engine.
    """
    clock, processor = Clock(), time.process_time()
    check_formats(formats)
    check_tiles(tile, overlap, batch)
    names = names_of(sources)
    output_folder(out := Path(out))
    bundle = bundle or shipped_bundle()
    opened = open_engine(bundle, engine, threads=threads)
    group = None if tile is None else region_side(tile)
    jobs = [
        Job(str(source), str(out / name), str(bundle.path), opened.id, mpp, threads, tile, overlap, group, batch)
        for name, source in names.items()
    ]
    runner = Runner(opened, Progress(progress), tuple(dict.fromkeys(formats)), clock)
    with output_lock(out), ExitStack() as stack:
        check_out(out, jobs)
        client = stack.enter_context(connect(workers, dask)) if workers or dask else None
        with clock.time("start", whole_process=True):
            stack.enter_context(opened)
        if client:
            runner.on_cluster(client, jobs)
        else:
            runner.here(jobs)
        with clock.time("page"):
            write_index(out, runner.failures)
        records = {folder.name: folder.record() for folder in find_slides(out)} if has_results(out) else {}
    return PredictReport(
        out,
        {name: records[name] for name in names if name in records},
        runner.failures,
        work(clock.events) | {"total": round(time.time() - clock.start, 4)},
        processor_time(clock.events) | {"total": round(time.process_time() - processor, 4)},
        timeline(clock.events),
    )
