"""The results of the separation: tables and JSON."""

from typing import Any

import msgspec
from rich import box
from rich.table import Table

from msal_deploy.instances import Separation


class Row(msgspec.Struct, frozen=True):
    """Mean scores over the images of a data set with nuclei, and the mean number of true and found nuclei."""

    data: str
    how: str
    images: int
    scores: dict[str, float]
    true: float
    found: float


class Timing(msgspec.Struct, frozen=True):
    """Processor time of one image on one thread."""

    sizes: list[str]
    images: int
    min_ms: float
    median_ms: float
    max_ms: float


class Results(msgspec.Struct, frozen=True):
    """What was measured.

    Attributes:
        engine: The engine of `choice`, `limits` and `timing`.
        parameters: The defaults.
        choice: Variants of the parameters on held-out training images.
        limits: Other ways to separate on the same images, some of which know the truth.
        test: Each engine on test images, and the other ways with the first engine.
        timing: Of the default on the test images.
        environment: The machine.
    """

    engine: str
    parameters: Separation
    choice: list[Row]
    limits: list[Row]
    test: list[Row]
    timing: Timing
    environment: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dict(msgspec.to_builtins(self))

    def tables(self) -> tuple[Table | str, ...]:
        time = self.timing
        return (
            _table(f"Parameters, on held-out training images ({self.engine})", self.choice),
            _table(f"What limits it, on held-out training images ({self.engine})", self.limits),
            _table("Test images", self.test),
            f"{', '.join(time.sizes)} px on one thread: median {time.median_ms:.0f} ms of processor time, "
            f"{time.min_ms:.0f} to {time.max_ms:.0f} ms ({time.images} measurements)",
        )


def _table(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for k, column in enumerate(("set", "separation", "images", "AJI", "PQ", "SQ", "DQ", "true", "found")):
        table.add_column(column, justify="right" if k > 1 else "left")
    for row in rows:
        scores = (f"{row.scores[f'{name}_mean']:.4f}" for name in ("aji", "pq", "sq", "dq"))
        table.add_row(row.data, row.how, str(row.images), *scores, f"{row.true:.0f}", f"{row.found:.0f}")
    return table
