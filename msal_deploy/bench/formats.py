"""A saved bench report: read from JSON, and written as CSV or Markdown.

A `SavedReport` has what the JSON has: summary statistics and window medians, but not the single runs of a
`BenchReport`.
"""

import csv
import io
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from msal_deploy.bench.ratios import Ratio
from msal_deploy.bench.results import SCHEMA, BenchReport
from msal_deploy.documents import parse, read_json
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, atomic_file, regular_file

WHAT = "a bench report of this version"
REMEDY = "write it again with msal-deploy bench --json"
UNKNOWN = "–"

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Latency(msgspec.Struct, frozen=True):
    """Percentiles and mean of the latency of a call, in ms."""

    p50: Positive
    p90: Positive
    p95: Positive
    p99: Positive
    mean: Positive


class SavedResult(msgspec.Struct, frozen=True, kw_only=True):
    """A result as `BenchResult.to_json` writes it, with its speed-up over the baseline.

    Attributes:
        engine, batch, threads, streams: The setting.
        size: Height and width of the images in pixels.
        speed_up: Over the baseline at the same batch; None if that was not timed.
        windows_per_process: Consecutive windows that one process timed.
        peak_memory_mb: Largest memory of the engine's own process in MB; None if it is unknown.
        load_s: Seconds to load the engine and to call it once; None if it is unknown.
    """

    engine: str
    batch: Count
    size: tuple[Count, Count]
    threads: Count | None
    streams: Count
    images_per_s: Positive
    megapixels_per_s: Positive
    square_millimetres_per_s: Positive
    latency_ms: Latency
    runs: Count
    window_medians_ms: tuple[Positive, ...]
    windows_per_process: Count = 1
    coefficient_of_variation: float | None
    stable: bool
    speed_up: Ratio | None
    peak_memory_mb: float | None
    load_s: float | None

    def __post_init__(self) -> None:
        one = self.speed_up
        if one is not None and not 0 < one.low <= one.ratio <= one.high:
            raise ValueError(f"the speed-up of {self.engine} is {one.ratio:g}, outside {one.low:g} to {one.high:g}")

    @property
    def setting(self) -> tuple[str, int, int | None, int]:
        """Engine, batch, threads and streams."""
        return self.engine, self.batch, self.threads, self.streams


class SavedFailure(msgspec.Struct, frozen=True):
    """A setting that could not be timed, and why."""

    engine: str
    batch: Count
    message: str
    threads: Count | None = None
    streams: Count = 1


class SavedNeed(msgspec.Struct, frozen=True):
    """An engine that could not run on that machine, and what it needs."""

    engine: str
    needs: str


class SavedReport(msgspec.Struct, frozen=True, kw_only=True):
    """A bench report as `BenchReport.to_json` writes it.

    Attributes:
        baseline: Engine that speed-ups are relative to.
        results: What was timed.
        failed: What could not be timed.
        unavailable: What could not run on that machine.
        interrupted: Whether the measurement was interrupted.
        environment: The machine, from `describe_machine`.
    """

    baseline: str
    results: tuple[SavedResult, ...]
    failed: tuple[SavedFailure, ...]
    unavailable: tuple[SavedNeed, ...]
    interrupted: bool
    environment: dict[str, Any]

    @property
    def machine(self) -> str:
        """The machine in one line: processor, GPUs and threads.

        Some keys may be missing: `environment` is the only part of a file whose form is not checked.
        """
        named = [self.environment.get("processor") or "an unknown processor", *self.environment.get("gpus", ())]
        threads = default_threads(self.environment)
        return ", ".join([*map(str, named), *([f"{threads} threads"] if threads else [])])


def default_threads(environment: dict[str, Any]) -> int | None:
    """Return how many threads a runtime uses by default; None if the description does not say.

    >>> default_threads({"logical_cores": 64, "threads": {"default": 2}}), default_threads({"logical_cores": 4})
    (2, 4)
    """
    threads = environment.get("threads")
    found = threads.get("default") if isinstance(threads, dict) else None
    return found or environment.get("logical_cores")


def read_report(path: StrPath) -> SavedReport:
    """Read a report that ``msal-deploy bench --json`` wrote.

    >>> from pathlib import Path
    >>> _ = Path("other.json").write_text('{"schema": "something else 1"}')
    >>> read_report("other.json")
    Traceback (most recent call last):
    msal_deploy.errors.BadInput: other.json has the schema 'something else 1', not 'msal-deploy bench 2'; write it ...

    Raises:
        BadInput: There is no such file, or it is not such a report: another schema, an older version, damaged.
    """
    content = read_json(regular_file(path, "bench report"), dict[str, Any], WHAT, REMEDY)
    schema = content.get("schema")
    if schema is None and {"results", "environment"} <= content.keys():
        raise BadInput(f"{path} is a bench report of an older version, without intervals", REMEDY)
    if schema != SCHEMA:
        raise BadInput(f"{path} has {_named(schema)}, not {SCHEMA!r}", REMEDY)
    return parse(lambda: msgspec.convert(content, SavedReport), str(path), WHAT, REMEDY)


def _named(schema: object) -> str:
    return "no schema" if schema is None else f"the schema {str(schema)[:60]!r}"


def saved(report: BenchReport) -> SavedReport:
    """Return what reading the JSON of a report would return."""
    return msgspec.convert(report.to_json(), SavedReport)


COLUMNS = (
    "state", "engine", "batch", "height", "width", "threads", "streams", "images_per_s", "megapixels_per_s",
    "square_millimetres_per_s", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "runs", "coefficient_of_variation",
    "stable", "baseline", "speed_up", "speed_up_low", "speed_up_high", "peak_memory_mb", "load_s", "message",
)  # fmt: skip


def write_csv(path: StrPath, report: SavedReport) -> None:
    """Write a report as CSV (RFC 4180), atomically: a row for each engine and setting, with the columns `COLUMNS`.

    Column ``state`` is ``timed``, ``failed`` or ``unavailable``; the last two have a ``message``. What is unknown is
    empty, such as the number of threads that a runtime chooses itself.
    """
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    writer.writerows(_csv_rows(report))
    _write(path, stream.getvalue())


def _csv_rows(report: SavedReport) -> Iterator[dict[str, Any]]:
    for one in report.results:
        values = msgspec.structs.asdict(one)
        values |= {f"{key}_ms": value for key, value in msgspec.structs.asdict(one.latency_ms).items()}
        values |= {"height": one.size[0], "width": one.size[1], "baseline": report.baseline, "state": "timed"}
        ratio = one.speed_up
        values |= {"speed_up": ratio and ratio.ratio, "speed_up_low": ratio and ratio.low}
        values |= {"speed_up_high": ratio and ratio.high}
        yield {key: values.get(key) for key in COLUMNS}
    for failure in report.failed:
        yield {"state": "failed", **msgspec.structs.asdict(failure)}
    for need in report.unavailable:
        yield {"state": "unavailable", "engine": need.engine, "message": need.needs}


def write_markdown(path: StrPath, report: SavedReport) -> None:
    """Write a report as a Markdown table, atomically, with the machine in one line below it."""
    _write(path, markdown(report))


def markdown(report: SavedReport) -> str:
    """Return a report as a Markdown table for an issue or a page, with the machine in one line below it."""
    results = report.results
    swept = [name for name in ("threads", "streams") if len({getattr(one, name) for one in results}) > 1]
    headings = ["engine", "batch", *swept, "p50, ms", "p90, ms", "p99, ms", "images/s", "speed-up", "peak, MB"]
    lines = [_line(headings), _line(["---", *["---:"] * (len(headings) - 1)])]
    lines += [_line([f"`{one.engine}`", *_cells(one, swept, report.baseline)]) for one in results]
    return "\n".join([*lines, "", *_notes(report)]) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(text: str) -> str:
    """Keep a text within its cell and without HTML; a file's texts may come from anywhere."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _cells(one: SavedResult, swept: list[str], baseline: str) -> Iterator[str]:
    yield str(one.batch)
    yield from (str(getattr(one, name) or "auto") for name in swept)
    yield from (f"{value:.1f}" for value in (one.latency_ms.p50, one.latency_ms.p90, one.latency_ms.p99))
    yield f"{one.images_per_s:.2f}"
    yield _speed_up(one, baseline)
    yield UNKNOWN if one.peak_memory_mb is None else f"{one.peak_memory_mb:.0f}"


def _speed_up(one: SavedResult, baseline: str) -> str:
    ratio = one.speed_up
    if ratio is None:
        return UNKNOWN
    if one.engine == baseline and ratio.low == ratio.high == 1:
        return "1"
    return f"{ratio.ratio:.2f} ({ratio.low:.2f}–{ratio.high:.2f})" + ("" if one.stable else " unstable")


def _notes(report: SavedReport) -> Iterator[str]:
    """Yield the lines below the table: the machine, and what is not in the table."""
    sizes = ", ".join(dict.fromkeys(f"{one.size[0]} × {one.size[1]} px" for one in report.results)) or "nothing timed"
    version = dict(report.environment.get("versions") or {}).get("msal-deploy")
    parts = [
        sizes,
        report.machine,
        f"msal-deploy {version}" if version else "",
        str(report.environment.get("date", ""))[:10],
    ]
    yield f"{', '.join(filter(None, parts))}. Speed-up over `{report.baseline}` with its interval of 95%."
    if report.interrupted:
        yield "\nInterrupted: results may have fewer windows, or be missing."
    for failure in report.failed:
        yield f"\nFailed: `{failure.engine}` with a batch of {failure.batch}: {_escaped(failure.message)}."
    engines: dict[str, list[str]] = {}
    for need in report.unavailable:
        engines.setdefault(need.needs, []).append(f"`{need.engine}`")
    for needs, names in engines.items():
        yield f"\nNot available there: {', '.join(names)}: {_escaped(needs)}."


def _write(path: StrPath, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
