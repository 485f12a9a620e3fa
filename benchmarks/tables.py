"""Writes the tables of benchmarks/README.md, between its markers, from `results/`.

python benchmarks/tables.py

Each file in `results/` needs an entry in `commands.toml`, which says by which command it was written. The date and the
machine are the file's own; a report of ``msal-deploy bench --json`` also gets a table of its numbers.
"""

import json
import tomllib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import msgspec

from msal_deploy.bench.formats import markdown, read_report
from msal_deploy.bench.results import SCHEMA
from msal_deploy.errors import BadInput
from msal_deploy.files import atomic_file

HERE = Path(__file__).parent
PAGE, RESULTS, COMMANDS = HERE / "README.md", HERE / "results", HERE / "commands.toml"
START, END = "<!-- {}: python benchmarks/tables.py -->", "<!-- end of {} -->"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By which command files were written.

    Attributes:
        files: Names or patterns, such as ``*-soak-*.json``.
        command: Markdown.
    """

    files: tuple[str, ...]
    command: str

    def of(self, names: Sequence[str]) -> list[str]:
        """Return the names that are this entry's."""
        return [name for name in names if any(fnmatch(name, pattern) for pattern in self.files)]


def read_entries(path: Path = COMMANDS) -> tuple[Entry, ...]:
    """Read the commands."""
    return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8"))["result"], tuple[Entry, ...])


def names_in(folder: Path) -> list[str]:
    """Return the names of the results, of files and folders, the newest first."""
    names = sorted(path.name for path in folder.iterdir())
    return sorted(names, key=lambda name: name[:10], reverse=True)  # names begin with a date


def file_table(entries: tuple[Entry, ...], folder: Path) -> str:
    """Return the table of the files: name, command and machine.

    Raises:
        BadInput: A file has no entry.
    """
    names = names_in(folder)
    unknown = set(names).difference(*(entry.of(names) for entry in entries))
    if unknown:
        raise BadInput(f"commands.toml does not say which command wrote {', '.join(sorted(unknown))}", "add an entry")
    rows = ["| file | command | machine |", "|---|---|---|"]
    for entry in entries:
        if found := entry.of(names):
            links = ", ".join(f"[`{name}`](results/{name})" for name in found)
            machines = filter(None, (machine_of(folder / name) for name in found))
            rows.append(f"| {links} | {entry.command} | {next(machines, '–')} |")
    return "\n".join(rows)


def machine_of(path: Path) -> str:
    """Return the machine that a result names, or nothing."""
    content = read_json(path)
    described = next((content[key] for key in ("environment", "machine") if isinstance(content.get(key), dict)), {})
    cores = described.get("logical_cores")
    parts = [described.get("processor"), cores and f"{cores} cores", *described.get("gpus", ())]
    return ", ".join(str(part) for part in parts if part)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty for other files."""
    if path.suffix != ".json":
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def speed_tables(folder: Path) -> str:
    """Return a table for each bench report with intervals, the newest first."""
    return "\n\n".join(_speed_tables(folder)) or "No bench report has been committed."


def _speed_tables(folder: Path) -> Iterator[str]:
    for name in names_in(folder):
        if read_json(folder / name).get("schema") == SCHEMA:
            yield f"[`{name}`](results/{name})\n\n{markdown(read_report(folder / name)).rstrip()}"


def page_with(page: str, tables: dict[str, str]) -> str:
    """Return the page with these tables between the markers of their names."""
    for name, table in tables.items():
        start, end = START.format(name), END.format(name)
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise BadInput(f"The page lacks the lines {start} and {end}", "add them")
        page = f"{before}{start}\n\n{table}\n\n{end}{after}"
    return page


def generated(page: Path = PAGE, folder: Path = RESULTS, commands: Path = COMMANDS) -> str:
    """Return what the page should be."""
    tables = {"files": file_table(read_entries(commands), folder), "speed": speed_tables(folder)}
    return page_with(page.read_text(encoding="utf-8"), tables)


if __name__ == "__main__":
    try:
        text = generated()
    except BadInput as error:
        raise SystemExit(f"Error: {error}") from error
    with atomic_file(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
