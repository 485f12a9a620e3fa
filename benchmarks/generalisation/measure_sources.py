"""Score an engine on the images of several sources, as they are and under other stains."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from source_results import DENSITY, OTHER, SourceResult, curve_points, summarise, with_nuclei

from msal_deploy.data import AnnotatedImage, Dataset, Patch, label_convention, open_dataset, validation_split
from msal_deploy.data.training_sets import check_distinct, split_name, training_images
from msal_deploy.errors import BadInput, GateFailed, suggest
from msal_deploy.metrics import Confusion, confusion, dice
from msal_deploy.runtimes import Engine
from msal_deploy.train.augment import STAINS, change_density
from msal_deploy.train.validation import make_views

WHICH = ("held-out", "all", "test")


class Source(msgspec.Struct, frozen=True):
    """Images to score: `name` of the data set, `which` of its images, and the images."""

    name: str
    which: str
    images: tuple[AnnotatedImage, ...]


class Shift(msgspec.Struct, frozen=True, eq=False):
    """A change of the optical density: `curve` is what is scaled by `factor`, `matrix` float[3,3] is its effect."""

    curve: str
    factor: float
    matrix: torch.Tensor


@contextmanager
def open_sources(data: Sequence[str], which: Sequence[str], fraction: float) -> Iterator[tuple[Source, ...]]:
    """Open data sets and choose their images.

    Args:
        data: Folders or zips, each as PATH or NAME=PATH.
        which: ``held-out``, ``all`` or ``test`` for all sets, or NAME=WHICH for one.
        fraction: Fraction of the training images that the recipe holds out.

    Raises:
        BadInput: A name or choice is not known, a set has no such images, or two images have the same pixels.
    """
    named = [split_name(one) for one in data]
    choices = parse_which(which, [name for name, _ in named])
    with ExitStack() as stack:
        sources = tuple(
            Source(name, choices[name], _choose(name, stack.enter_context(open_dataset(path)), choices[name], fraction))
            for name, path in named
        )
        check_distinct({source.name: source.images for source in sources})
        yield sources


def parse_which(which: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return the choice of images of each data set.

    Raises:
        BadInput: Two data sets have the same name, or a name or a choice is not known.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"Two data sets are named {twice!r}", "name them: --data NAME=PATH")
    choices: dict[str, str] = {}
    for one in sorted(which, key=lambda one: "=" in one):  # a choice for one set overrides the choice for all
        name, _, choice = one.rpartition("=")
        if choice not in WHICH:
            raise BadInput(f"{choice!r} is not a choice of images", suggest(choice, WHICH))
        if name and name not in names:
            raise BadInput(f"{name!r} is not one of the data sets", suggest(name, names))
        choices |= dict.fromkeys([name] if name else names, choice)
    return dict.fromkeys(names, WHICH[0]) | choices


def _choose(name: str, dataset: Dataset, which: str, fraction: float) -> tuple[AnnotatedImage, ...]:
    if which == "held-out":
        return validation_split(training_images(dataset), fraction)[1]
    if which == "test" and not dataset.has_split:
        raise BadInput(f"{name} has no folder named test", f"use --images {name}=all")
    images = dataset.test if which == "test" else training_images(dataset)
    if not images:
        raise BadInput(f"{name} has no {'test' if which == 'test' else 'training'} images", "choose others: --images")
    return images


def groups_of(sources: Sequence[Source], pattern: str | None) -> dict[str, tuple[str | None, ...]]:
    """Return the group of each image by the name of its source; None for images of sources that have no groups.

    Args:
        pattern: Regular expression that is searched in stems; its first group names the group.

    Raises:
        BadInput: The pattern is not valid, has no group, or matches no stem.
    """
    if pattern is None:
        return {source.name: (None,) * len(source.images) for source in sources}
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BadInput(f"{pattern!r} is not a regular expression ({error})", "correct --group-by") from error
    if not compiled.groups:
        raise BadInput(f"{pattern!r} has no group", "put parentheses around the name: 'nuinsseg_(.+)_[0-9]+'")
    found = {source.name: [compiled.search(image.stem) for image in source.images] for source in sources}
    if not any(match for matches in found.values() for match in matches):
        raise BadInput(f"{pattern!r} matches no image", f"stems look like {sources[0].images[0].stem}")
    return {
        name: tuple((match[1] if match else OTHER) if any(matches) else None for match in matches)
        for name, matches in found.items()
    }


def make_shifts(densities: Iterable[float], stains: bool) -> tuple[Shift, ...]:
    """Return the changes of the whole density by each factor but 1, and if `stains`, of each of the two stains."""
    scaled = {DENSITY: torch.ones(3), "haematoxylin": torch.tensor([1.0, 0, 0]), "eosin": torch.tensor([0, 1.0, 0])}
    return tuple(
        Shift(curve, factor, stain_matrix(1 + (factor - 1) * amounts))
        for curve, amounts in scaled.items()
        if stains or curve == DENSITY
        for factor in densities
        if factor != 1
    )


def stain_matrix(factors: torch.Tensor) -> torch.Tensor:
    """Return the effect on the channels' densities, float[3,3], if the amount of each stain is multiplied."""
    if bool((factors == factors[0]).all()):
        return factors[0] * torch.eye(3)  # exactly, as in the validation during training
    return STAINS.T @ torch.diag(factors) @ torch.linalg.inv(STAINS.T)


def evenly(stems: Iterable[str], count: int) -> tuple[str, ...]:
    """Return at most `count` stems, spread evenly over their sorted order.

    >>> evenly("edcba", 2)
    ('a', 'c')
    """
    ordered = sorted(stems)
    kept = min(count, len(ordered))
    return tuple(ordered[k * len(ordered) // kept] for k in range(kept))


class Scorer:
    """Scores an open engine, with a progress bar on stderr.

    Args:
        engine: The engine.
        threshold: Probability from which a pixel is a nucleus.
        densities: Factors of the curves.
        stains: Whether to shift each stain, too.
        curve_images: Largest number of images per source for the curves; 0 for no curves.
    """

    def __init__(
        self, engine: Engine, threshold: float, densities: Sequence[float], stains: bool, curve_images: int
    ) -> None:
        self.engine, self.threshold, self.curve_images = engine, threshold, curve_images
        self.densities = densities
        self.shifts = make_shifts(densities, stains) if curve_images else ()

    def score(self, source: Source, groups: Sequence[str | None]) -> SourceResult:
        """Score the images of a source.

        Raises:
            BadInput: An image cannot be read, or no image has nuclei.
            GateFailed: A probability is not finite.
        """
        with _bar() as bar:
            expected = min(self.curve_images, len(source.images)) * len(self.shifts)
            task = bar.add_task(source.name, total=len(source.images) + expected)
            counts: dict[str, list[Confusion]] = {}
            for image in source.images:
                counts[image.stem] = self._count(_patches(image))
                bar.advance(task)
            result = summarise(source.name, source.which, label_convention(source.images), groups, counts)
            if not self.shifts:
                return result
            stems = evenly((stem for _, stem in result.ranked), self.curve_images)
            bar.update(task, total=len(source.images) + len(stems) * len(self.shifts))
            chosen = [image for image in source.images if image.stem in stems]
            curves = self._curves(chosen, counts, lambda: bar.advance(task))
        return msgspec.structs.replace(result, curve_images=stems, curves=curves)

    def _curves(
        self, images: Sequence[AnnotatedImage], counts: Mapping[str, list[Confusion]], advance: Any
    ) -> dict[str, Any]:
        shifted: dict[Shift, list[Confusion]] = {shift: [] for shift in self.shifts}
        for image in images:
            patches = _patches(image)
            for shift, all_counts in shifted.items():
                all_counts += self._count(patches, shift.matrix)
                advance()
        unshifted = _mean_dice(count for image in images for count in counts[image.stem])
        curves: dict[str, dict[float, float]] = {}
        for shift, all_counts in shifted.items():
            as_they_are = {1.0: unshifted} if 1.0 in self.densities else {}
            curves.setdefault(shift.curve, as_they_are)[shift.factor] = _mean_dice(all_counts)
        return {curve: curve_points(dice_at, unshifted) for curve, dice_at in curves.items()}

    def _count(self, patches: Sequence[Patch], matrix: torch.Tensor | None = None) -> list[Confusion]:
        images = np.stack([patch.image for patch in patches])
        probability = self.engine(images if matrix is None else restain(images, matrix))[:, 0]
        if not np.isfinite(probability).all():
            raise GateFailed(f"Probabilities of {patches[0].stem} are not finite", "export the bundle again")
        return [confusion(patch.mask, p >= self.threshold) for patch, p in zip(patches, probability, strict=True)]


def restain(images: np.ndarray, matrix: torch.Tensor) -> np.ndarray:
    """Multiply the optical density of uint8[N,H,W,3] by `matrix`, as the augmentation of the training does."""
    changed = change_density(torch.from_numpy(images).permute(0, 3, 1, 2), matrix)
    return changed.permute(0, 2, 3, 1).contiguous().numpy()


def _patches(image: AnnotatedImage) -> tuple[Patch, ...]:
    # The validation during training cuts the same patches.
    return make_views({"": [image]}, [1.0])[0].patches


def _mean_dice(counts: Iterable[Confusion]) -> float:
    return fmean(map(dice, with_nuclei(counts)))


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
