"""Report: what was built."""

from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.table import Table

from msal_deploy.trt.plan_metadata import ActualPrecision, PlanMetadata

READ_FROM = {
    "inspector": "read from the built engine",
    "log": "read from the builder's list of the engine's layers",
    "network": "read from the network's types before the build",
}


class BuildReport(msgspec.Struct, frozen=True):
    """A plan that is in its bundle.

    Attributes:
        file: the plan.
        warnings: what the user should know of it.
        seconds: from the graph to the plan.
        timing_cache_reused: whether the builder took timings of an earlier build.
    """

    file: Path
    plan: PlanMetadata
    warnings: tuple[str, ...]
    seconds: float
    timing_cache_reused: bool

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only; of the plan's place only its name."""
        return {
            "file": self.file.name,
            "plan": msgspec.to_builtins(self.plan),
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 2),
            "timings_reused": self.timing_cache_reused,
        }

    def table(self) -> Table:
        """Return the report as a table for an 80-column terminal."""
        plan = self.plan
        table = Table(title=self.file.name, box=box.SIMPLE, show_header=False)
        table.add_column(style="bold")
        table.add_column()
        gpu = f"{plan.gpu}, " if plan.gpu else ""
        table.add_row("for", f"{gpu}compute capability {', '.join(plan.sm)}")
        table.add_row("by", f"{plan.backend} {plan.backend_version}, {self.seconds:.1f} s{self._timings()}")
        table.add_row("images", f"{plan.profile}")
        table.add_row("fastest at", " × ".join(map(str, plan.profile.opt)) + " px")
        table.add_row("size", f"{plan.bytes / 2**20:.1f} MiB")
        for number, line in enumerate(_shares(plan.realised)):
            table.add_row("" if number else "computes in", line)
        table.add_row("", READ_FROM[plan.realised.read_from])
        return table

    def _timings(self) -> str:
        return ", with the timings of an earlier build" if self.timing_cache_reused else ""


def _shares(realised: ActualPrecision) -> list[str]:
    lines = [
        f"{precision}: {100 * share.of_flops:.1f}% of the FLOPs, {share.layers} layers ({100 * share.of_layers:.0f}%)"
        for precision, share in realised.shares.items()
    ]
    return lines if realised.reformats is None else [*lines, f"{realised.reformats} reformat layers"]
