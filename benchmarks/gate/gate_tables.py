"""The results of a simulation as tables for the terminal."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.table import Table

Results = Mapping[str, Any]


def tables(results: Results) -> Iterator[Table]:
    """Yield the tables that the README of this folder shows."""
    yield _of_gate(results)
    yield _of_bounds(results)
    yield _of_catastrophes(results)


def rows_where(rows: Iterable[Mapping[str, Any]], **values: Any) -> list[Mapping[str, Any]]:
    """Return the rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def _of_gate(results: Results) -> Table:
    title = "Passes with a loss equal to the budget (at most 5% should), without a loss, and without one if the"
    table = _table(f"{title} spread equals the budget", "deltas", "correlation", "images", "= budget", "none", "spread")
    for at_budget in rows_where(results["gate"], loss=results["budget"], spread="observed"):
        cell = {key: at_budget[key] for key in ("family", "correlation", "images")}
        free = [rows_where(results["gate"], loss=0, spread=name, **cell)[0] for name in results["spreads"]]
        table.add_row(*map(str, cell.values()), *(percent(row["within"]) for row in (at_budget, *free)))
    return table


def _of_bounds(results: Results) -> Table:
    images = sorted({row["images"] for row in results["other_bounds"]})
    title = "Lower bound above the true mean, correlation 0.8, by number of images"
    table = _table(title, "deltas", "bound", *map(str, images))
    found = rows_where(results["other_bounds"], correlation=0.8)
    for family, bound in dict.fromkeys((row["family"], row["bound"]) for row in found):
        rows = rows_where(found, family=family, bound=bound)
        table.add_row(family, bound, *(percent(row["lower_wrong"]) for row in rows))
    return table


def _of_catastrophes(results: Results) -> Table:
    title = "Passes although images are ruined: before, by the mean alone, with the limit of the worst image"
    table = _table(title, "ruined", "lose", "mean loss", "images", "before", "mean", "and worst", "none seen")
    for row in results["catastrophes"]:
        keys = ("passed_before", "passes_by_the_mean", "passes_with_the_worst_image", "no_image_ruined")
        kind = (f"{row['share']:.0%}", f"{row['loss']:g}", f"{row['mean_loss']:.4f}", str(row["images"]))
        table.add_row(*kind, *(percent(row[key]) for key in keys))
    return table


def percent(share: float) -> str:
    """Format a share with one decimal."""
    return f"{100 * share:.1f}%"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in ("deltas", "bound") else "right")
    return table
