"""Accuracy × latency: the Dice from validate and the latency from bench, joined by engine, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msal_deploy.metrics import signed
from msal_deploy.report.formatting import Json
from msal_deploy.report.verdict import engine_state

if TYPE_CHECKING:
    from rich.table import Table

DICE_DIGITS = 4  # as in the tables: values that look equal there are equal for the Pareto front
SIGNS = {"passed": "[green]✓[/]", "failed": "[red]✗[/]", "undecided": "[yellow]?[/]"}
PARETO_OPTIMAL = "no other engine is at least as fast and as accurate and better in one of the two"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return whether each (latency, Dice) point is on the Pareto front.

    A point is on the front if no other point has at most its latency and at least its Dice, and is better in one.

    >>> pareto_front([(70, 0.81), (450, 0.82), (500, 0.80)])
    [True, True, False]
    """
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] >= other[1]


def accuracy_latency(
    validation: Json, bench: Json, *, weights: str = "", also: Sequence[Json] = ()
) -> list[dict[str, Any]]:
    """Return a row of JSON types for each engine that was scored and timed, the fastest first.

    The latency is the p50 at the smallest batch in `bench`, of the engine's fastest setting. Engines that were not
    timed are left out. An engine with probabilities that are not finite has a row and is never Pareto-optimal.

    With `also`, the rows have the key ``weights`` and there is one Pareto front over all rows. Speed-ups are over the
    reference of the first weights, and ΔDice is relative to the reference of the same weights.

    >>> score = {"pixel_dice_mean": 0.81, "delta_dice": {"lower": 0.0}, "finite": True, "passed": True}
    >>> validation = {"reference": "torch:fp32", "engines": {"torch:fp32": score, "openvino:int8": score}}
    >>> times = {"torch:fp32": 446.0, "openvino:int8": 55.75}
    >>> bench = {"results": [{"engine": e, "batch": 1, "latency_ms": {"p50": p50}} for e, p50 in times.items()]}
    >>> [(row["engine"], row["speed_up"], row["pareto_optimal"]) for row in accuracy_latency(validation, bench)]
    [('openvino:int8', 8.0, True), ('torch:fp32', 1.0, False)]

    Args:
        validation: The value of `ValidationReport.to_json`.
        bench: The value of `BenchReport.to_json`.
        weights: Name of the weights of `validation` and `bench`; only used with `also`.
        also: Other weights, scored on the same patches: mappings with ``weights`` (their name), ``validate`` and
            ``bench``.
    """
    smallest = min((row["batch"] for row in bench["results"]), default=0)
    reference = _fastest(bench, smallest).get(validation["reference"])
    rows = _rows(validation, _fastest(bench, smallest), reference)
    if also:
        rows = [{"weights": weights, **row} for row in rows]
    for one in also:
        others = _rows(one["validate"], _fastest(one["bench"], smallest), reference)
        rows += [{"weights": one["weights"], **row} for row in others]
    finite = [_point(row) for row in rows if row["finite"]]
    front = {point for point, is_optimal in zip(finite, pareto_front(finite), strict=True) if is_optimal}
    marked = [{**row, "pareto_optimal": row["finite"] and _point(row) in front} for row in rows]
    return sorted(marked, key=lambda row: float(row["latency_ms_p50"]))


def _point(row: Json) -> tuple[float, float]:
    return row["latency_ms_p50"], round(row["pixel_dice_mean"], DICE_DIGITS)


def _rows(validation: Json, timed: Mapping[str, Json], reference: Json | None) -> list[dict[str, Any]]:
    return [_row(name, score, timed[name], reference) for name, score in validation["engines"].items() if name in timed]


def _fastest(bench: Json, batch: int) -> dict[str, Json]:
    """Return engine -> its fastest result at a batch."""
    results = [row for row in bench["results"] if row["batch"] == batch]
    # Slowest first: for an engine with several results, the dict keeps the last one, the fastest.
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
        "state": engine_state(score),
    }


def references_text(reference: str, weights: str) -> str:
    """Return what ΔDice and speed-up of several weights compare, and what their latencies do not.

    >>> references_text("torch:fp32", "msal-net-r34").split(". ")[0]
    'ΔDice: compared with torch:fp32 of the same weights'
    """
    return (
        f"ΔDice: compared with {reference} of the same weights. Speed-up: over {reference} of {weights}. "
        "The weights were timed in separate runs, not interleaved: ratios between weights are less exact."
    )


def accuracy_latency_table(validation: Json, bench: Json, *, weights: str = "", also: Sequence[Json] = ()) -> Table:
    """Return the rows of `accuracy_latency` as a table for an 80-column terminal, with the same arguments."""
    from rich import box
    from rich.table import Table

    rows = accuracy_latency(validation, bench, weights=weights, also=also)
    table = Table(
        title=f"Accuracy × latency, batch {rows[0]['batch']}" if rows else "Accuracy × latency: no engine was timed",
        caption=f"● Pareto-optimal: {PARETO_OPTIMAL}.\n"
        f"✓ passed, ✗ failed, ? undecided: a budget of {validation['budget']:g} Dice compared with "
        f"{validation['reference']}." + (f"\n{references_text(validation['reference'], weights)}" if also else ""),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("engine", no_wrap=True)
    if also:
        table.add_column("weights", overflow="fold")
    for column in ("Dice\nmean", "ΔDice\nlower", "p50\nms", "speed-up", "Pareto", ""):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row["engine"], *([row["weights"]] if also else []), *_cells(row))
    return table


def _cells(row: Json) -> list[str]:
    return [
        f"{row['pixel_dice_mean']:.{DICE_DIGITS}f}",
        signed(row["delta_dice_lower"]),
        f"{row['latency_ms_p50']:.1f}",
        f"{row['speed_up']:.2f}×" if row["speed_up"] else "–",
        "[bold]●[/]" if row["pareto_optimal"] else "",
        SIGNS[row["state"]] if row["finite"] else "[red]✗ NaN[/]",
    ]
