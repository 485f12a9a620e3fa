"""Formats the results for the terminal and as Markdown: what the networks cost, and their scores beside the paper's."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import msgspec
from agreement import ENGINES
from costs import Costs, RowCost, load_costs
from rich import box
from rich.table import Table
from rows import ROWS, TABLES, Row
from scores import RowScore, load_score, schedule_of

NONE = "–"
READING = " (our reading)"
# The paper's columns, with the key of our score.
METRICS = {"DC": "pixel_dice_mean", "IOU": "pixel_iou_mean", "PR": "precision_mean", "RC": "recall_mean"}
COST_COLUMNS = ("parameters, M", "GFLOP", "ORT, ms", "OpenVINO, ms")
SCORE_COLUMNS = (*(f"{name}, ours / paper" for name in METRICS), "DC, pooled")


class Results(msgspec.Struct, frozen=True):
    """All costs and scores, by row key."""

    costs: Costs
    scores: dict[str, RowScore]

    def measured(self) -> dict[str, RowCost]:
        """Return the costs by row key, without those of networks that have changed."""
        return {key: cost for key, row in ROWS.items() if (cost := self.costs.of(row))}


class Grid(msgspec.Struct, frozen=True):
    """A table of text.

    Attributes:
        title: Title of the table in the paper.
        columns: Headers of all columns but the first, which holds the labels.
        lines: The label and the cells of each row.
    """

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


class Section(msgspec.Struct, frozen=True):
    """The tables of the costs or of the scores, without those that have no row.

    Attributes:
        heading: Heading of the section.
        grids: One for each table of the paper.
        notes: The conditions of the measurements and the missing rows, one or two sentences each.
    """

    heading: str
    grids: tuple[Grid, ...]
    notes: tuple[str, ...]


def load(costs: Path, scores: Path | None) -> Results:
    """Read the file of `tables.py costs` and the folder of `tables.py train`.

    Raises:
        BadInput: A file has another format, or the scores are from different schedules.
    """
    by_key = {key: score for key, row in ROWS.items() if scores and (score := load_score(scores, row))}
    schedule_of(list(by_key.values()))
    return Results(load_costs(costs), by_key)


def sections(results: Results) -> tuple[Section, ...]:
    """Return the section of the costs and the section of the scores."""
    costs, scores = results.measured(), results.scores
    cost_grids = _grids(COST_COLUMNS, costs.keys(), lambda row: _cost_cells(costs[row.key]))
    score_grids = _grids(SCORE_COLUMNS, scores.keys(), lambda row: _score_cells(scores[row.key], row))
    return (
        Section("Costs", cost_grids, tuple(_about_costs(results.costs, costs))),
        Section("Scores", score_grids, tuple(_about_scores(scores))),
    )


def _grids(
    columns: tuple[str, ...], keys: Collection[str], cells: Callable[[Row], tuple[str, ...]]
) -> tuple[Grid, ...]:
    shown = {title: [row for row in rows if row.key in keys] for title, rows in TABLES.items()}
    return tuple(
        Grid(title, columns, tuple((_label(row), *cells(row)) for row in rows)) for title, rows in shown.items() if rows
    )


def _label(row: Row) -> str:
    return row.label + (READING if row.reading else "")


def _cost_cells(cost: RowCost) -> tuple[str, ...]:
    times = (f"{cost.milliseconds(engine):.1f}{'' if cost.stable(engine) else ' !'}" for engine in ENGINES)
    return (f"{cost.parameters / 1e6:.1f}", f"{cost.gflop:.1f}", *times)


def _score_cells(score: RowScore, row: Row) -> tuple[str, ...]:
    published = (getattr(row.paper, name.lower()) for name in METRICS)
    pairs = zip(METRICS.values(), published, strict=True)
    return (
        *(f"{score.scores[key]:.3f} / {NONE if theirs is None else f'{theirs:.3f}'}" for key, theirs in pairs),
        f"{score.scores['pixel_dice_pooled']:.3f}",
    )


def as_tables(section: Section) -> list[Table]:
    """Return the tables of a section for an 80-column terminal."""
    return [_table(section.heading, grid) for grid in section.grids]


def _table(heading: str, grid: Grid) -> Table:
    table = Table(title=f"{grid.title} ({heading.lower()})", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("", min_width=14)
    for column in grid.columns:
        table.add_column(column.replace(", ", "\n"), justify="right", no_wrap=True)
    for line in grid.lines:
        table.add_row(*line)
    return table


def as_markdown(parts: Sequence[Section]) -> str:
    """Return sections as Markdown."""
    return "\n\n".join(block for section in parts for block in _markdown_blocks(section)) + "\n"


def _markdown_blocks(section: Section) -> Iterator[str]:
    yield f"### {section.heading}"
    for grid in section.grids:
        rule = ("---", *["--:"] * len(grid.columns))
        yield "\n".join(f"| {' | '.join(cells)} |" for cells in ((grid.title, *grid.columns), rule, *grid.lines))
    yield "\n".join(f"- {note}" if section.grids else note for note in section.notes)


def _about_costs(costs: Costs, measured: dict[str, RowCost]) -> Iterator[str]:
    if not measured:
        yield "Costs are left out, because the results have no measured row."
        return
    shown = list(measured.values())
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
    yield from _missing("Not measured", measured.keys())


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


def _about_scores(scores: dict[str, RowScore]) -> Iterator[str]:
    if not scores:
        yield "Scores are left out, because the results have no trained row."
        return
    score = next(iter(scores.values()))
    recipe = score.recipe
    yield (
        f"Scores: means over {len(score.patches)} patches of {score.images} test images of {score.data}, predicted by "
        f"{score.engine}; recipe {recipe.name}, {recipe.train.epochs} epochs, one training per row. DC, pooled: our "
        "Dice of the pixel counts of all patches together."
    )
    yield f"Trained on: {_about_devices(scores)}."
    yield from _missing("Not trained", scores.keys())


def _about_devices(scores: dict[str, RowScore]) -> str:
    keys: dict[str, list[str]] = {}
    for key, score in scores.items():
        keys.setdefault(score.trained_on, []).append(key)
    if len(keys) == 1:
        return next(iter(keys))
    return "; ".join(f"{device} ({', '.join(rows)})" for device, rows in keys.items())


def _missing(what: str, keys: Collection[str]) -> Iterator[str]:
    if missing := [key for key in ROWS if key not in keys]:
        yield f"{what}: {', '.join(missing)}."
