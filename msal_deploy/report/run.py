"""Writes the page: computes all values here, so that the template only contains the layout."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from msal_deploy import __version__, metrics
from msal_deploy.bundle import CHECKPOINT
from msal_deploy.files import StrPath, atomic_file
from msal_deploy.report import formatting, plots
from msal_deploy.report import overlays as pictures
from msal_deploy.report.formatting import Json, count, patches_of_images, signed
from msal_deploy.report.overlays import Overlay
from msal_deploy.report.precision import precision_section
from msal_deploy.report.tradeoff import PARETO_OPTIMAL, accuracy_latency, references_text


def write_report(
    path: StrPath,
    *,
    title: str,
    manifest: Json,
    validation: Json | None = None,
    bench: Json | None = None,
    precision: Json | None = None,
    training: Sequence[Json] | None = None,
    overlays: Sequence[Overlay] = (),
    data: str = "",
    command: str = "",
    notes: Sequence[str] = (),
    weights: str = "",
    also: Sequence[Json] = (),
) -> None:
    """Write a self-contained HTML page. Sections without data are left out.

    >>> from msal_deploy.bundle import Bundle
    >>> import msgspec
    >>> manifest = msgspec.to_builtins(Bundle("bundle").manifest)
    >>> write_report("report.html", title="My network", manifest=manifest)

    Args:
        path: File to write, atomically.
        title: Title and heading of the page.
        manifest: The bundle's manifest as JSON types.
        validation: The value of `ValidationReport.to_json`.
        bench: The value of `BenchReport.to_json`.
        precision: The value of `PrecisionReport.to_json`.
        training: A row per epoch with ``epoch``, ``train_loss`` and, if it was measured, ``validation_dice``.
        overlays: Patches to show.
        data: Description of the labelled images: name, source, licence.
        command: Command line that reproduces the page.
        notes: Remarks for the reader, such as known limitations.
        weights: Name of the weights of the bundle; only used with `also`.
        also: Other weights for the verdict and for accuracy × latency, scored on the same patches: mappings with
            ``weights`` (their name), ``manifest``, ``validate`` and ``bench``. Needs `validation` and `bench`.
    """
    bench = _with_names(bench) if bench else None
    rows = accuracy_latency(validation, bench, weights=weights, also=also) if validation and bench else []
    validations = {weights: validation, **{one["weights"]: one["validate"] for one in also}} if validation else {}
    html = _template().render(
        title=title,
        verdict=_verdict_of_all(validations) if len(validations) > 1 else _verdict(validation),
        facts=({"Weights": weights} if also else {}) | _facts(manifest, validation, data) | _other_weights(also),
        weights=weights if also else "",
        validation=validation,
        metrics=metrics.METRICS,
        columns=_metric_columns(),
        bench=bench,
        latencies=_latencies(bench) if bench else [],
        tradeoff=rows,
        untimed=_untimed(validations, rows),
        references=references_text(validation["reference"], weights) if validation and also else "",
        pareto_optimal=PARETO_OPTIMAL,
        precision=precision_section(precision) if precision else None,
        figures=_figures(validation, bench, training) | _tradeoff_figures(validations, rows, precision),
        overlays=[_panels(overlay) for overlay in overlays],
        environment=_environment(manifest, bench),
        command=command,
        notes=notes,
        palette=pictures,
        version=__version__,
    )
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("msal_deploy", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter_ in (formatting.signed, formatting.scientific, formatting.share, formatting.fine):
        environment.filters[filter_.__name__] = filter_
    return environment.get_template("report.html.j2")


def _metric_columns() -> list[dict[str, str]]:
    """Return the columns of `metrics.METRICS` in the parity table: label, JSON key, and average if there are two."""
    return [
        {"label": metric.label, "key": metric.key(average), "average": average if len(metric.page) > 1 else ""}
        for metric in metrics.METRICS
        for average in metric.page
    ]


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


def _verdict_of_all(validations: Mapping[str, Json]) -> dict[str, str]:
    """Return the verdict on several weights: passed if each of them passed."""
    verdicts = {name: _verdict(validation) for name, validation in validations.items()}
    failed = any(one["state"] == "failed" for one in verdicts.values())
    return {
        "state": "failed" if failed else "passed",
        "headline": "; ".join(f"{name}: {one['headline']}" for name, one in verdicts.items()),
        "detail": " ".join(f"{name}: {one['detail']}" for name, one in verdicts.items()),
    }


def _verdict(validation: Json | None) -> dict[str, str]:
    """Return ``state`` (passed, failed or none), ``headline`` and ``detail``."""
    if validation is None:
        return {"state": "none", "headline": "Not validated", "detail": "No engine was scored against a reference."}
    compared = {name: score for name, score in validation["engines"].items() if name != validation["reference"]}
    compared = compared or validation["engines"]
    failed = [name for name, score in validation["engines"].items() if not score["passed"]]
    limit = f"within {validation['budget']:g} Dice of {validation['reference']} on {patches_of_images(validation)}"
    headline = f"{', '.join(failed)}: not {limit}" if failed else f"{count(len(compared), 'engine')} {limit}"
    state = "failed" if failed else "passed"
    return {"state": state, "headline": headline, "detail": _verdict_detail(compared, validation)}


def _verdict_detail(compared: Json, validation: Json) -> str:
    if not_finite := [name for name, score in validation["engines"].items() if not score["finite"]]:
        return f"Probabilities are not finite: {', '.join(not_finite)}."
    worst = min(compared, key=lambda name: compared[name]["delta_dice"]["lower"])
    # Parity with a poor reference says little, so its Dice is shown as well.
    dice = validation["engines"][validation["reference"]]["pixel_dice_mean"]
    return (
        f"Dice of {validation['reference']}: {dice:.4f}. "
        f"Lowest {validation['confidence']:.0%} lower bound of the mean ΔDice: "
        f"{signed(compared[worst]['delta_dice']['lower'])} ({worst}); required: at least −{validation['budget']:g}."
    )


BLOCKS = {
    "dense_dilated": "dense dilated convolutions",
    "channel_attention": "channel attention",
    "boundary_refinement": "boundary refinement",
}


def _facts(manifest: Json, validation: Json | None, data: str) -> dict[str, str]:
    """Return the rows of the section on the network and the data, as label -> text."""
    facts = {
        "Network": _network(manifest),
        "Recipe": manifest["recipe"]["name"],
        "Checkpoint": _checkpoint(manifest),
        "Licence of the weights": manifest["licence"],
        "Test data": data,
        "Labels": validation["label_convention"] if validation else "",
        "Scored": f"{patches_of_images(validation)}, threshold {validation['threshold']:g}" if validation else "",
    }
    return {label: text for label, text in facts.items() if text}


def _network(manifest: Json) -> str:
    network = manifest["recipe"]["network"]
    if network.get("model", "msal-net") != "msal-net":
        return str(network["model"])
    blocks = [text for block, text in BLOCKS.items() if network[block]]
    return f"MSAL-Net, {network['backbone']} with {', '.join(blocks) or 'none of the paper’s three blocks'}"


def _checkpoint(manifest: Json) -> str:
    checkpoint = manifest["artifacts"].get(CHECKPOINT)
    return f"SHA-256 {checkpoint['sha256'][:12]}…" if checkpoint else ""


def _other_weights(also: Sequence[Json]) -> dict[str, str]:
    """Return a row for each of the other weights, as label -> text."""
    return {
        f"Also {one['weights']}": "; ".join(
            filter(None, (_network(one["manifest"]), _checkpoint(one["manifest"]), one["manifest"]["licence"]))
        )
        for one in also
    }


def _with_names(bench: Json) -> Json:
    """Return the report with a distinct ``name`` for each result."""
    results = bench["results"]
    names = formatting.result_names(results)
    return {**bench, "results": [{**row, "name": name} for row, name in zip(results, names, strict=True)]}


def _latencies(bench: Json) -> list[dict[str, Any]]:
    """Return the results with their speed-up over the first engine at the same batch."""
    rows = []
    for _, group in groupby(bench["results"], key=lambda row: row["batch"]):
        first, *others = group
        rows += [
            {**row, "speed_up": first["latency_ms"]["p50"] / row["latency_ms"]["p50"], "leads": row is first}
            for row in (first, *others)
        ]
    return rows


def _figures(validation: Json | None, bench: Json | None, training: Sequence[Json] | None) -> dict[str, str]:
    return {
        "delta": plots.delta_plot(validation) if validation and len(validation["engines"]) > 1 else "",
        "latency": plots.latency_plot(bench) if bench else "",
        "training": plots.training_plot(training) if training else "",
    }


def _tradeoff_figures(validations: Mapping[str, Json], rows: Sequence[Json], precision: Json | None) -> dict[str, str]:
    """Return the plots of Dice against latency. A single point is not plotted."""
    search = precision["int8"]["search"] if precision and precision["int8"] else None
    return {
        "tradeoff": plots.tradeoff_plot(rows, validations) if len(rows) > 1 else "",
        "search": plots.search_plot(search) if search and len(search["trials"]) > 1 else "",
    }


def _panels(overlay: Overlay) -> dict[str, Any]:
    return {
        "overlay": overlay,
        "patch": pictures.as_jpeg(overlay.image),
        "outlines": pictures.as_jpeg(pictures.outlines(overlay)),
        "disagreement": pictures.as_png(pictures.disagreement(overlay)),
    }


def _environment(manifest: Json, bench: Json | None) -> dict[str, str]:
    """Return the machine of the benchmark and the versions that exported the bundle, as label -> text."""
    rows = {
        key.replace("_", " ").replace("gib", "GiB"): _plain(value)
        for key, value in (bench["environment"] if bench else {}).items()
    }
    return rows | {"versions that exported the bundle": _plain(manifest["versions"])}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text}" for key, text in value.items())
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
