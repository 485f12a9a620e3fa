"""Tables read as a reader reads them: a number belongs to the header of its column and to the name of its row."""

import io
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = dict[str, str]
VOID = {"meta", "img", "br", "link", "input", "hr"}


def terminal_rows(table: Table) -> list[Row]:
    """Return each row as header -> cell, without markup; lines of a header or a cell are joined by a space."""
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    headers = [_plain(column.header) for column in table.columns]
    assert len(set(headers)) == len(headers), headers
    return [dict(zip(headers, cells, strict=True)) for cells in zip(*columns, strict=True)]


def printed(table: Table, width: int = 80) -> str:
    """Return what a terminal shows, after checking that nothing of it is cut off."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    text = console.export_text()
    assert "…" not in text and all(len(line) <= width for line in text.splitlines()), text
    return text


def assert_layout(table: Table) -> None:
    """Names on the left and unbroken, numbers on the right, and no more space or lines than 80 columns allow."""
    name, *numbers = table.columns
    assert (name.justify, name.no_wrap) == ("left", True)
    assert {column.justify for column in numbers} == {"right"}
    assert table.box is box.SIMPLE_HEAD
    assert (table.pad_edge, table.collapse_padding) == (False, True)


def page_tables(source: str) -> dict[str, list[Row]]:
    """Return the tables of an HTML page: heading above it -> rows, of all tables below it, each as header -> cell."""
    parser = _Tables()
    parser.feed(source)
    parser.close()
    return parser.tables


def table_with(source: str, header: str) -> list[Row]:
    """Return the rows of the one table of a page that has a column with this header."""
    (rows,) = [rows for rows in page_tables(source).values() if header in rows[0]]
    return rows


def page_facts(source: str) -> dict[str, str]:
    """Return the definition lists of an HTML page: term -> definition."""
    parser = _Tables()
    parser.feed(source)
    parser.close()
    return parser.facts


def by_name(rows: Sequence[Row], *columns: str) -> dict[str, Row]:
    """Return the rows by their name, which is in the first column or in `columns`."""
    names = [" ".join(row[column] for column in columns or [next(iter(row))]) for row in rows]
    assert len(set(names)) == len(names), names
    return dict(zip(names, rows, strict=True))


def _plain(cell: object) -> str:
    text = cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
    return " ".join(text.split())


class _Tables(HTMLParser):
    """Collects the cells of each table under the last heading, and the definitions."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[Row]] = {}
        self.facts: dict[str, str] = {}
        self._heading = ""
        self._headers: list[str] = []
        self._cells: list[str] = []
        self._text: list[str] = []
        self._term = ""
        self._in_head = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("h2", "h3", "th", "td", "dt", "dd"):
            self._text = []
        elif tag == "br":
            self._text.append(" ")
        elif tag == "thead":
            self._in_head, self._cells = True, []
        elif tag == "tr":
            self._cells = []

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        text = " ".join("".join(self._text).split())
        if tag in ("h2", "h3"):
            self._heading = text
        elif tag in ("th", "td"):
            self._cells.append(text)
        elif tag == "thead":
            self._in_head, self._headers = False, self._cells
            assert len(set(self._headers)) == len(self._headers), self._headers
        elif tag == "tr" and not self._in_head:
            row = dict(zip(self._headers, self._cells, strict=True))
            self.tables.setdefault(self._heading, []).append(row)
        elif tag == "dt":
            self._term = text
        elif tag == "dd":
            self.facts[self._term] = text


def numbers_in(text: str) -> Iterator[str]:
    """Yield the numbers of a sentence as they are written, with their sign and per cent."""
    import re

    yield from re.findall(r"[−-]?\d[\d.,]*\d%?|[−-]?\d%?", text)
