"""Formats both tables for the terminal and as Markdown, ours beside the paper's. Rows without results are left out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from agreement import ENGINES
from costs import Costs, RowCost, load_costs
from rich import box
from rich.table import Table
from rows import ROWS, TABLES, Published, Row
from scores import RowScore, load_score, schedule_of

NONE = "–"
READING = " (our reading)"
# The paper's columns, with the key of our score.
METRICS = {"DC": "pixel_dice_mean", "IOU": "pixel_iou_mean", "PR": "precision_mean", "RC": "recall_mean"}
COST_COLUMNS = ("parameters, M", "GFLOP", "ORT, ms", "OpenVINO, ms")
NARROW_COST_COLUMNS = ("params\nM", "GFLOP", "ORT\nms", "OpenV.\nms")


class Results(msgspec.Struct, frozen=True):
    """All costs and scores, by row key."""

    costs: Costs
    scores: dict[str, RowScore]

    def cost_keys(self) -> list[str]:
        """Return the keys of the rows with costs."""
        return [key for key, row in ROWS.items() if self.costs.of(row)]


class Line(msgspec.Struct, frozen=True):
    """The cells of a table row.

    Attributes:
        label: Name of the network.
        metrics: For each metric ours and the paper's, or only the paper's if no row has scores.
        costs: Cells of `COST_COLUMNS`, or none if no row has costs.
    """

    label: str
    metrics: tuple[tuple[str, ...], ...]
    costs: tuple[str, ...]


def load(costs: Path, scores: Path | None) -> Results:
    """Read the file of `tables.py costs` and the folder of `tables.py train`.

    Raises:
        BadInput: A file has another format, or the scores are from different schedules.
    """
    by_key = {key: score for key, row in ROWS.items() if scores and (score := load_score(scores, row))}
    schedule_of(list(by_key.values()))
    return Results(load_costs(costs), by_key)


def lines(results: Results, rows: Sequence[Row]) -> Iterator[Line]:
    """Yield the lines of a table: one for each row with a score or costs."""
    any_costs = bool(results.cost_keys())
    for row in rows:
        score, cost = results.scores.get(row.key), results.costs.of(row)
        if score or cost:
            label = row.label + (READING if row.reading else "")
            yield Line(label, _metric_cells(results, row, score), _cost_cells(cost) if any_costs else ())


def _metric_cells(results: Results, row: Row, score: RowScore | None) -> tuple[tuple[str, ...], ...]:
    theirs = [_theirs(row.paper, name) for name in METRICS]
    if not results.scores:
        return tuple((cell,) for cell in theirs)
    ours = [f"{score.scores[key]:.3f}" if score else NONE for key in METRICS.values()]
    return tuple(zip(ours, theirs, strict=True))


def _theirs(paper: Published, name: str) -> str:
    value: float | None = getattr(paper, name.lower())
    return NONE if value is None else f"{value:.3f}"


def _cost_cells(cost: RowCost | None) -> tuple[str, ...]:
    if cost is None:
        return (NONE,) * len(COST_COLUMNS)
    times = (f"{cost.milliseconds(engine):.1f}{'' if cost.stable(engine) else ' !'}" for engine in ENGINES)
    return (f"{cost.parameters / 1e6:.1f}", f"{cost.gflop:.1f}", *times)


def as_tables(results: Results) -> list[Table]:
    """Return the tables for an 80-column terminal: in a cell ours, and the paper's below it."""
    filled = {title: list(lines(results, rows)) for title, rows in TABLES.items()}
    return [_table(results, title, rows) for title, rows in filled.items() if rows]


def _table(results: Results, title: str, rows: Sequence[Line]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("", min_width=14)
    for name in METRICS:
        table.add_column(f"{name}\n[dim]paper[/]", justify="right", no_wrap=True)
    for name in NARROW_COST_COLUMNS if results.cost_keys() else ():
        table.add_column(name, justify="right", no_wrap=True)
    for line in rows:
        metrics = ("\n".join([*ours, f"[dim]{theirs}[/]"]) for *ours, theirs in line.metrics)
        table.add_row(line.label, *metrics, *line.costs)
    return table


def as_markdown(results: Results) -> str:
    """Return both tables and the notes as Markdown."""
    filled = {title: list(lines(results, rows)) for title, rows in TABLES.items()}
    parts = [_markdown_table(results, title, rows) for title, rows in filled.items() if rows]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes(results))]) + "\n"


def _markdown_table(results: Results, title: str, rows: Sequence[Line]) -> str:
    whose = "ours / paper" if results.scores else "paper"
    header = [title, *(f"{name}, {whose}" for name in METRICS), *(COST_COLUMNS if results.cost_keys() else ())]
    rule = ["---"] + ["--:"] * (len(header) - 1)
    body = [[line.label, *(" / ".join(cells) for cells in line.metrics), *line.costs] for line in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *body))


def notes(results: Results) -> list[str]:
    """Return the conditions of the measurements, and what was not run, one or two sentences each."""
    return [note for note in (_not_run(results), _about_scores(results), *_about_costs(results)) if note]


def _not_run(results: Results) -> str:
    missing = {
        what: [key for key in ROWS if key not in keys]
        for what, keys in (("scores", list(results.scores)), ("costs", results.cost_keys()))
    }
    parts = [
        f"{what} of {'all rows' if len(keys) == len(ROWS) else ', '.join(keys)}"
        for what, keys in missing.items()
        if keys
    ]
    return f"Not run: {'; '.join(parts)}." if parts else ""


def _about_scores(results: Results) -> str:
    if not results.scores:
        return ""
    score = next(iter(results.scores.values()))
    schedule = score.recipe
    return (
        f"Scores: means over {len(score.patches)} patches of {score.images} test images of {score.data}, predicted by "
        f"{score.engine}; recipe {schedule.name}, {schedule.train.epochs} epochs, one training per row."
    )


def _about_costs(results: Results) -> Iterator[str]:
    costs = results.costs
    shown = [costs.rows[key] for key in results.cost_keys()]
    if not shown:
        return
    yield (
        f"Costs: one image of {costs.size} × {costs.size} px; latency is the end-to-end median of the exported FP32 "
        f"graph. Weights: {costs.weights}. Latency does not depend on the weights."
    )
    machines = {f"{cost.environment['processor']}, {cost.environment['logical_cores']} logical cores" for cost in shown}
    versions = {_versions(cost) for cost in shown}
    yield f"Measured on: {' and '.join(sorted(machines))}; {' and '.join(sorted(versions))}."
    yield _about_agreement(shown)
    if any(not cost.stable(engine) for cost in shown for engine in ENGINES):
        yield "! Unstable: the medians of the time windows vary by more than 2.5%; repeat on a quiet machine."


def _versions(cost: RowCost) -> str:
    known = cost.environment["versions"]
    return ", ".join(f"{name} {known[name]}" for name in ("onnxruntime", "openvino") if name in known)


def _about_agreement(shown: Sequence[RowCost]) -> str:
    largest = max(cost.agreement.max_abs_delta for cost in shown)
    tolerance = max(cost.agreement.tolerance for cost in shown)
    shapes = " and ".join(sorted({cost.agreement.shapes for cost in shown}))
    return (
        f"Agreement with PyTorch ({shapes} shapes): all {len(shown)} measured networks pass; the largest |Δp| in "
        f"either runtime is {largest:.1e} (tolerance {tolerance:g})."
    )
