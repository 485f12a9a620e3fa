"""Both tables as rich tables and as Markdown: ours beside the paper's, and "not run" where there is no result."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from costs import Costs, RowCost, load_costs
from parity import ENGINES
from rich import box
from rich.table import Table
from rows import ROWS, TABLES, Published, Row
from scores import RowScore, load_score, schedule_of

NOT_RUN = "not run"
READING = " (our reading)"
# Column -> the key of our score, and the paper's.
METRICS = {"DC": "pixel_dice_mean", "IOU": "pixel_iou_mean", "PR": "precision_mean", "RC": "recall_mean"}
COST_COLUMNS = ("parameters, M", "GFLOP", "ORT, ms", "OpenVINO, ms")


class Results(msgspec.Struct, frozen=True):
    """Everything that has been run."""

    costs: Costs
    scores: dict[str, RowScore]


class Line(msgspec.Struct, frozen=True):
    """A row of a table as text: for each metric ours and the paper's, then the costs."""

    label: str
    metrics: tuple[tuple[str, str], ...]
    costs: tuple[str, ...]


def load(costs: Path, scores: Path | None) -> Results:
    """Read what there is.

    Raises:
        BadInput: a file cannot be read, or the scores are of different schedules and cannot stand in one table.
    """
    found = {key: score for key, row in ROWS.items() if scores and (score := load_score(scores, row))}
    schedule_of(list(found.values()))
    return Results(load_costs(costs), found)


def lines(results: Results, rows: Sequence[Row]) -> Iterator[Line]:
    """Yield the lines of a table."""
    for row in rows:
        score = results.scores.get(row.key)
        metrics = tuple((_ours(score, key), _theirs(row.paper, name)) for name, key in METRICS.items())
        label = row.label + (READING if row.reading else "")
        yield Line(label, metrics, _cost_cells(results.costs.of(row)))


def _ours(score: RowScore | None, key: str) -> str:
    return NOT_RUN if score is None else f"{score.scores[key]:.3f}"


def _theirs(paper: Published, name: str) -> str:
    value: float | None = getattr(paper, name.lower())
    return "–" if value is None else f"{value:.3f}"


def _cost_cells(cost: RowCost | None) -> tuple[str, ...]:
    if cost is None:
        return (NOT_RUN,) * len(COST_COLUMNS)
    times = (f"{cost.milliseconds(engine):.1f}{'' if cost.stable(engine) else ' !'}" for engine in ENGINES)
    return (f"{cost.parameters / 1e6:.1f}", f"{cost.gflop:.1f}", *times)


def as_tables(results: Results) -> list[Table]:
    """Return the tables for an 80-column terminal: in a cell ours, and the paper's below it."""
    tables = [_table(title, list(lines(results, rows))) for title, rows in TABLES.items()]
    tables[-1].caption = "\n".join(notes(results))
    tables[-1].caption_justify = "left"
    return tables


def _table(title: str, rows: Sequence[Line]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("", min_width=14)
    for name in METRICS:
        table.add_column(f"{name}\n[dim]paper[/]", justify="right", no_wrap=True)
    for name in ("params\nM", "GFLOP", "ORT\nms", "OpenV.\nms"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in rows:
        metrics = (f"{ours}\n[dim]{theirs}[/]" for ours, theirs in line.metrics)
        table.add_row(line.label, *metrics, *line.costs)
    return table


def as_markdown(results: Results) -> str:
    """Return both tables and what they hold for, as Markdown."""
    parts = [_markdown_table(title, list(lines(results, rows))) for title, rows in TABLES.items()]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes(results))]) + "\n"


def _markdown_table(title: str, rows: Sequence[Line]) -> str:
    header = [title, *(f"{name}, ours / paper" for name in METRICS), *COST_COLUMNS]
    rule = ["---"] + ["--:"] * (len(header) - 1)
    body = [[line.label, *(" / ".join(pair) for pair in line.metrics), *line.costs] for line in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *body))


def notes(results: Results) -> list[str]:
    """Return what the numbers hold for, a sentence or two each."""
    found = [_about_scores(results), *_about_costs(results.costs)]
    return [note for note in found if note]


def _about_scores(results: Results) -> str:
    if not results.scores:
        return f"Scores: {NOT_RUN}."
    score = next(iter(results.scores.values()))
    schedule = score.recipe
    return (
        f"Scores: means over {len(score.patches)} patches of {score.images} test images of {score.data}, by "
        f"{score.engine}; recipe {schedule.name}, {schedule.train.epochs} epochs, one training a row."
    )


def _about_costs(costs: Costs) -> Iterator[str]:
    shown = [cost for row in ROWS.values() if (cost := costs.of(row))]
    yield (
        f"Costs: one image of {costs.size} × {costs.size} px; latency is the median, host to host, of the exported "
        f"FP32 graph. Weights: {costs.weights}; latency does not depend on them."
    )
    machines = {f"{cost.environment['processor']}, {cost.environment['logical_cores']} logical cores" for cost in shown}
    versions = {_versions(cost) for cost in shown}
    if shown:
        yield f"Measured on: {' and '.join(sorted(machines))}; {' and '.join(sorted(versions))}."
        yield _about_parity(shown)
    if any(not cost.stable(engine) for cost in shown for engine in ENGINES):
        yield "! Unstable: the time windows' medians vary by more than 2.5%; repeat on a quiet machine."


def _versions(cost: RowCost) -> str:
    known = cost.environment["versions"]
    return ", ".join(f"{name} {known[name]}" for name in ("onnxruntime", "openvino") if name in known)


def _about_parity(shown: Sequence[RowCost]) -> str:
    worst = max(cost.proof.worst for cost in shown)
    tolerance = max(cost.proof.tolerance for cost in shown)
    how = " and ".join(sorted({cost.proof.parity for cost in shown}))
    return (
        f"ONNX parity ({how}): each of the {len(shown)} networks measured passes; the largest |Δp| against torch, in "
        f"either runtime, is {worst:.1e} ({tolerance:g} is allowed)."
    )
