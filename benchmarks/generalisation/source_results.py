"""The results of one run of ``sources.py score``, as they are in its JSON."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
from grids import Grid, percent, score

from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.metrics import Confusion, dice, iou, pooled

WORST = 5  # images listed by name
POOR = 0.4  # Dice that no image should be under
RANGE = (0.7, 1.4)  # factors on the density between which the Dice should hold
HOLDS = 0.95  # share of the unshifted Dice
DENSITY = "density"  # the curve with all three channels scaled, the only one that --require checks
OTHER = "other"  # the group of stems that the pattern does not match
RULES = {
    "patches": "the corners of each image, 512 px or the largest multiple of 32 that fits",
    "without nuclei": "patches without nuclei are left out of the means, and images without nuclei have no Dice of "
    "their own and cannot be the worst; the pooled scores include all pixels",
    "worst": "images by the Dice of their patches' summed pixel counts",
    "groups": "mean over images",
    "curves": "mean Dice over the patches of curve_images, chosen evenly from the sorted stems of the images with "
    "nuclei; relative to the unshifted Dice of the same images",
}


class ImageScore(msgspec.Struct, frozen=True):
    """The score of an image.

    Attributes:
        stem: File name without suffix.
        patches: Number of its patches.
        dice: Dice of the summed pixel counts of its patches, or None if they hold no nuclei.
        group: Name of its group, such as an organ, or None.
    """

    stem: str
    patches: int
    dice: float | None
    group: str | None = None


class Point(msgspec.Struct, frozen=True):
    """The mean Dice at a factor on the optical density, and its ratio to the unshifted one (None if that is 0)."""

    factor: float
    dice: float
    relative: float | None


class Group(msgspec.Struct, frozen=True):
    """The mean and worst Dice of the images of a group that have nuclei."""

    group: str
    images: int
    dice_mean: float
    worst_stem: str
    worst_dice: float


class SourceResult(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of a source.

    Attributes:
        name: Name of the data set.
        which: ``held-out``, ``all`` or ``test``.
        label_convention: How the true masks were drawn.
        patches: Number of patches.
        patches_without_nuclei: Number of patches left out of the means.
        dice_mean: Mean Dice over patches with nuclei.
        iou_mean: Mean IoU over patches with nuclei.
        dice_pooled: Dice of the summed pixel counts.
        iou_pooled: IoU of the summed pixel counts.
        images: Score of each image.
        curve_images: Stems of the images of the curves.
        curves: Curve by what is scaled: ``density``, ``haematoxylin``, ``eosin``.
    """

    name: str
    which: str
    label_convention: str
    patches: int
    patches_without_nuclei: int
    dice_mean: float
    iou_mean: float
    dice_pooled: float
    iou_pooled: float
    images: tuple[ImageScore, ...]
    curve_images: tuple[str, ...] = ()
    curves: dict[str, tuple[Point, ...]] = {}

    @property
    def ranked(self) -> tuple[tuple[float, str], ...]:
        """Dice and stem of the images with nuclei, the worst first."""
        return tuple(sorted((image.dice, image.stem) for image in self.images if image.dice is not None))

    @property
    def without_nuclei(self) -> tuple[str, ...]:
        """Stems of the images without nuclei."""
        return tuple(image.stem for image in self.images if image.dice is None)

    @property
    def poor(self) -> int:
        """Number of images under `POOR`."""
        return sum(value < POOR for value, _ in self.ranked)

    def groups(self) -> tuple[Group, ...]:
        """Return the groups, the one with the lowest mean first."""
        members = defaultdict(list)
        for image in self.images:
            if image.group is not None and image.dice is not None:
                members[image.group].append((image.dice, image.stem))
        groups = [
            Group(name, len(scores), fmean(value for value, _ in scores), min(scores)[1], min(scores)[0])
            for name, scores in members.items()
        ]
        return tuple(sorted(groups, key=lambda group: (group.dice_mean, group.group)))

    def lowest(self, curve: str = DENSITY) -> float | None:
        """Return the lowest relative Dice at the factors in `RANGE`, or None if there is none."""
        low, high = RANGE
        inside = [point.relative for point in self.curves.get(curve, ()) if low - 1e-9 <= point.factor <= high + 1e-9]
        return None if not inside or None in inside else min(value for value in inside if value is not None)

    def to_json(self) -> dict[str, Any]:
        """Return the fields, and what follows from them, as JSON types."""
        derived = {
            "images_without_nuclei": list(self.without_nuclei),
            "worst_images": [{"stem": stem, "dice": value} for value, stem in self.ranked[:WORST]],
            "images_under_0.4": self.poor,
            "groups": msgspec.to_builtins(self.groups()),
            "lowest_relative_dice": {curve: self.lowest(curve) for curve in self.curves},
            "holds": {curve: _holds(self.lowest(curve)) for curve in self.curves},
        }
        return msgspec.to_builtins(self) | derived


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of one bundle on all sources.

    Attributes:
        weights: Recipe, licence and hash of the bundle's weights.
        engine: Id of the engine.
        threshold: Probability from which a pixel is a nucleus.
        densities: Factors of the curves.
        sources: One result per source.
        environment: Description of the machine.
    """

    weights: dict[str, str]
    engine: str
    threshold: float
    densities: tuple[float, ...]
    sources: tuple[SourceResult, ...]
    environment: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read the JSON of `to_json`.

        Raises:
            BadInput: The file does not exist or holds something else.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError as error:
            raise BadInput(f"{path} does not exist", "write it with: sources.py score --json") from error
        except msgspec.DecodeError as error:
            raise BadInput(f"{path} is not the JSON of sources.py score ({error})", "write it again") from error

    def to_json(self) -> dict[str, Any]:
        """Return JSON types, the rules of the scores among them."""
        fields = msgspec.to_builtins(self)
        stated = {"rules": RULES, "holds_between": list(RANGE), "holds_from": HOLDS}
        return fields | stated | {"sources": [source.to_json() for source in self.sources]}

    def require(self, share: float) -> None:
        """Check that each source keeps `share` of its unshifted Dice at all densities in `RANGE`.

        Raises:
            GateFailed: A source does not.
        """
        lowest = {source.name: source.lowest() for source in self.sources}
        failed = [f"{name} {percent(value)}" for name, value in lowest.items() if value is None or value < share]
        if failed:
            cause = f"Dice falls below {share:.0%} of the unshifted Dice between ×{RANGE[0]:g} and ×{RANGE[1]:g}"
            raise GateFailed(f"{cause}: {', '.join(failed)}", "train with a wider density augmentation")

    def grids(self) -> Iterator[Grid]:
        """Yield the tables of the run."""
        yield Grid(
            f"Sources, scored by {self.engine}",
            ("source", "images", "patches", "Dice", "IoU", "pooled", "worst", f"under {POOR:g}"),
            tuple(map(_source_line, self.sources)),
        )
        for source in self.sources:
            yield Grid(
                f"{source.name}: the worst images" + _left_out(source.without_nuclei),
                ("image", "Dice"),
                tuple((stem, score(value)) for value, stem in source.ranked[:WORST]),
            )
            if groups := source.groups():
                yield Grid(f"{source.name} by group", GROUP_COLUMNS, tuple(map(_group_line, groups)))
        for curve in dict.fromkeys(curve for source in self.sources for curve in source.curves):
            yield self._curve_grid(curve)

    def _curve_grid(self, curve: str) -> Grid:
        shown = [source for source in self.sources if curve in source.curves]
        factors = [f"×{point.factor:g}" for point in shown[0].curves[curve]]
        lines = tuple(
            (source.name, *(percent(point.relative) for point in source.curves[curve]), _verdict(source.lowest(curve)))
            for source in shown
        )
        return Grid(f"Dice relative to the unshifted Dice: {curve} scaled", ("source", *factors, ""), lines)


GROUP_COLUMNS = ("group", "images", "mean", "worst", "worst image")


def _source_line(source: SourceResult) -> tuple[str, ...]:
    scores = (source.dice_mean, source.iou_mean, source.dice_pooled, source.ranked[0][0])
    return source.name, str(len(source.images)), str(source.patches), *map(score, scores), str(source.poor)


def _group_line(group: Group) -> tuple[str, ...]:
    return group.group, str(group.images), score(group.dice_mean), score(group.worst_dice), group.worst_stem


def _left_out(stems: Sequence[str]) -> str:
    return f" (left out, without nuclei: {len(stems)}: {', '.join(stems)})" if stems else ""


def _holds(lowest: float | None) -> bool | None:
    return None if lowest is None else lowest >= HOLDS


def _verdict(lowest: float | None) -> str:
    return {None: "", True: "✓", False: "✗"}[_holds(lowest)]


def summarise(
    name: str, which: str, label_convention: str, groups: Sequence[str | None], counts: dict[str, list[Confusion]]
) -> SourceResult:
    """Return the scores of a source without its curves.

    Args:
        groups: Group of each image.
        counts: Stem -> pixel counts of each of its patches.

    Raises:
        BadInput: No patch has nuclei.
    """
    patches = [count for image in counts.values() for count in image]
    nuclei = list(with_nuclei(patches))
    if not nuclei:
        raise BadInput(f"{name} has no nuclei", "leave it out, or check its labels")
    total = pooled(patches)
    images = tuple(
        ImageScore(stem, len(image), dice(pooled(image)) if list(with_nuclei(image)) else None, group)
        for (stem, image), group in zip(counts.items(), groups, strict=True)
    )
    return SourceResult(
        name=name,
        which=which,
        label_convention=label_convention,
        patches=len(patches),
        patches_without_nuclei=len(patches) - len(nuclei),
        dice_mean=fmean(map(dice, nuclei)),
        iou_mean=fmean(map(iou, nuclei)),
        dice_pooled=dice(total),
        iou_pooled=iou(total),
        images=images,
    )


def with_nuclei(counts: Iterable[Confusion]) -> Iterator[Confusion]:
    """Yield the pixel counts of patches whose true mask has nuclei."""
    return (count for count in counts if count.tp + count.fn)


def curve_points(dice_at: dict[float, float], unshifted: float) -> tuple[Point, ...]:
    """Return the points of a curve, sorted by factor.

    Args:
        dice_at: Factor -> mean Dice.
        unshifted: Mean Dice of the same images as they are.
    """
    return tuple(
        Point(factor, value, value / unshifted if unshifted else None) for factor, value in sorted(dice_at.items())
    )
