"""The scores of two bundles side by side."""

from collections.abc import Iterator

from grids import NONE, Grid, percent, score
from source_results import DENSITY, POOR, RANGE, Results, SourceResult

from msal_deploy.errors import BadInput

Names = tuple[str, str]
Pair = tuple[SourceResult, SourceResult]


def compare_results(before: Results, after: Results, names: Names) -> tuple[list[Grid], list[str]]:
    """Return the tables and notes on the sources that both results have, the worst source of `after` first.

    Raises:
        BadInput: The results have no source in common, or other images of one.
    """
    pairs = _pairs(before, after, names)
    return list(_grids(pairs, names)), list(_notes(before, after, names))


def _pairs(before: Results, after: Results, names: Names) -> list[Pair]:
    old = {source.name: source for source in before.sources}
    pairs = [(old[source.name], source) for source in after.sources if source.name in old]
    if not pairs:
        raise BadInput(f"{names[0]} and {names[1]} have no source in common", "score the same --data with both bundles")
    for one, other in pairs:
        if {image.stem for image in one.images} != {image.stem for image in other.images}:
            cause = f"{names[0]} and {names[1]} scored other images of {one.name}"
            raise BadInput(cause, "score both bundles with the same --images")
        if one.curves and other.curves and one.curve_images != other.curve_images:
            cause = f"The curves of {names[0]} and {names[1]} show other images of {one.name}"
            raise BadInput(cause, "score both bundles with the same --curve-images")
    return sorted(pairs, key=lambda pair: pair[1].dice_mean)


def _grids(pairs: list[Pair], names: Names) -> Iterator[Grid]:
    arrow = f"{names[0]} → {names[1]}"
    yield Grid(
        f"Sources, {arrow}",
        ("source", "images", "Dice", "IoU", "pooled Dice", f"images under {POOR:g}"),
        tuple(
            (
                new.name,
                str(len(new.images)),
                _change(old.dice_mean, new.dice_mean),
                _change(old.iou_mean, new.iou_mean),
                _change(old.dice_pooled, new.dice_pooled),
                f"{old.poor} → {new.poor}",
            )
            for old, new in pairs
        ),
    )
    yield Grid(
        "The worst image of each source",
        ("source", "weights", "Dice", "worst image"),
        tuple(
            (source.name, name, score(source.ranked[0][0]), source.ranked[0][1])
            for pair in pairs
            for name, source in zip(names, pair, strict=True)
        ),
    )
    for curve in dict.fromkeys(curve for pair in pairs for source in pair for curve in source.curves):
        yield _curve_grid(pairs, names, curve)
    for old, new in pairs:
        if new.groups():
            yield _group_grid(old, new, arrow)


def _change(old: float | None, new: float | None) -> str:
    return f"{score(old)} → {score(new)}"


def _curve_grid(pairs: list[Pair], names: Names, curve: str) -> Grid:
    factors = sorted({point.factor for pair in pairs for one in pair for point in one.curves.get(curve, ())})
    lines = []
    for pair in pairs:
        for name, source in zip(names, pair, strict=True):
            at = {point.factor: point.relative for point in source.curves.get(curve, ())}
            cells = (percent(at.get(factor)) for factor in factors)
            lines.append((source.name, name, *cells, percent(source.lowest(curve))))
    what = "the optical density" if curve == DENSITY else f"{curve} only"
    return Grid(
        f"Dice relative to the unshifted Dice by the factor on {what}; the lowest from ×{RANGE[0]:g} to ×{RANGE[1]:g}",
        ("source", "weights", *(f"×{factor:g}" for factor in factors), "lowest"),
        tuple(lines),
    )


def _group_grid(old: SourceResult, new: SourceResult, arrow: str) -> Grid:
    mean = {group.group: group.dice_mean for group in old.groups()}
    worst = {group.group: group.worst_dice for group in old.groups()}
    lines = (
        (
            group.group,
            str(group.images),
            _change(mean.get(group.group), group.dice_mean),
            _change(worst.get(group.group), group.worst_dice),
        )
        for group in new.groups()
    )
    return Grid(f"{new.name} by group, {arrow}", ("group", "images", "mean", "worst image"), tuple(lines))


def _notes(before: Results, after: Results, names: Names) -> Iterator[str]:
    for name, results in zip(names, (before, after), strict=True):
        yield f"{name}: recipe {results.weights.get('recipe', NONE)}, scored by {results.engine}."
    sets = [{source.name for source in results.sources} for results in (before, after)]
    for name, only in zip(names, (sets[0] - sets[1], sets[1] - sets[0]), strict=True):
        if only:
            yield f"Only scored with {name}: {', '.join(sorted(only))}."
