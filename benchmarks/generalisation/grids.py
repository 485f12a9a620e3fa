"""Small tables that are shown in a terminal and written as Markdown."""

from collections.abc import Iterable, Sequence

import msgspec
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

NONE = "–"


class Grid(msgspec.Struct, frozen=True):
    """A table of text.

    Attributes:
        title: Sentence above the table.
        columns: Headers; the first column is text, the others are aligned to the right.
        lines: One tuple of cells per row, as long as `columns`.
    """

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    def shown(self) -> Group:
        """Return the title and the table for a terminal."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for k, column in enumerate(self.columns):
            table.add_column(column, justify="right" if k else "left", overflow="fold", no_wrap=len(column) < 9)
        for line in self.lines:
            table.add_row(*line)
        return Group(Text(self.title), table)

    def as_markdown(self) -> str:
        """Return the title and the table as Markdown."""
        rule = ("---", *["--:"] * (len(self.columns) - 1))
        rows = (self.columns, rule, *self.lines)
        return f"{self.title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def as_markdown(grids: Iterable[Grid], notes: Sequence[str] = ()) -> str:
    """Return tables, and a list of notes below them, as Markdown."""
    blocks = [*(grid.as_markdown() for grid in grids), *(["\n".join(f"- {note}" for note in notes)] if notes else [])]
    return "\n\n".join(blocks) + "\n"


def score(value: float | None) -> str:
    """Format a score with three decimals, or a dash."""
    return NONE if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Format a ratio in percent without decimals, rounded down so that 94.9% is never shown as 95%."""
    return NONE if value is None else f"{int(100 * value + 1e-9)}%"
