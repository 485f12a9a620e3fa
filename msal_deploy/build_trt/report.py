"""The report of a build."""

from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.table import Table

from msal_deploy.trt.plan_metadata import ActualPrecision, PlanMetadata

READ_FROM = {
    "inspector": "read from the built engine",
    "log": "read from the engine's layers in the build log",
    "network": "read from the network's types before the build",
}


class BuildReport(msgspec.Struct, frozen=True):
    """A plan that was built into its bundle.

    Attributes:
        file: The plan.
        plan: Its metadata.
        warnings: Warnings for the user.
        seconds: Duration from reading the graph to saving the plan.
        timing_cache_reused: Whether the timing cache of an earlier build was used; the JSON key is ``timings_reused``.
    """

    file: Path
    plan: PlanMetadata
    warnings: tuple[str, ...]
    seconds: float
    timing_cache_reused: bool

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types. Of the plan's path, only the name is included."""
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
        table.add_row("by", f"{plan.backend} {plan.backend_version}, {self.seconds:.1f} s{self._timing_cache()}")
        table.add_row("images", f"{plan.profile}")
        table.add_row("fastest at", " × ".join(map(str, plan.profile.opt)) + " px")
        table.add_row("size", f"{plan.bytes / 2**20:.1f} MiB")
        for index, line in enumerate(_shares(plan.actual)):
            table.add_row("" if index else "computes in", line)
        table.add_row("", READ_FROM[plan.actual.read_from])
        return table

    def _timing_cache(self) -> str:
        return ", reusing an earlier timing cache" if self.timing_cache_reused else ""


def _shares(actual: ActualPrecision) -> list[str]:
    lines = [
        f"{precision}: {100 * share.of_flops:.1f}% of the FLOPs, {share.layers} layers ({100 * share.of_layers:.0f}%)"
        for precision, share in actual.shares.items()
    ]
    return lines if actual.reformats is None else [*lines, f"{actual.reformats} reformat layers"]
