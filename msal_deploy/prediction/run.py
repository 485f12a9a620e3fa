"""The stage's entries: one image or slide to `Nuclei`, or many of them to a folder of outputs."""

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, DeployError, MissingRequirement
from msal_deploy.files import StrPath, atomic_file, output_folder, output_lock, temporary_folder
from msal_deploy.hardware import installed_versions
from msal_deploy.prediction.checks import check_formats, check_out, has_results, names_of
from msal_deploy.prediction.cluster import SlideTasks, connect, write_on_cluster
from msal_deploy.prediction.grid import region_side
from msal_deploy.prediction.job import Job, check_same_run
from msal_deploy.prediction.nuclei import Nuclei, join
from msal_deploy.prediction.outputs import write_index, write_outputs
from msal_deploy.prediction.pipeline import run_pipeline
from msal_deploy.prediction.progress import Progress
from msal_deploy.prediction.record import RUN, RunRecord, SlideFolder, find_slides
from msal_deploy.prediction.report import PredictReport
from msal_deploy.prediction.slide import Slide
from msal_deploy.prediction.steps import TILES, Clock, Event, Steps
from msal_deploy.runtimes import Engine, open_engine, runtime_packages
from msal_deploy.shipped import shipped_bundle
from msal_deploy.spec import BATCH, check_extent

if TYPE_CHECKING:
    from distributed import Client

TISSUE = "tissue.png"


def predict(
    source: StrPath | NDArray[np.uint8],
    *,
    bundle: Bundle | None = None,
    engine: str | None = None,
    mpp: float | None = None,
    threads: int | None = None,
    tile: int = 512,
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
        tile, overlap: Pixels of a tile, and those that neighbours share.
        batch: Tiles in each call of the engine.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: The image or slide cannot be read, or has no resolution, or a part of it is damaged.
    """
    bundle = bundle or shipped_bundle()
    opened = open_engine(bundle, engine, threads=threads)
    with temporary_folder(name="predict") as folder, opened:
        text = source if isinstance(source, np.ndarray) else str(source)
        job = Job(text, str(folder), str(bundle.path), opened.id, mpp, threads, tile, overlap, region_side(tile), batch)
        record = _predict_one(replace(job, start=time.time()), opened, Progress(progress), ())
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
    tile: int = 512,
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
    check_formats(formats)
    check_extent(BATCH, batch)
    names = names_of(sources)
    output_folder(out := Path(out))
    bundle = bundle or shipped_bundle()
    opened = open_engine(bundle, engine, threads=threads)
    jobs = [
        Job(
            str(source),
            str(out / name),
            str(bundle.path),
            opened.id,
            mpp,
            threads,
            tile,
            overlap,
            region_side(tile),
            batch,
        )
        for name, source in names.items()
    ]
    run = _Run(jobs, tuple(dict.fromkeys(formats)), Progress(progress))
    with output_lock(out), ExitStack() as stack:
        check_out(out, jobs)
        if workers or dask:
            client = stack.enter_context(connect(workers, dask))
            stack.enter_context(opened)
            run.on_cluster(client, opened)
        else:
            stack.enter_context(opened)
            run.here(opened)
        write_index(out, run.failures)
        records = {folder.name: folder.record() for folder in find_slides(out)} if has_results(out) else {}
    return PredictReport(out, {name: records[name] for name in names if name in records}, run.failures)


class _Run:
    """The slides of one call of `predict_all`."""

    def __init__(self, jobs: Sequence[Job], formats: tuple[str, ...], progress: Progress) -> None:
        self.jobs, self.formats, self.progress = jobs, formats, progress
        self.failures: dict[str, str] = {}

    def here(self, engine: Engine) -> None:
        """Compute slide after slide in this process."""
        for job in self.jobs:
            with self._failing(job):
                _predict_one(replace(job, start=time.time()), engine, self.progress, self.formats)

    def on_cluster(self, client: "Client", engine: Engine) -> None:
        """Start all slides, then finish one after the other."""
        with ExitStack() as stack:
            started: list[tuple[Job, Steps, RunRecord, SlideTasks | None]] = []
            for job in self.jobs:
                with self._failing(job):
                    job = replace(job, start=time.time())
                    slide = stack.enter_context(job.open_slide())
                    steps, record = _begin(job, slide, engine)
                    tasks = SlideTasks(client, job, steps) if record.nuclei < 0 else None
                    started.append((job, steps, record, tasks))
            for job, steps, record, tasks in started:
                with self._failing(job), self.progress.slide(steps) as advance:
                    if tasks:
                        tasks.wait(advance)
                    failed, events = (tasks.failed, tasks.events) if tasks else ({}, [])
                    _finish(job, steps, record, failed, events, self.formats, partial(write_on_cluster, client, job))

    @contextmanager
    def _failing(self, job: Job) -> Iterator[None]:
        """Note a failure and go on."""
        try:
            yield
        except DeployError as error:
            if len(self.jobs) == 1 or isinstance(error, MissingRequirement):
                raise  # a full disk or a missing package is no fault of this slide
            self.failures[str(job.source)] = str(error)


def _predict_one(job: Job, engine: Engine, progress: Progress, formats: tuple[str, ...]) -> RunRecord:
    with job.open_slide() as slide:
        with _warming(job, slide, engine):
            steps, record = _begin(job, slide, engine)
        failed: dict[str, str] = {}
        if record.nuclei < 0:
            with progress.slide(steps) as advance:
                failed = run_pipeline(steps, advance)
        write = partial(write_outputs, job.results, slide=slide)
        return _finish(job, steps, record, failed, steps.clock.events, formats, write)


@contextmanager
def _warming(job: Job, slide: Slide, engine: Engine) -> Iterator[None]:
    """Compute an empty batch beside the block: OpenVINO compiles for the size of the tiles, CUDA starts."""
    if (job.results.path / RUN).exists():  # there may be nothing left to compute
        yield
        return
    height, width = job.grid(slide).side
    with ThreadPoolExecutor(1, "warm") as pool:
        empty = pool.submit(engine, np.zeros((job.batch, height, width, 3), np.uint8))
        yield
        empty.result()


def _begin(job: Job, slide: Slide, engine: Engine) -> tuple[Steps, RunRecord]:
    """Check the folder, find the tissue, and write the record of the run."""
    record = job.record(slide)
    earlier = check_same_run(job.results, record.identity)
    steps = job.steps(slide, engine)
    if earlier is not None:
        return steps, earlier
    with atomic_file(job.results.path / TISSUE) as temporary:
        Image.fromarray(steps.tissue.mask.astype(np.uint8) * 255).save(temporary)
    area = steps.tissue.area_mm2(record.model_microns_per_pixel)
    record = msgspec.structs.replace(record, tissue_mm2=round(area, 6), versions=_versions(engine))
    job.results.write_record(record)
    return steps, record


def _versions(engine: Engine) -> dict[str, str]:
    return installed_versions(["msal-deploy", "numpy", "opencv-python-headless", *runtime_packages("cpu")])


def _finish(
    job: Job,
    steps: Steps,
    record: RunRecord,
    failed: dict[str, str],
    events: Sequence[Event],
    formats: tuple[str, ...],
    write: Callable[[Sequence[str]], object],
) -> RunRecord:
    """Write the outputs that are missing, and the record of the complete run."""
    folder, computed = job.results, record.nuclei < 0
    if computed:
        count = sum(len(region.nuclei) for region in folder.regions())
        notes = record.notes if count or failed else (*record.notes, _nothing(steps))
        complete = -1 if failed else count
        record = msgspec.structs.replace(record, failed=failed, nuclei=complete, notes=notes, **_times(job, events))
        folder.write_record(record)
    missing = [name for name in formats if name not in record.formats or failed]
    if missing:
        clock = Clock(job.start)
        with clock.time("outputs", "all"):
            write(missing)
        written = () if failed else tuple(dict.fromkeys([*record.formats, *missing]))
        times = _times(job, [*events, *clock.events]) if computed else {}
        record = msgspec.structs.replace(record, formats=written, **times)
        folder.write_record(record)
    if not failed:
        shutil.rmtree(folder.path / TILES, ignore_errors=True)
    return record


def _nothing(steps: Steps) -> str:
    return "no nucleus was found" if steps.tissue.mask.any() else "no tissue was found: zero nuclei"


def _times(job: Job, events: Sequence[Event]) -> dict[str, Any]:
    seconds: dict[str, float] = defaultdict(float)
    for stage, _, begin, end in events:
        seconds[stage] += end - begin
    seconds["total"] = time.time() - job.start
    rounded = {stage: round(value, 3) for stage, value in seconds.items()}
    return {"seconds": rounded, "timeline": tuple(sorted(events, key=lambda event: event[2]))}
