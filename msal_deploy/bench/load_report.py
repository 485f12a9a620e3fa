"""The report of a load test."""

from collections.abc import Sequence
from typing import Any

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from msal_deploy.bench.load_results import Load, LoadResult
from msal_deploy.bench.load_search import RateSearch, meets
from msal_deploy.bench.results import Failure

SCHEMA = "msal-deploy load 1"


class LoadReport(msgspec.Struct, frozen=True):
    """Results by setting and load, and the machine that they hold for.

    Attributes:
        results: Closed loops and open loops, in the order of the settings.
        searches: For each setting, the search for the highest rate; empty without a limit.
        failed: Settings that failed; the results of their loads before that are kept.
        environment: Description of the machine from `describe_machine`.
        interrupted: Whether Ctrl-C ended the test; what was measured until then is kept.
    """

    results: tuple[LoadResult, ...]
    searches: tuple[RateSearch, ...]
    failed: tuple[Failure, ...]
    environment: dict[str, Any]
    interrupted: bool = False

    @property
    def best(self) -> RateSearch | None:
        """The search that found the most images per second; None if no setting meets the limit."""
        found = [search for search in self.searches if search.best]
        return max(found, key=lambda search: search.images_per_s) if found else None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "schema": SCHEMA,
            "results": [one.to_json() for one in self.results],
            "searches": [one.to_json() for one in self.searches],
            "best": self.best.best.to_json() if self.best and self.best.best else None,
            "failed": [one.to_json() for one in self.failed],
            "interrupted": self.interrupted,
            "environment": self.environment,
        }

    def table(self) -> RenderableType:
        """Return the report as tables for an 80-column terminal: the loads, then one table for each search."""
        tables = [_search_table(search) for search in self.searches]
        if self.results:
            height, width = self.results[0].size
            tables.insert(0, _table(f"Latency under load, {height} × {width} px, ms per request", self.results))
        return Group(*tables)

    def messages(self) -> list[str]:
        """Return what a reader must know about the figures, and the answers of the searches."""
        messages = [remark for one in self.results for remark in one.remarks()]
        messages += [search.message() for search in self.searches]
        if len(self.searches) > 1 and self.best:
            batch = self.best.alone.batch
            requests = "one image" if batch == 1 else f"{batch} images"
            code = self.best.alone.code
            messages.append(
                f"Highest throughput: {self.best.images_per_s:.4g} images/s with {code} and {requests} per request."
            )
        messages += [f"{one.setting.engine}, batch {one.setting.batch}, failed: {one.error}" for one in self.failed]
        return messages + ["Interrupted: these are the results until then."] * self.interrupted


def _search_table(search: RateSearch) -> Table:
    marks = ["[green]✓[/]" if meets(one, search.limit_ms) else "[red]✗[/]" for one in search.loads]
    table = _table(f"Loads that were tried for p99 under {search.limit_ms:g} ms, ms per request", search.loads, marks)
    if search.confirmations:
        table.caption = f"{len(search.confirmations)} of them, at the end, to confirm the rate."
    return table


def _table(title: str, results: Sequence[LoadResult], marks: Sequence[str] | None = None) -> Table:
    streams = len({one.streams for one in results}) > 1
    table = Table(
        title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=(0, 0 if streams else 1)
    )
    table.add_column("engine", overflow="fold")  # addresses of servers are long
    columns = ("batch", *(("streams",) if streams else ()), "load", "served/s", "p50", "p99", "p99 ≤", "service", "")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for index, one in enumerate(results):
        table.add_row(*_cells(one, streams), marks[index] if marks else "[yellow]![/]" if one.is_saturated else "")
    return table


def _cells(one: LoadResult, streams: bool) -> list[str]:
    latency, bound = one.latency_ms, one.p99_at_most_ms
    return [
        one.engine,
        str(one.batch),
        *([str(one.streams)] if streams else []),
        _sent(one.load),
        f"{one.requests_per_s:.4g}",
        _milliseconds(latency["p50"]),
        _milliseconds(latency["p99"]),
        "–" if bound is None else _milliseconds(bound),
        _milliseconds(one.service_ms["mean"]),
    ]


def _sent(load: Load) -> str:
    if load.in_flight:
        return "1 client" if load.in_flight == 1 else f"{load.in_flight} clients"
    return f"{load.rate:.4g}/s"


def _milliseconds(value: float) -> str:
    return f"{value:.{0 if value >= 1000 else 1}f}"
