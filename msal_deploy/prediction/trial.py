"""Trial: one call of predict, and its engine alone on the same tiles, in this process."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from msal_deploy.bundle import Bundle
from msal_deploy.files import temporary_folder
from msal_deploy.prediction.clock import STAGES
from msal_deploy.prediction.job import Job
from msal_deploy.prediction.report import PredictReport
from msal_deploy.prediction.run import predict_all
from msal_deploy.prediction.schedule import Schedule
from msal_deploy.runtimes import Engine, open_engine
from msal_deploy.spec import Float32Maps, UInt8Images


class EngineAlone(msgspec.Struct, frozen=True):
    """The engine alone, on tiles that are in memory.

    Attributes:
        seconds, cpu_seconds: In its calls; processor time of the whole process.
        tiles: Number of tiles.
        megapixels: Of all tiles.
    """

    seconds: float
    cpu_seconds: float
    tiles: int
    megapixels: float


class Trial(msgspec.Struct, frozen=True):
    """One call of predict.

    Attributes:
        seconds: Stage -> seconds of work; "total" is the time that passed.
        cpu_seconds: Stage -> processor time in seconds; "total" is the whole process's.
        timeline: (stage, region, start, end) in seconds since the start.
        mm2: Area of tissue.
        nuclei: Number of nuclei.
        alone: The engine alone on the same tiles.
        peak_memory_mb: Largest memory of the process after predict; None where the system does not tell.
    """

    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    timeline: tuple[tuple[str, str, float, float], ...]
    mm2: float
    nuclei: int
    alone: EngineAlone
    peak_memory_mb: float | None = None


def predicted(sources: Sequence[str], bundle: str, engine: str | None, **options: Any) -> PredictReport:
    """Run predict into a temporary folder, which is removed.

    Raises:
        BadInput: See `predict_all`.
        GateFailed: An image could not be read.
    """
    with temporary_folder(name="predict") as folder:
        report = predict_all(sources, folder / "out", bundle=Bundle(bundle), engine=engine, **options)
    report.require_passed()
    return report


def engine_alone(sources: Sequence[str], bundle: str, engine: str, batch: int, threads: int | None) -> EngineAlone:
    """Time the engine on the tiles that predict computes, one call after the other; nothing else works meanwhile."""
    with open_engine(Bundle(bundle), engine, threads=threads) as opened, temporary_folder(name="alone") as folder:
        timed = _Timed(opened)
        for index, source in enumerate(sources):
            job = Job(source, str(Path(folder, str(index))), bundle, engine, threads=threads, batch=batch)
            with job.open_slide() as slide:
                timed.warm_up((batch, *job.grid(slide).side, 3))
                steps = job.steps(slide, timed)  # type: ignore[arg-type]  # all that steps use of an engine
                for region in Schedule(steps).tiles:
                    steps.compute(*region, steps.read(*region))
        return timed.result


class _Timed:
    """An open engine whose calls are timed."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.spec = engine, engine.spec
        self._seen: set[tuple[int, ...]] = set()
        self.result = EngineAlone(0.0, 0.0, 0, 0.0)

    def warm_up(self, shape: tuple[int, ...]) -> None:
        """Compute an empty batch, if there was none of this shape: OpenVINO compiles for it."""
        if shape not in self._seen:
            self._seen.add(shape)
            self._engine(np.zeros(shape, np.uint8))

    def __call__(self, images: UInt8Images) -> Float32Maps:
        begin, cpu = time.perf_counter(), time.process_time()
        maps = self._engine(images)
        spent, cpu = time.perf_counter() - begin, time.process_time() - cpu
        before, pixels = self.result, images.shape[0] * images.shape[1] * images.shape[2] / 1e6
        self.result = EngineAlone(
            before.seconds + spent, before.cpu_seconds + cpu, before.tiles + len(images), before.megapixels + pixels
        )
        return maps


def with_engine_threads(cpu_seconds: dict[str, float]) -> dict[str, float]:
    """Return the processor time of the stages, that of the engine's own threads with it.

    An engine computes in threads of its own, which no clock in Python sees. What the whole process took and no other
    stage did is the engine's: with it, the little that is done between stages.

    >>> with_engine_threads({"decode": 1.0, "infer": 4.0, "total": 9.5})
    {'decode': 1.0, 'infer': 8.5, 'total': 9.5}
    """
    others = sum(seconds for stage, seconds in cpu_seconds.items() if stage not in ("infer", "total"))
    engine = round(cpu_seconds["total"] - others, 4)
    stages = {stage: cpu_seconds[stage] for stage in STAGES if stage in cpu_seconds}
    return stages | ({"infer": engine} if "infer" in stages else {}) | {"total": cpu_seconds["total"]}
