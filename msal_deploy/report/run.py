"""Writes the page: computes all values here, so that the template only contains the layout."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from msal_deploy import __version__, metrics
from msal_deploy.files import StrPath, atomic_file
from msal_deploy.report import bench_plots, evidence_plots, formatting, plots
from msal_deploy.report import gallery as pictures
from msal_deploy.report.evidence import (
    BUDGET_MARKS,
    all_protocols,
    bisect_section,
    evidence,
    protocol_range,
    protocol_rows,
)
from msal_deploy.report.facts import environment, facts
from msal_deploy.report.formatting import Json
from msal_deploy.report.gallery import GalleryPatch
from msal_deploy.report.inputs import JsonObject, Report
from msal_deploy.report.latency import bench_notes, latency_rows, optional_columns, with_names
from msal_deploy.report.precision import precision_section
from msal_deploy.report.tradeoff import PARETO_OPTIMAL, accuracy_latency, references_text
from msal_deploy.report.verdict import mark, verdict


def write_report(
    path: StrPath,
    *,
    title: str,
    manifest: JsonObject,
    validation: JsonObject | None = None,
    bench: JsonObject | None = None,
    precision: JsonObject | None = None,
    training: Sequence[JsonObject] | None = None,
    gallery: Sequence[GalleryPatch] = (),
    data: str = "",
    command: str = "",
    notes: Sequence[str] = (),
    weights: str = "",
    also: Sequence[JsonObject] = (),
    bisect: JsonObject | None = None,
) -> None:
    """Write a self-contained HTML page to `path`, atomically. `Report` describes the arguments.

    `save_report` writes a folder instead, from which the page can be rebuilt.

    >>> from msal_deploy.bundle import Bundle
    >>> import msgspec
    >>> manifest = msgspec.to_builtins(Bundle("bundle").manifest)
    >>> write_report("report.html", title="My network", manifest=manifest)
    """
    report = Report(
        title=title,
        manifest=manifest,
        validation=validation,
        bench=bench,
        precision=precision,
        training=tuple(training or ()),
        gallery=tuple(gallery),
        data=data,
        command=command,
        notes=tuple(notes),
        weights=weights,
        also=tuple(also),
        bisect=bisect,
    )
    html = render(report)
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def render(report: Report) -> str:
    """Return the page as HTML. The same report gives the same text.

    >>> manifest = {"recipe": {"name": "r", "network": {"model": "u-net"}}, "licence": "CC0-1.0"}
    >>> manifest |= {"versions": {}, "artifacts": {}}
    >>> render(Report(title="My network", manifest=manifest))[:15]
    '<!doctype html>'

    Raises:
        Exception: A part of the report has not the form that its stage gives it.
    """
    validation, bench = report.validation, with_names(report.bench) if report.bench else None
    validations = {report.weights: validation} if validation else {}
    validations |= {one["weights"]: one["validate"] for one in report.also if validation}
    rows = _tradeoff(report) if validation and bench else []
    protocols = all_protocols(validation) if validation else []
    html: str = _template().render(
        report=report,
        several=bool(report.also),
        of=f" ({report.weights})" if report.also else "",
        verdict=verdict(validations, rows),
        facts=facts(report),
        evidence=[_evidence(name if report.also else "", one, report) for name, one in validations.items()],
        validation=validation,
        metrics=[*metrics.METRICS, *metrics.NUCLEI_METRICS],
        protocols=protocol_rows(protocols),
        protocol_range=protocol_range(protocols) if protocols else "",
        bench=bench,
        latencies=latency_rows(bench) if bench else [],
        latency_columns=optional_columns(bench) if bench else [],
        bench_notes=bench_notes(bench) if bench else [],
        tradeoff=rows,
        untimed=_untimed(validations, rows),
        references=references_text(validation["reference"], report.weights) if validation and report.also else "",
        pareto_optimal=PARETO_OPTIMAL,
        precision=precision_section(report.precision) if report.precision else None,
        bisect=bisect_section(report.bisect) if report.bisect else None,
        figures=_figures(report, bench) | _tradeoff_figures(validations, rows, report.precision),
        environment=environment(report.manifest, bench),
        verdict_marks=BUDGET_MARKS,
        palette=pictures,
        version=__version__,
    )
    return html


def _tradeoff(report: Report) -> list[dict[str, Any]]:
    validation, bench = report.validation or {}, report.bench or {}
    rows = accuracy_latency(validation, bench, weights=report.weights, also=report.also)
    return [
        row | {"mark": mark(row["state"], finite=row["finite"], is_reference=row["engine"] == validation["reference"])}
        for row in rows
    ]


def _evidence(weights: str, validation: Json, report: Report) -> dict[str, Any]:
    """Return the template variables of the sections on one set of weights, with their figures and pictures."""
    patches = [one for one in report.gallery if one.weights == weights]
    compares = len(validation["engines"]) > 1
    return evidence(weights, validation) | {
        "figures": {
            "intervals": evidence_plots.interval_plot(validation) if compares else "",
            "delta": plots.delta_plot(validation) if compares else "",
            "flips": evidence_plots.flips_plot(validation) if compares else "",
            "calibration": evidence_plots.calibration_plot(validation),
        },
        "differing": [_with_panels(one) for one in patches if one.reason == "differs"],
        "examples": [_with_panels(one) for one in patches if one.reason != "differs"],
    }


def _with_panels(patch: GalleryPatch) -> dict[str, Any]:
    return {"patch": patch, "panels": pictures.panels(patch)}


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("msal_deploy", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter_ in (formatting.signed, formatting.scientific, formatting.share, formatting.fine, formatting.capital):
        environment.filters[filter_.__name__] = filter_
    return environment.get_template("report.html.j2")


def _untimed(validations: Mapping[str, Json], rows: Sequence[Json]) -> list[str]:
    """Return the engines without a row, with the name of their weights if there are several."""
    several = len(validations) > 1
    timed = {(row.get("weights"), row["engine"]) for row in rows}
    return [
        f"{engine} of {name}" if several else engine
        for name, validation in validations.items()
        for engine in validation["engines"]
        if (name if several else None, engine) not in timed
    ]


def _figures(report: Report, bench: Json | None) -> dict[str, str]:
    return {
        "latency": plots.latency_plot(bench) if bench else "",
        "speed_up": bench_plots.speed_up_plot(bench) if bench else "",
        "windows": bench_plots.windows_plot(bench) if bench else "",
        "training": plots.training_plot(report.training) if report.training else "",
    }


def _tradeoff_figures(validations: Mapping[str, Json], rows: Sequence[Json], precision: Json | None) -> dict[str, str]:
    """Return the plots of Dice against latency. A single point is not plotted."""
    search = precision["int8"]["search"] if precision and precision["int8"] else None
    return {
        "tradeoff": plots.tradeoff_plot(rows, validations) if len(rows) > 1 else "",
        "search": plots.search_plot(search) if search and len(search["trials"]) > 1 else "",
    }
