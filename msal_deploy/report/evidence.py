"""The sections on what was measured: parity, nuclei, checks, and where the engines differ."""

from collections.abc import Sequence
from typing import Any

from msal_deploy import metrics
from msal_deploy.report.formatting import Json, count, other_engines, share, signed
from msal_deploy.report.verdict import engine_state, mark

BUDGET_MARKS = {"within": "✓ within", "over": "✗ over", "undecided": "? undecided"}
PROTOCOL_SCORES = ("pixel_dice_mean", "pixel_iou_mean", "aji_mean", "pq_mean")
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


def all_protocols(validation: Json) -> list[Json]:
    """Return the scores by protocol, of the one that was judged first; empty if no other was compared."""
    judged = {key: validation[key] for key in ("protocol", "patches", "engines")}
    return [judged, *validation["protocols"]] if validation["protocols"] else []


def protocol_rows(protocols: Sequence[Json]) -> list[dict[str, Any]]:
    """Return a row for each protocol and engine: ``protocol``, ``patches``, ``engine``, and the four mean scores."""
    return [
        {"protocol": one["protocol"], "patches": one["patches"], "engine": engine}
        | {key: scores[key] for key in PROTOCOL_SCORES}
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
    """Return the template variables of ``validate --bisect``: ``facts``, ``rows``, ``noise`` and ``conclusion``.

    Args:
        bisect: The value of `BisectReport.to_json`.
    """
    delta = bisect["delta_dice"]
    size = f"{count(bisect['patches'], 'patch', 'patches')} of {count(bisect['images'], 'image')}"
    return {
        "engine": bisect["engine"],
        "facts": {
            "Measured on": f"{size}, {count(bisect['evaluations'], 'graph')} run by {bisect['evaluated_on']}",
            "ΔDice of the engine": f"{signed(delta['mean'])} ({signed(delta['lower'])} to {signed(delta['upper'])}) "
            f"compared with {bisect['reference']}; budget {bisect['budget']:g}",
        },
        "rows": [_node(row, bisect["float_nodes"]) for row in bisect["nodes"]],
        "noise": bisect["noise"],
        "conclusion": _bisect_conclusion(bisect),
    }


def _node(row: Json, returned: Sequence[str]) -> dict[str, Any]:
    error, scale = row["rounding_error"], row["scale_ratio"]
    return {
        **row,
        "rounding": "overflow" if error is None else f"{error:.2%}",
        "scale": "–" if scale is None else f"{scale:.2f}×",
        "returned": row["node"] in returned,
    }


def _bisect_conclusion(bisect: Json) -> str:
    nodes, before, after = bisect["float_nodes"], bisect["delta_dice"], bisect["within_budget"]
    if not nodes:
        return "It is within the budget on these patches; no node needs to return to float."
    return (
        f"With {len(nodes)} of {count(bisect['candidates'], 'node')} in float ({', '.join(nodes)}), "
        f"{share(bisect['cost'])} of the multiply-accumulates, it is within the budget: the lower bound of the mean "
        f"ΔDice rises from {signed(before['lower'])} to {signed(after['lower'])}."
    )
