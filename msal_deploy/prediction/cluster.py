"""The steps of several slides on several processes or machines, through Dask.

All workers must see the output folder and the slides under the same paths. Each keeps one engine open. A task whose
worker dies is repeated by another one, with the same result.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.prediction.clock import Event
from msal_deploy.prediction.job import Job
from msal_deploy.prediction.outputs import write_outputs
from msal_deploy.prediction.schedule import Position, Schedule
from msal_deploy.prediction.steps import Steps
from msal_deploy.runtimes import Engine

if TYPE_CHECKING:
    from distributed import Client, Future

RETRIES = 3
OPEN_SLIDES = 4
TIMEOUT = 20  # seconds


@contextmanager
def connect(workers: int | None, address: str | None) -> "Iterator[Client]":
    """Yield a client of a local cluster with `workers` processes, or of the scheduler at `address`.

    Raises:
        MissingRequirement: The scheduler does not answer.
    """
    from distributed import Client, LocalCluster

    if address is None:
        with (
            LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
            ) as cluster,
            Client(cluster) as client,  # type: ignore[no-untyped-call]
        ):
            yield client
        return
    try:
        client = Client(address, timeout=TIMEOUT)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        remedy = "start one with: dask scheduler"
        raise MissingRequirement(f"No Dask scheduler answers at {address} ({error})", remedy) from error
    with client:
        yield client


class SlideTasks:
    """The tasks of one slide on a cluster.

    Attributes:
        failed: Regions that could not be read, "row-column" -> message.
        events: The times of all steps.
    """

    def __init__(self, client: "Client", job: Job, steps: Steps) -> None:
        """Start all steps that are left."""
        self.failed: dict[str, str] = {}
        self.events: list[Event] = []
        schedule = Schedule(steps)
        tiles = {
            region: client.submit(_compute, job, region, retries=RETRIES, priority=-index, pure=False)
            for index, region in enumerate(schedule.tiles)
        }
        self._tiles = tiles
        self._nuclei = [
            client.submit(_find, job, one, _near(steps, one, tiles), retries=RETRIES, priority=1, pure=False)
            for one in schedule.nuclei
        ]
        self._counts = {future.key: len(steps.tissue_tiles(*region)) for region, future in tiles.items()}

    def wait(self, advance: Callable[[int], None]) -> None:
        """Wait for all tasks."""
        from distributed import as_completed

        futures = [*self._tiles.values(), *self._nuclei]
        for future in as_completed(futures):  # type: ignore[no-untyped-call]
            message, events = future.result()
            self.events += events
            if message:
                self.failed |= message
            advance(self._counts.get(future.key, 0))


def write_on_cluster(client: "Client", job: Job, formats: Sequence[str]) -> None:
    """Write the outputs of a slide, each in a task of its own.

    Raises:
        BadInput: See `write_outputs`.
    """
    for future in [client.submit(_write, job, name, retries=RETRIES, priority=2, pure=False) for name in formats]:
        future.result()


def _write(job: Job, name: str) -> None:
    with job.open_slide() as slide:
        write_outputs(job.results, [name], slide)


def _near(steps: Steps, region: Position, tiles: "dict[Position, Future[Any]]") -> "list[Future[Any]]":
    return [tiles[one] for one in steps.grid.neighbours(*region) if one in tiles]


def _compute(job: Job, region: Position) -> tuple[dict[str, str], Sequence[Event]]:
    """Do step one in a worker."""
    steps = _steps(job)
    if not steps.tiles_path(*region).exists():
        try:
            image = steps.read(*region)
        except BadInput as error:
            return {f"{region[0]}-{region[1]}": str(error)}, _taken(steps)
        steps.keep(*region, image, steps.compute(*region, image))
    return {}, _taken(steps)


def _find(job: Job, region: Position, near: list[Any]) -> tuple[dict[str, str], Sequence[Event]]:
    """Do step two in a worker, unless the region itself could not be read."""
    steps, name = _steps(job), f"{region[0]}-{region[1]}"
    if not any(name in failed for failed, _ in near) and not steps.folder.region_path(*region).exists():
        steps.find_nuclei(*region)
    return {}, _taken(steps)


def _taken(steps: Steps) -> list[Event]:
    """Return the times since the last call."""
    events = [event._replace(region=f"{event.region} of worker {os.getpid()}") for event in steps.clock.events]
    steps.clock.events.clear()
    return events


@lru_cache(maxsize=OPEN_SLIDES)
def _steps(job: Job) -> Steps:
    return job.steps(job.open_slide(), _engine(job.bundle, job.engine, job.threads))


@lru_cache(maxsize=1)
def _engine(bundle: str, engine: str, threads: int | None) -> Engine:
    """Return an engine that stays open as long as the worker lives."""
    return Job("", "", bundle, engine, threads=threads).open_engine().__enter__()
