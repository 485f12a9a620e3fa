"""The values of the section on latency."""

from itertools import groupby
from typing import Any

from msal_deploy.report.bench_plots import has_interval
from msal_deploy.report.formatting import Json, listed, result_names

MEGABYTES_AND_SECONDS = ("peak_memory_mb", "load_s")  # columns that reports of older versions do not have


def with_names(bench: Json) -> dict[str, Any]:
    """Return the report with a distinct ``name`` for each result."""
    results = bench["results"]
    names = result_names(results)
    return {**bench, "results": [{**row, "name": name} for row, name in zip(results, names, strict=True)]}


def latency_rows(bench: Json) -> list[dict[str, Any]]:
    """Return the results with their speed-up as text.

    It is the one that bench has measured, with its interval. Reports of older versions have none: there, it is the
    ratio of the medians over the first engine at the same batch.
    """
    rows = []
    for _, group in groupby(bench["results"], key=lambda row: row["batch"]):
        first, *others = group
        rows += [{**row, "speed_up": _speed_up(row, first), "leads": row is first} for row in (first, *others)]
    return rows


def _speed_up(row: Json, first: Json) -> str:
    if "speed_up" not in row:
        return f"{first['latency_ms']['p50'] / row['latency_ms']['p50']:.2f}×"
    ratio = row["speed_up"]
    if ratio is None:
        return "–"
    interval = f" ({ratio['low']:.2f}–{ratio['high']:.2f})" if has_interval(row) else ""
    return f"{ratio['ratio']:.2f}×{interval}"


def optional_columns(bench: Json) -> list[str]:
    """Return those of `MEGABYTES_AND_SECONDS` that at least one result has."""
    return [key for key in MEGABYTES_AND_SECONDS if any(row.get(key) is not None for row in bench["results"])]


def bench_notes(bench: Json) -> list[str]:
    """Return what is not in the table, one sentence each: what failed, what cannot run there, an interruption.

    >>> bench_notes({"failed": [{"engine": "openvino:int8", "batch": 4, "message": "no memory"}]})
    ['openvino:int8 failed with a batch of 4: no memory.']
    """
    notes = ["The measurement was interrupted: results may have fewer windows, or be missing."]
    lines = notes if bench.get("interrupted") else []
    lines = [*lines, *(_failure(one) for one in bench.get("failed", ()))]
    engines: dict[str, list[str]] = {}
    for one in bench.get("unavailable", ()):
        engines.setdefault(one["needs"], []).append(one["engine"])
    return [*lines, *(f"Not available there: {listed(names)}: {needs}." for needs, names in engines.items())]


def _failure(one: Json) -> str:
    return f"{one['engine']} failed with a batch of {one['batch']}: {one['message']}."
