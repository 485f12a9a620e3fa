"""Progress of a run: mm² per second, and the time that is left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console

from msal_deploy.prediction.schedule import Schedule
from msal_deploy.prediction.steps import Steps


class _Speed(bars.ProgressColumn):
    """Area per second."""

    def render(self, task: bars.Task) -> str:
        """Return the text of the column."""
        return f"{task.speed:.3f} mm²/s" if task.speed else "… mm²/s"


class Progress:
    """A bar for each slide, on stderr."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    @contextmanager
    def slide(self, steps: Steps) -> Iterator[Callable[[int], None]]:
        """Show the progress of a slide; yield a function that takes numbers of computed tiles."""
        area = _tile_mm2(steps)
        total = sum(len(steps.tissue_tiles(*region)) for region in Schedule(steps).tiles)
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TextColumn("{task.completed:.2f} of {task.total:.2f} mm²"),
            _Speed(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=Console(stderr=True), disable=not self._shown) as shown:
            task = shown.add_task(steps.slide.name, total=total * area)
            yield lambda tiles: shown.advance(task, tiles * area)


def _tile_mm2(steps: Steps) -> float:
    """Return the area of the slide for each of its tiles."""
    height, width = steps.grid.extent
    pixels = height * width / (len(steps.grid.rows) * len(steps.grid.columns))
    return float(pixels) * steps.engine.spec.microns_per_pixel**2 / 1e6
