"""The options of ``msal-deploy bench`` on suites, on an earlier run, and on tables in files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msal_deploy.cli.options import output

if TYPE_CHECKING:
    from msal_deploy.bench import BenchReport
    from msal_deploy.bench.formats import SavedReport


def _use_suite(context: typer.Context, name: str | None) -> str | None:
    """Make the options of a suite the defaults of this command; options on the command line come first."""
    if name is not None and not context.resilient_parsing:
        from msal_deploy.bench.suite import read_suite

        context.default_map = {**(context.default_map or {}), **read_suite(name).options()}
    return name


SuiteName = Annotated[
    str | None,
    typer.Option(
        "--suite",
        metavar="NAME_OR_FILE",
        is_eager=True,  # before the options whose defaults it sets
        callback=_use_suite,
        help="Take the options from a TOML file, or from one in benchmarks/suites of a source tree. Other options of "
        "the command line replace those of the suite; engines that cannot run here are listed.",
    ),
]
OldReport = Annotated[
    Path | None,
    typer.Option(
        "--compare",
        metavar="OLD.json",
        help="Say what got slower or faster since this report of bench --json, by speed-up over the baseline. Exit 1 "
        "if something got slower beyond noise on the same machine.",
    ),
]
CsvFile = Annotated[Path | None, typer.Option("--csv", help="Also write the report as CSV.", callback=output)]
MarkdownFile = Annotated[
    Path | None, typer.Option("--markdown", help="Also write the report as a Markdown table.", callback=output)
]


def read_old(path: Path | None, baseline: str, size: tuple[int, int]) -> "SavedReport | None":
    """Read the report to compare with, before anything slow.

    Raises:
        BadInput: It is not a report, or a run with this baseline and size could not be compared with it.
    """
    from msal_deploy.bench.compare import check_comparable
    from msal_deploy.bench.formats import read_report

    if path is None:
        return None
    old = read_report(path)
    check_comparable(old, baseline, size)
    return old


def write_tables(report: "BenchReport", csv: Path | None, markdown: Path | None) -> None:
    """Write the files that were asked for."""
    from msal_deploy.bench.formats import saved, write_csv, write_markdown

    if csv:
        write_csv(csv, saved(report))
    if markdown:
        write_markdown(markdown, saved(report))


def judge(old: "SavedReport | None", report: "BenchReport") -> None:
    """Print what has changed.

    Raises:
        GateFailed: Something got slower beyond noise, or fails now.
    """
    from rich.console import Console

    from msal_deploy.bench.compare import compare
    from msal_deploy.bench.formats import saved

    if old is None:
        return
    comparison = compare(old, saved(report))
    console = Console()
    console.print(comparison.table())
    for line in comparison.messages():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    comparison.require_not_slower()
