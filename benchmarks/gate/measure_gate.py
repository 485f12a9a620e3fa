"""Measure how often the gate is right, on sets whose true loss is known."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from draws import CATASTROPHES, FAMILIES, Catastrophe, image_sets, unequal_sets
from numpy.typing import NDArray
from other_bounds import OTHERS, RESAMPLES, percentile

from msal_deploy.metrics import CONFIDENCE, Interval, clustered_interval, excludable_share, images_to_decide, verdict

BUDGET, WORST_IMAGE = 0.002, 0.02  # the defaults of `msal-deploy validate`
IMAGES = (5, 8, 14, 20, 30, 60)
CORRELATIONS = (0.8, 0.3)  # of two patches of one image; MoNuSeg's INT8 engines have 0 to 0.3
LOSSES = tuple(k * BUDGET / 4 for k in range(9))  # true losses, up to twice the budget
CHUNK = 1000  # sets whose resamples are in memory at a time
UNEQUAL = {"1 to 4 patches": (1, 2, 3, 4, 4) * 2 + (1, 2, 3, 4), "half of all patches in one image": (13, *[1] * 13)}

Array = NDArray[np.float64]


def observed_spreads(file: Path) -> dict[str, float]:
    """Return engine -> standard deviation of its ΔDice between images, of the INT8 engines in validate's JSON."""
    report = msgspec.json.decode(file.read_bytes())
    reference = _image_means(report["engines"][report["reference"]]["per_patch"])
    return {
        engine: float(np.std(_image_means(score["per_patch"]) - reference, ddof=1))
        for engine, score in report["engines"].items()
        if engine.endswith(":int8")
    }


def _image_means(rows: Iterable[dict[str, Any]]) -> Array:
    by_stem: dict[str, list[float]] = {}
    for row in rows:
        by_stem.setdefault(row["stem"], []).append(row["dice"])
    return np.array([np.mean(scores) for scores in by_stem.values()])


def intervals_of(sets: Array, sizes: Sequence[int] | None = None) -> list[Interval]:
    """Return the interval of each set, float[sets, images, patches], or float[sets, patches] of images with `sizes`."""
    sizes = sizes or [sets.shape[2]] * sets.shape[1]
    names = np.repeat([f"image {k}" for k in range(len(sizes))], sizes)
    return [clustered_interval(one, names) for one in sets.reshape(len(sets), -1)]


def shares(intervals: Iterable[Interval], images: int, loss: float = 0, spread: float = 1) -> dict[str, float]:
    """Return the share of each verdict on engines that lose `loss`, from intervals of the spread 1 around 0."""
    moved = [Interval(*(spread * value - loss for value in msgspec.structs.astuple(one))) for one in intervals]
    found = Counter(verdict(one, BUDGET, images) for one in moved)
    return {name: found[name] / len(moved) for name in ("within", "over", "undecided")}


def simulate(sets: int, other_sets: int, spreads: dict[str, float]) -> dict[str, Any]:
    """Return all results, as JSON types.

    Args:
        sets: Simulated sets of each cell.
        other_sets: The same for the bounds that the gate is compared with.
        spreads: Name -> standard deviation of ΔDice between images; one is named "observed".
    """
    return {
        "budget": BUDGET,
        "worst_image": WORST_IMAGE,
        "confidence": CONFIDENCE,
        "sets": sets,
        "sets_of_other_bounds": other_sets,
        "resamples_of_other_bounds": RESAMPLES,
        "standard_error_at_5_percent": _standard_error(0.05, sets),
        "standard_error_of_other_bounds_at_5_percent": _standard_error(0.05, other_sets),
        "spreads": spreads,
        "gate": [row for cell in _cells() for row in _gate(*cell, sets, spreads)],
        "other_bounds": [row for cell in _cells() for row in _others(*cell, other_sets, spreads)],
        "unequal": [_unequal(family, sizes, sets) for family in FAMILIES for sizes in UNEQUAL],
        "catastrophes": [
            _catastrophe(kind, images, sets, spreads["observed"]) for kind in CATASTROPHES for images in (*IMAGES, 200)
        ],
        "planning": [_planning(mean, sets) for mean in (0.001, 0.003)],
    }


def _standard_error(share: float, sets: int) -> float:
    return float(np.sqrt(share * (1 - share) / sets))


def _cells() -> Iterable[tuple[str, float, int]]:
    return product(FAMILIES, CORRELATIONS, IMAGES)


def _random(*key: Any) -> np.random.Generator:
    """Return a generator that depends on the cell only, so that a cell measured alone gives the same result."""
    return np.random.default_rng(list(repr(key).encode()))


def _gate(family: str, correlation: float, images: int, sets: int, spreads: dict[str, float]) -> list[dict[str, Any]]:
    drawn = image_sets(family, sets, images, correlation, _random("gate", family, correlation, images))
    intervals = intervals_of(drawn)
    cell = {"family": family, "correlation": correlation, "images": images}
    return [
        cell | {"spread": name, "loss": loss} | shares(intervals, images, loss, spread)
        for name, spread in spreads.items()
        for loss in LOSSES
    ]


def _others(family: str, correlation: float, images: int, sets: int, spreads: dict[str, float]) -> list[dict[str, Any]]:
    """Return for each bound how often it is wrong on either side, and how often an engine that loses nothing passes."""
    rng = _random("others", family, correlation, images)
    chunks = [image_sets(family, min(CHUNK, sets - k), images, correlation, rng) for k in range(0, sets, CHUNK)]
    ours = [one for chunk in chunks for one in intervals_of(chunk)]
    found = {"this gate": (_array(ours, "lower"), _array(ours, "upper"))}
    for name, others in OTHERS.items():
        means = [chunk.mean(2) for chunk in chunks]
        lower = np.concatenate([others(one, seed) for seed, one in enumerate(means)])
        upper = np.concatenate([-others(-one, seed) for seed, one in enumerate(means)])
        found[name] = (lower, upper)
    return [
        {
            "family": family,
            "correlation": correlation,
            "images": images,
            "bound": bound,
            "lower_wrong": float(np.mean(lower >= 0)),
            "upper_wrong": float(np.mean(upper < 0)),
            "passes_without_loss": {
                name: float(np.mean(spread * lower >= -BUDGET)) for name, spread in spreads.items()
            },
        }
        for bound, (lower, upper) in found.items()
    ]


def _array(intervals: Iterable[Interval], name: str) -> Array:
    return np.array([getattr(one, name) for one in intervals])


def _unequal(family: str, name: str, sets: int) -> dict[str, Any]:
    sizes, correlation = UNEQUAL[name], CORRELATIONS[0]
    drawn = unequal_sets(family, sets, sizes, correlation, _random("unequal", family, name))
    wrong = shares(intervals_of(drawn, sizes), len(sizes), BUDGET)
    return {"family": family, "correlation": correlation, "images": len(sizes), "patches": name} | wrong


def _catastrophe(kind: Catastrophe, images: int, sets: int, spread: float) -> dict[str, Any]:
    """Return how often the engine passes: before, by the verdict on the mean, and with the limit of the worst image."""
    drawn = kind.sets(sets, images, spread, CORRELATIONS[0], _random("catastrophe", kind.share, kind.loss, images))
    means = drawn.mean(2)
    before = np.concatenate([percentile(means[k : k + CHUNK], k) for k in range(0, sets, CHUNK)]) >= -BUDGET
    within = np.array([verdict(one, BUDGET, images) == "within" for one in intervals_of(drawn)])
    limited = within & (means.min(1) >= -WORST_IMAGE)
    return {
        "share": kind.share,
        "loss": kind.loss,
        "mean_loss": kind.mean_loss,
        "images": images,
        "passed_before": float(before.mean()),
        "passes_by_the_mean": float(within.mean()),
        "passes_with_the_worst_image": float(limited.mean()),
        "no_image_ruined": (1 - kind.share) ** images,
        "excludable_share": excludable_share(images),
    }


def _planning(mean_loss: float, sets: int) -> dict[str, Any]:
    """Return how often the number of `images_to_decide` decides, and twice that, if mean and spread are as observed."""
    spread = BUDGET
    observed = np.array([-1.0, 1.0] * 4) * spread / np.sqrt(8 / 7) - mean_loss
    needed = images_to_decide(observed, [f"image {k}" for k in range(8)], BUDGET)
    assert needed is not None
    decided = []
    for images in (needed, 2 * needed):
        drawn = image_sets("normal", sets // 5, images, 1.0, _random("planning", mean_loss, images))
        decided.append(1 - shares(intervals_of(drawn[:, :, :1]), images, mean_loss, spread)["undecided"])
    return {
        "mean_loss": mean_loss,
        "spread": spread,
        "images_to_decide": needed,
        "decided": decided[0],
        "decided_by_twice_as_many": decided[1],
    }
