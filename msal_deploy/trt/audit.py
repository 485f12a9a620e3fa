"""Audit: is a plan what was asked for? Builders fall back to a wider type without a word."""

from collections.abc import Mapping, Sequence

from msal_deploy.errors import GateFailed
from msal_deploy.graph import Layer
from msal_deploy.trt.layer_precisions import LayerPrecisions
from msal_deploy.trt.plan_metadata import ActualPrecision, Share

MIN_SEEN = 0.95  # of the FLOPs; a source that names fewer is not understood
MIN_REQUESTED = 0.5  # of the FLOPs, for a plan to be called by a precision
WIDTH = {"int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}


def choose_layer_precisions(graph: Sequence[Layer], readings: Sequence[LayerPrecisions | None]) -> LayerPrecisions:
    """Return the first of `readings` that names the precision of nearly all of the graph's FLOPs.

    Raises:
        GateFailed: none does.
    """
    for reading in readings:
        if reading is not None and _seen(graph, reading.precisions) >= MIN_SEEN:
            return reading
    raise GateFailed(
        "What the plan computes in cannot be read from the engine, so it was not kept; build it with another version "
        "of TensorRT"
    )


def _seen(graph: Sequence[Layer], precisions: Mapping[str, str]) -> float:
    known = sum(layer.macs for layer in graph if precisions.get(layer.name, "unknown") != "unknown")
    return known / sum(layer.macs for layer in graph)


def realised(graph: Sequence[Layer], reading: LayerPrecisions) -> ActualPrecision:
    """Return how much of the graph is computed in which precision."""
    total = sum(layer.macs for layer in graph)
    groups: dict[str, list[Layer]] = {}
    for layer in graph:
        groups.setdefault(reading.precisions.get(layer.name, "unknown"), []).append(layer)
    shares = {
        precision: Share(len(of), len(of) / len(graph), sum(layer.macs for layer in of) / total)
        for precision, of in sorted(groups.items())
    }
    return ActualPrecision(reading.source, shares, reading.reformats)


def find_fault(requested: str, graph: Sequence[Layer], found: ActualPrecision) -> str:
    """Return how a plan is not of the requested precision and what to do, empty where it is."""
    if _share(found, requested) >= MIN_REQUESTED:
        return ""
    there = ", ".join(f"{100 * share.of_flops:.0f}% in {name}" for name, share in found.shares.items())
    wanted = sum(layer.macs for layer in graph if layer.precision == requested) / sum(layer.macs for layer in graph)
    remedy = f"its graph says no better: make the {requested} graph again"
    if wanted >= MIN_REQUESTED:
        remedy = "its graph says otherwise, so this GPU and TensorRT do not have it: ask for another precision"
    return f"was asked for in {requested} and computes its FLOPs {there}; {remedy}"


def _share(found: ActualPrecision, precision: str) -> float:
    return found.shares[precision].of_flops if precision in found.shares else 0.0


def find_deviations(graph: Sequence[Layer], reading: LayerPrecisions, *, wider: bool) -> str:
    """Return which layers are computed wider than the graph says (or else, not `wider`, narrower), empty if none is."""
    wrong = [layer for layer in graph if _is_wrong(layer.precision, reading.precisions.get(layer.name), wider)]
    if not wrong:
        return ""
    flops = sum(layer.macs for layer in wrong) / sum(layer.macs for layer in graph)
    named = [f"{layer.name} in {reading.precisions[layer.name]} and not {layer.precision}" for layer in wrong[:2]]
    more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
    return (
        f"computes {len(wrong)} of {len(graph)} layers ({100 * flops:.1f}% of the FLOPs) "
        f"{'wider' if wider else 'narrower'} than the graph says: {', '.join(named)}{more}"
    )


def _is_wrong(wanted: str, found: str | None, wider: bool) -> bool:
    if found not in WIDTH or wanted not in WIDTH or found == wanted:
        return False
    return (WIDTH[found] > WIDTH[wanted]) == wider
