"""The page itself: what the template shows, computed here, so that the template only lays it out."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from msal_deploy import __version__
from msal_deploy.files import atomic_file
from msal_deploy.report import overlays as pictures
from msal_deploy.report import plots, wording
from msal_deploy.report.overlays import Overlay
from msal_deploy.report.precision import precision_section
from msal_deploy.report.tradeoff import FRONT, accuracy_latency
from msal_deploy.report.wording import Json, count, sample, signed


def write_report(
    path: Path,
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
) -> None:
    """Write one HTML page that needs nothing beside it; a section without data is left out.

    Args:
        manifest: a bundle's manifest as JSON.
        validation: what `ValidationReport.to_json` returned.
        bench: what `BenchReport.to_json` returned.
        precision: what `PrecisionReport.to_json` returned.
        training: a row an epoch with ``epoch``, ``train_loss`` and, where it was measured, ``validation_dice``.
        overlays: the patches to show.
        data: a sentence on the labelled images: which they are, from where, under which licence.
        command: the command line that does all this again.
        notes: sentences for the reader, such as a known limitation.
    """
    bench = _named(bench) if bench else None
    rows = accuracy_latency(validation, bench) if validation and bench else []
    html = _template().render(
        title=title,
        verdict=_verdict(validation),
        facts=_facts(manifest, validation, data),
        validation=validation,
        bench=bench,
        latencies=_latencies(bench) if bench else [],
        tradeoff=rows,
        untimed=[engine for engine in validation["engines"] if engine not in {row["engine"] for row in rows}]
        if validation
        else [],
        front=FRONT,
        precision=precision_section(precision) if precision else None,
        figures=_figures(validation, bench, training) | _choices(validation, rows, precision),
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
    for write in (wording.signed, wording.scientific, wording.share, wording.fine):
        environment.filters[write.__name__] = write
    return environment.get_template("report.html.j2")


def _verdict(validation: Json | None) -> dict[str, str]:
    """Return ``state`` (passed, failed or none), a headline, and the number that decides."""
    if validation is None:
        return {"state": "none", "headline": "Not validated", "detail": "No engine was scored against a reference."}
    judged = {name: score for name, score in validation["engines"].items() if name != validation["reference"]}
    judged = judged or validation["engines"]
    failed = [name for name, score in validation["engines"].items() if not score["passed"]]
    reach = f"within {validation['budget']:g} Dice of {validation['reference']} on {sample(validation)}"
    headline = f"{', '.join(failed)}: not {reach}" if failed else f"{count(len(judged), 'engine')} {reach}"
    return {"state": "failed" if failed else "passed", "headline": headline, "detail": _deciding(judged, validation)}


def _deciding(judged: Json, validation: Json) -> str:
    if broken := [name for name, score in validation["engines"].items() if not score["finite"]]:
        return f"The probabilities of {', '.join(broken)} are not all finite numbers."
    worst = min(judged, key=lambda name: judged[name]["delta_dice"]["lower"])
    # An engine is easily as good as a reference that finds nothing, so the reference's own Dice stands beside it.
    dice = validation["engines"][validation["reference"]]["pixel_dice_mean"]
    return (
        f"Dice of {validation['reference']}: {dice:.4f}. "
        f"Lowest {validation['confidence']:.0%} lower bound of the mean ΔDice: "
        f"{signed(judged[worst]['delta_dice']['lower'])} ({worst}); the gate is −{validation['budget']:g}."
    )


BLOCKS = {
    "dense_dilated": "dense dilated convolutions",
    "channel_attention": "channel attention",
    "boundary_refinement": "boundary refinement",
}


def _facts(manifest: Json, validation: Json | None, data: str) -> dict[str, str]:
    """Return what was run, as label -> text."""
    recipe, network = manifest["recipe"], manifest["recipe"]["network"]
    blocks = [text for block, text in BLOCKS.items() if network[block]]
    checkpoint = manifest["artifacts"].get("checkpoint.safetensors")
    facts = {
        "Network": f"MSAL-Net, {network['backbone']} with {', '.join(blocks) or 'none of the paper’s three blocks'}"
        if network.get("model", "msal-net") == "msal-net"
        else network["model"],
        "Recipe": recipe["name"],
        "Checkpoint": f"SHA-256 {checkpoint['sha256'][:12]}…" if checkpoint else "",
        "Licence of the weights": manifest["licence"],
        "Test data": data,
        "Labels": validation["label_convention"] if validation else "",
        "Scored": f"{sample(validation)}, threshold {validation['threshold']:g}" if validation else "",
    }
    return {label: text for label, text in facts.items() if text}


def _named(bench: Json) -> Json:
    """Return the report with a name for each result, which tells the settings of an engine apart."""
    results = bench["results"]
    names = wording.settings(results)
    return {**bench, "results": [{**row, "name": name} for row, name in zip(results, names, strict=True)]}


def _latencies(bench: Json) -> list[dict[str, Any]]:
    """Return the results, each with its speed-up over the first engine at the same batch."""
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


def _choices(validation: Json | None, rows: Sequence[Json], precision: Json | None) -> dict[str, str]:
    """Return the plots of what Dice costs in time; one point alone makes no plot."""
    search = precision["int8"]["search"] if precision and precision["int8"] else None
    return {
        "tradeoff": plots.tradeoff_plot(rows, validation) if validation and len(rows) > 1 else "",
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
    """Return label -> text: the machine that bench ran on, and the versions that exported the bundle."""
    rows = {
        key.replace("_", " ").replace("gib", "GiB"): _plain(value)
        for key, value in (bench["environment"] if bench else {}).items()
    }
    return rows | {"versions that exported the bundle": _plain(manifest["versions"])}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text}" for key, text in value.items())
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
