"""The slides of one call: each is computed here or on a cluster, and what it failed with is kept."""

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from PIL import Image

from msal_deploy.errors import DeployError, MissingRequirement
from msal_deploy.files import atomic_file
from msal_deploy.hardware import installed_versions
from msal_deploy.prediction.clock import Clock, Event, shifted, work
from msal_deploy.prediction.cluster import SlideTasks, write_on_cluster
from msal_deploy.prediction.job import Job, check_same_run
from msal_deploy.prediction.outputs import write_outputs
from msal_deploy.prediction.pipeline import Pipeline
from msal_deploy.prediction.progress import Progress
from msal_deploy.prediction.record import RUN, RunRecord
from msal_deploy.prediction.slide import Slide
from msal_deploy.prediction.steps import TILES, Steps
from msal_deploy.runtimes import Engine, runtime_packages

if TYPE_CHECKING:
    from distributed import Client

TISSUE = "tissue.png"


class Runner:
    """Computes slides with an open engine.

    Attributes:
        failures: Source -> why it has no result.
        clock: Gets the times of all slides.
    """

    def __init__(self, engine: Engine, progress: Progress, formats: tuple[str, ...], clock: Clock) -> None:
        self._engine, self._progress, self._formats = engine, progress, formats
        self.failures: dict[str, str] = {}
        self.clock = clock
        self._compiled: set[tuple[int, ...]] = set()
        self._versions = installed_versions(
            ["msal-deploy", "numpy", "opencv-python-headless", *runtime_packages("cpu")]
        )

    def here(self, jobs: Sequence[Job]) -> None:
        """Compute slide after slide in this process. While one is finished, the engine computes the next."""
        waiting: deque[tuple[Job, Future[RunRecord]]] = deque()
        with ThreadPoolExecutor(1, "finish") as pool:
            for job in jobs:
                with self._failing(job, jobs):
                    waiting.append((job, pool.submit(self.compute(replace(job, start=time.time())))))
                self._wait(waiting, 1, jobs)  # bounds the memory
            self._wait(waiting, 0, jobs)

    def _wait(self, waiting: deque[tuple[Job, Future[RunRecord]]], left: int, jobs: Sequence[Job]) -> None:
        while len(waiting) > left:
            job, future = waiting.popleft()
            with self._failing(job, jobs):
                future.result()

    def compute(self, job: Job) -> Callable[[], RunRecord]:
        """Compute the tiles of a slide; return what does the rest, in any thread."""
        clock = Clock(job.start)
        with ExitStack() as stack:
            with clock.time("decode"):
                slide = stack.enter_context(job.open_slide())
            with self._compiling(job, slide, clock):
                steps, record = self._begin(job, slide, clock)
            pipeline = stack.enter_context(Pipeline(steps)) if record.nuclei < 0 else None
            if pipeline:
                with self._progress.slide(steps) as advance:
                    pipeline.compute(advance)
            return partial(self._finish_here, stack.pop_all(), job, steps, record, pipeline)

    def _finish_here(
        self, opened: ExitStack, job: Job, steps: Steps, record: RunRecord, pipeline: Pipeline | None
    ) -> RunRecord:
        with opened:
            failed = pipeline.finish() if pipeline else {}
            return self._finish(job, steps, record, failed, partial(write_outputs, job.results, slide=steps.slide))

    def on_cluster(self, client: "Client", jobs: Sequence[Job]) -> None:
        """Start all slides, then finish one after the other."""
        with ExitStack() as stack:
            started: list[tuple[Job, Steps, RunRecord, SlideTasks | None]] = []
            for job in jobs:
                with self._failing(job, jobs):
                    job = replace(job, start=time.time())
                    slide = stack.enter_context(job.open_slide())
                    steps, record = self._begin(job, slide, Clock(job.start))
                    tasks = SlideTasks(client, job, steps) if record.nuclei < 0 else None
                    started.append((job, steps, record, tasks))
            for job, steps, record, tasks in started:
                with self._failing(job, jobs), self._progress.slide(steps) as advance:
                    if tasks:
                        tasks.wait(advance)
                        steps.clock.events += tasks.events
                    failed = tasks.failed if tasks else {}
                    self._finish(job, steps, record, failed, partial(write_on_cluster, client, job))

    @contextmanager
    def _failing(self, job: Job, jobs: Sequence[Job]) -> Iterator[None]:
        """Note a failure and go on."""
        try:
            yield
        except DeployError as error:
            if len(jobs) == 1 or isinstance(error, MissingRequirement):
                raise  # a full disk or a missing package is no fault of this slide
            self.failures[str(job.source)] = str(error)

    @contextmanager
    def _compiling(self, job: Job, slide: Slide, clock: Clock) -> Iterator[None]:
        """Compute an empty batch beside the block: OpenVINO compiles for the size of the tiles, CUDA starts."""
        shape = (job.batch, *job.grid(slide).side, 3)
        if shape in self._compiled or (job.results.path / RUN).exists():  # there may be nothing left to compute
            yield
            return
        self._compiled.add(shape)
        with ThreadPoolExecutor(1, "compile") as pool:
            empty = pool.submit(self._compile, shape, clock)
            yield
            empty.result()

    def _compile(self, shape: tuple[int, ...], clock: Clock) -> None:
        with clock.time("start", whole_process=True):
            self._engine(np.zeros(shape, np.uint8))

    def _begin(self, job: Job, slide: Slide, clock: Clock) -> tuple[Steps, RunRecord]:
        """Check the folder, find the tissue, and write the record of the run."""
        with clock.time("read"):
            record = job.record(slide)
        earlier = check_same_run(job.results, record.identity)
        steps = job.steps(slide, self._engine, clock)
        if earlier is not None:
            return steps, earlier
        with clock.time("write"):
            with atomic_file(job.results.path / TISSUE) as temporary:
                Image.fromarray(steps.tissue.mask.astype(np.uint8) * 255).save(temporary)
            area = steps.tissue.area_mm2(record.model_microns_per_pixel)
            record = msgspec.structs.replace(record, tissue_mm2=round(area, 6), versions=self._versions)
            job.results.write_record(record)
        return steps, record

    def _finish(
        self,
        job: Job,
        steps: Steps,
        record: RunRecord,
        failed: dict[str, str],
        write: Callable[[Sequence[str]], object],
    ) -> RunRecord:
        """Write the outputs that are missing, and the record of the complete run."""
        folder, clock, computed = job.results, steps.clock, record.nuclei < 0
        if computed:
            count = sum(len(region.nuclei) for region in folder.regions())
            notes = record.notes if count or failed else (*record.notes, _nothing(steps))
            complete = -1 if failed else count
            record = msgspec.structs.replace(record, failed=failed, nuclei=complete, notes=notes, **_times(clock))
            folder.write_record(record)
        missing = [name for name in self._formats if name not in record.formats or failed]
        if missing:
            with clock.time("outputs"):
                write(missing)
            written = () if failed else tuple(dict.fromkeys([*record.formats, *missing]))
            record = msgspec.structs.replace(record, formats=written, **(_times(clock) if computed else {}))
            folder.write_record(record)
        if not failed:
            shutil.rmtree(folder.path / TILES, ignore_errors=True)
        self.clock.events += shifted(clock.events, clock.start - self.clock.start)
        return record


def _nothing(steps: Steps) -> str:
    return "no nucleus was found" if steps.tissue.mask.any() else "no tissue was found: zero nuclei"


def _times(clock: Clock) -> dict[str, Any]:
    """Return the fields of a record about time."""
    rounded = {stage: round(seconds, 3) for stage, seconds in work(clock.events).items()}
    total = round(time.time() - clock.start, 3)
    return {"seconds": rounded | {"total": total}, "timeline": timeline(clock.events)}


def timeline(events: Sequence[Event]) -> tuple[tuple[str, str, float, float], ...]:
    """Return (stage, region, begin, end), as they began."""
    return tuple(event[:4] for event in sorted(events, key=lambda event: event.begin))
