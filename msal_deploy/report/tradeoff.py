"""Accuracy × latency: which engines are worth choosing, from what validate scored and what bench timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msal_deploy.metrics import signed
from msal_deploy.report.wording import Json

if TYPE_CHECKING:
    from rich.table import Table

DICE_DIGITS = 4  # as in the tables: what looks equal there is equal to the front
FRONT = "no other engine is at least as fast and as accurate, and better in one"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (latency, Dice) whether no other is at least as fast and as accurate, and better in one."""
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] >= other[1]


def accuracy_latency(validation: Json, bench: Json) -> list[dict[str, Any]]:
    """Return a row for each engine that was both scored and timed, the fastest first, as JSON types.

    Latencies are those at the smallest batch of `bench`, of an engine's fastest setting. An engine without one is left
    out: nobody can choose by a speed that was not measured. An engine whose probabilities are not all finite keeps its
    row, off the front.

    Args:
        validation: what `ValidationReport.to_json` returned.
        bench: what `BenchReport.to_json` returned.
    """
    timed = _fastest(bench)
    reference = timed.get(validation["reference"])
    rows = [_row(name, score, timed[name], reference) for name, score in validation["engines"].items() if name in timed]
    choices = [row for row in rows if row["finite"]]
    front = pareto_front([(row["latency_ms_p50"], round(row["pixel_dice_mean"], DICE_DIGITS)) for row in choices])
    best = [row["engine"] for row, optimal in zip(choices, front, strict=True) if optimal]
    found = [{**row, "pareto_optimal": row["engine"] in best} for row in rows]
    return sorted(found, key=lambda row: float(row["latency_ms_p50"]))


def _fastest(bench: Json) -> dict[str, Json]:
    """Return engine -> its fastest result at the smallest batch."""
    least = min((row["batch"] for row in bench["results"]), default=0)
    results = [row for row in bench["results"] if row["batch"] == least]
    # Of an engine that comes twice, a dict keeps the last: the fastest.
    return {row["engine"]: row for row in sorted(results, key=lambda row: -float(row["latency_ms"]["p50"]))}


def _row(engine: str, score: Json, timed: Json, reference: Json | None) -> dict[str, Any]:
    p50 = timed["latency_ms"]["p50"]
    return {
        "engine": engine,
        "batch": timed["batch"],
        "threads": timed.get("threads"),
        "streams": timed.get("streams", 1),
        "pixel_dice_mean": score["pixel_dice_mean"],
        "delta_dice_lower": score["delta_dice"]["lower"],
        "latency_ms_p50": p50,
        "speed_up": reference["latency_ms"]["p50"] / p50 if reference else None,
        "finite": score["finite"],
        "passed": score["passed"],
    }


def accuracy_latency_table(validation: Json, bench: Json) -> Table:
    """Return the rows of `accuracy_latency` as a table for an 80-column terminal."""
    from rich import box
    from rich.table import Table

    rows = accuracy_latency(validation, bench)
    table = Table(
        title=f"Accuracy × latency, batch {rows[0]['batch']}" if rows else "Accuracy × latency: nothing was timed",
        caption=f"● Pareto-optimal: {FRONT}.\n"
        f"✓ within the budget of {validation['budget']:g} Dice of {validation['reference']}.",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("engine", no_wrap=True)
    for column in ("Dice\nmean", "ΔDice\nlower", "p50\nms", "speed-up", "Pareto", ""):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row["engine"], *_cells(row))
    return table


def _cells(row: Json) -> list[str]:
    return [
        f"{row['pixel_dice_mean']:.{DICE_DIGITS}f}",
        signed(row["delta_dice_lower"]),
        f"{row['latency_ms_p50']:.1f}",
        f"{row['speed_up']:.2f}×" if row["speed_up"] else "–",
        "[bold]●[/]" if row["pareto_optimal"] else "",
        "[green]✓[/]" if row["passed"] else "[red]✗[/]" if row["finite"] else "[red]✗ NaN[/]",
    ]
