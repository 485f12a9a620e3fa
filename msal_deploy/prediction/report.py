"""What a call of predict did."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from msal_deploy.errors import GateFailed
from msal_deploy.prediction.record import RunRecord


class PredictReport(msgspec.Struct, frozen=True):
    """The slides of one call.

    Attributes:
        out: Folder of the results.
        slides: Name -> its run record.
        failures: Source -> why it has no result.
        seconds: Stage -> seconds of work in this call; "total" is the time that passed.
        cpu_seconds: Stage -> processor time of the stage's threads in seconds; "total" is the whole process's. An
            engine's own threads are in the total only.
        timeline: (stage, region, start, end) in seconds since the start of the call.
    """

    out: Path
    slides: Mapping[str, RunRecord]
    failures: Mapping[str, str]
    seconds: Mapping[str, float] = {}
    cpu_seconds: Mapping[str, float] = {}
    timeline: tuple[tuple[str, str, float, float], ...] = ()

    @property
    def problems(self) -> list[str]:
        """One sentence for each slide that failed as a whole or in part."""
        partly = [
            f"{name}: {len(record.failed)} of {record.grid[0] * record.grid[1]} regions could not be read "
            f"({next(iter(record.failed.values()))})"
            for name, record in self.slides.items()
            if record.failed
        ]
        return [f"{source}: {message}" for source, message in self.failures.items()] + partly

    def require_passed(self) -> None:
        """Raise `GateFailed` if a slide failed, as a whole or in part."""
        if self.problems:
            raise GateFailed("; ".join(self.problems), "the other slides and regions are complete")

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {"slides": msgspec.to_builtins(self.slides), "failures": dict(self.failures)}

    def table(self) -> Table:
        """Return a table for the terminal."""
        table = Table("slide", "nuclei", "tissue, mm²", "nuclei/mm²", "seconds", "s/mm²", "engine, s")
        for name, record in self.slides.items():
            table.add_row(name, *_row(record))
        return table


def _row(record: RunRecord) -> list[str]:
    if record.nuclei < 0:
        return ["incomplete", f"{record.tissue_mm2:.3f}", "", "", "", ""]
    area, total = record.tissue_mm2, record.seconds.get("total", 0.0)
    density = f"{record.nuclei / area:,.0f}" if area else "–"
    speed = f"{total / area:.2f}" if area else "–"
    engine = f"{record.seconds.get('infer', 0.0):.1f}"
    return [f"{record.nuclei:,}", f"{area:.3f}", density, f"{total:.1f}", speed, engine]
