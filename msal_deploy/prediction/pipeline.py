"""The steps of a slide in one process: reading, inference and separation overlap, in threads of their own."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.hardware import available_cores
from msal_deploy.prediction.schedule import Position, Schedule
from msal_deploy.prediction.steps import Steps

AHEAD = 2  # regions that are read, and regions that wait to be separated: bounds the memory
# An engine on the CPU needs five times as much processor time as the nuclei; one on a GPU is faster than four threads.
# Two shorten the end, when the last regions become ready together. Each takes 0.2 GB.
CORES_PER_FINDER, FEWEST_FINDERS, MOST_FINDERS = 4, 2, 4


def run_pipeline(steps: Steps, advance: Callable[[int], None] = lambda tiles: None) -> dict[str, str]:
    """Do all steps of a slide that are left; see `Pipeline`."""
    with Pipeline(steps) as pipeline:
        pipeline.compute(advance)
        return pipeline.finish()


class Pipeline(ExitStack):
    """The steps of a slide that are left, in two parts, so that the engine goes on with the next slide in the second.

    Args:
        steps: The open slide and engine.
    """

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps, self._schedule = steps, Schedule(steps)
        self._finding = self.enter_context(_Finding(steps, self._schedule))

    def compute(self, advance: Callable[[int], None] = lambda tiles: None) -> None:
        """Compute all tiles, and find nuclei meanwhile.

        Args:
            advance: Called with a number of computed tiles.
        """
        steps, schedule, finding = self._steps, self._schedule, self._finding
        with ThreadPoolExecutor(1, "read") as reader:
            finding.start(schedule.ready())
            images = _Ahead(steps, schedule.tiles, reader)
            for region in schedule.tiles:
                try:
                    image = images.next()
                except BadInput as error:
                    finding.start(schedule.fail(region, str(error)))
                    advance(len(steps.tissue_tiles(*region)))
                    continue
                finding.keep(region, image, steps.compute(*region, image, advance))
                finding.start(schedule.computed(region))

    def finish(self) -> dict[str, str]:
        """Find the nuclei that are left, in any thread.

        Returns:
            The regions that could not be read, "row-column" -> message.
        """
        self._finding.wait(0)
        return {f"{row}-{column}": message for (row, column), message in self._schedule.failed.items()}


class _Ahead:
    """Reads the next regions while the engine computes."""

    def __init__(self, steps: Steps, regions: Sequence[Position], pool: ThreadPoolExecutor) -> None:
        self._steps, self._left, self._pool = steps, deque(regions), pool
        self._reading: deque[Future[NDArray[np.uint8]]] = deque()
        self._fill()

    def next(self) -> NDArray[np.uint8]:
        """Return the image of the next region."""
        future = self._reading.popleft()
        self._fill()
        return future.result()

    def _fill(self) -> None:
        while self._left and len(self._reading) < AHEAD:
            self._reading.append(self._pool.submit(self._steps.read, *self._left.popleft()))


class _Finding(ExitStack):
    """Writes tiles, and finds the nuclei of regions, while the engine computes the next ones."""

    def __init__(self, steps: Steps, schedule: Schedule) -> None:
        super().__init__()
        self._steps, self._schedule = steps, schedule
        self._threads = min(max(available_cores() // CORES_PER_FINDER, FEWEST_FINDERS), MOST_FINDERS)
        self._writer = self.enter_context(ThreadPoolExecutor(1, "write"))
        self._finders = self.enter_context(ThreadPoolExecutor(self._threads, "nuclei"))
        self._writing: deque[Future[None]] = deque()
        self._running: deque[tuple[Position, Future[None]]] = deque()

    def keep(self, region: Position, image: NDArray[np.uint8], maps: NDArray[np.float32]) -> None:
        """Start to write what a region's neighbours need."""
        self._writing.append(self._writer.submit(self._steps.keep, *region, image, maps))

    def start(self, regions: Sequence[Position]) -> None:
        """Start regions whose tiles are computed; wait while too many are queued."""
        for region in regions:
            self._running.append((region, self._finders.submit(self._find, region, tuple(self._writing))))
        self.wait(AHEAD + self._threads - 1)

    def _find(self, region: Position, writing: Sequence[Future[None]]) -> None:
        for future in writing:
            future.result()
        self._steps.find_nuclei(*region)

    def wait(self, left: int) -> None:
        """Wait until at most `left` regions are queued, and at most as many to be written."""
        while len(self._running) > left:
            region, future = self._running.popleft()
            future.result()
            self._schedule.found(region)
        while self._writing and (len(self._writing) > left or self._writing[0].done()):
            self._writing.popleft().result()
