"""The sections on what was measured: parity, nuclei, checks, and where the engines differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from msal_deploy import metrics
from msal_deploy.report.formatting import Json, count, other_engines, share, signed
from msal_deploy.report.verdict import engine_state, mark

BUDGET_MARKS = {"within": "✓ within", "over": "✗ over", "undecided": "? undecided"}
NEAR_UM = 1.0  # a pixel this close to a true boundary may be drawn either way by an annotator


def evidence(weights: str, validation: Json) -> dict[str, Any]:
    """Return the template variables of the sections on one set of weights.

    Args:
        weights: Their name, for headings; empty if the page has only one.
        validation: The value of `ValidationReport.to_json`.
    """
    engines = validation["engines"]
    return {
        "of": f" ({weights})" if weights else "",
        "weights": weights,
        "validation": validation,
        "marks": {
            name: mark(engine_state(score), finite=score["finite"], is_reference=name == validation["reference"])
            for name, score in engines.items()
        },
        "columns": metric_columns(metrics.METRICS),
        "nuclei_columns": metric_columns(metrics.NUCLEI_METRICS),
        "empty": _empty_patches(validation["empty_patches"]),
        "checks": [{"engine": name, **check} for name, score in engines.items() for check in score["checks"]],
        "worst": _worst_images(validation),
        "others": list(other_engines(validation)),
        "quantiles": _quantiles(validation),
        "near": _near_boundary(validation),
    }


def metric_columns(registry: Sequence[metrics.Metric[Any]]) -> list[dict[str, str]]:
    """Return the columns of a registry of metrics: label, JSON key, and average if there are two."""
    return [
        {"label": metric.label, "key": metric.key(average), "average": average if len(metric.page) > 1 else ""}
        for metric in registry
        for average in metric.page
    ]


def _empty_patches(patches: Sequence[Json]) -> str:
    if not patches:
        return ""
    names = ", ".join(f"{patch['stem']} {patch['corner']}" for patch in patches)
    some = "1 patch has" if len(patches) == 1 else f"{len(patches)} patches have"
    return f"{some} no true nucleus and so no Dice: only the pooled scores, not the means, include them ({names})."


def _worst_images(validation: Json) -> list[dict[str, Any]]:
    return [
        {"engine": name, "ruined": len(score["ruined_images"]), **score["worst_image"]}
        for name, score in other_engines(validation).items()
        if score["worst_image"]
    ]


def _quantiles(validation: Json) -> list[dict[str, Any]]:
    """Return a row for each quantile of |Δp|, with its value for each engine other than the reference."""
    columns = {name: score["differences"]["quantiles"] for name, score in other_engines(validation).items()}
    shares = dict.fromkeys(row["share"] for rows in columns.values() for row in rows)
    return [
        {
            "share": f"{100 * percentile:g}%",
            "deltas": [_at(rows, percentile) for rows in columns.values()],
        }
        for percentile in sorted(shares)
    ]


def _at(rows: Sequence[Json], percentile: float) -> float | None:
    return next((row["delta"] for row in rows if row["share"] == percentile), None)


def _near_boundary(validation: Json) -> list[str]:
    """Return for each engine how many of its flipped pixels are close to a true boundary."""
    return [
        f"{name}: {_near(score['differences']['flips_by_distance'])}"
        for name, score in other_engines(validation).items()
    ]


def _near(bins: Sequence[Json]) -> str:
    total = sum(row["flipped"] for row in bins)
    near = sum(row["flipped"] for row in bins if row["to_um"] is not None and row["to_um"] <= NEAR_UM)
    if not total:
        return "no pixel flipped"
    pixels = "flipped pixel" if total == 1 else "flipped pixels"
    return f"{share(near / total)} of {total:,} {pixels} within {NEAR_UM:g} µm"


def protocol_rows(protocols: Sequence[Json]) -> list[dict[str, Any]]:
    """Return a row for each protocol and engine: ``protocol``, ``patches``, ``engine``, and the four mean scores."""
    return [
        {"protocol": one["protocol"], "patches": one["patches"], "engine": engine, **scores}
        for one in protocols
        for engine, scores in one["engines"].items()
    ]


def protocol_range(protocols: Sequence[Json]) -> str:
    """Return how much the protocol alone moves the Dice of the first engine, which is the reference.

    >>> scores = {"corners": 0.8118, "tiles": 0.8156}
    >>> protocol_range([{"protocol": p, "engines": {"a:b": {"pixel_dice_mean": d}}} for p, d in scores.items()])
    'The protocol alone moves the Dice of a:b by 0.0038: lowest with corners, highest with tiles.'
    """
    engine = next(iter(protocols[0]["engines"]))
    dice = {one["protocol"]: one["engines"][engine]["pixel_dice_mean"] for one in protocols if engine in one["engines"]}
    lowest, highest = min(dice, key=lambda name: dice[name]), max(dice, key=lambda name: dice[name])
    moved = signed(dice[highest] - dice[lowest]).removeprefix("+")
    return f"The protocol alone moves the Dice of {engine} by {moved}: lowest with {lowest}, highest with {highest}."


def bisect_section(bisect: Json) -> dict[str, Any]:
    """Return the template variables of ``validate --bisect``: ``facts``, ``rows`` and ``conclusion``."""
    delta = bisect["delta_dice"]
    return {
        "engine": bisect["engine"],
        "facts": {
            "Measured on": f"{count(bisect['patches'], 'patch', 'patches')} of {count(bisect['images'], 'image')}, "
            f"{count(bisect['evaluations'], 'evaluation')}",
            "ΔDice of the engine": f"{signed(delta['mean'])} ({signed(delta['lower'])} to {signed(delta['upper'])}) "
            f"compared with {bisect['reference']}; budget {bisect['budget']:g}",
        },
        "rows": [{**row, "returned": row["node"] in bisect["float_nodes"]} for row in bisect["nodes"]],
        "conclusion": _bisect_conclusion(bisect),
    }


def _bisect_conclusion(bisect: Json) -> str:
    within, nodes = bisect["within_budget"], bisect["float_nodes"]
    if within is None:
        return "No set of nodes in float that was tried brings it within budget."
    delta: Mapping[str, Any] = within.get("delta_dice", within)
    return (
        f"With {count(len(nodes), 'node')} in float ({', '.join(nodes)}), {share(bisect['cost'])} of the "
        f"multiply-accumulates, it is within budget: ΔDice {signed(delta['mean'])}, at least {signed(delta['lower'])}."
    )
