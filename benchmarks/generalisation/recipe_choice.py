"""Choose the recipe with the best worst score on sources that were left out of its training."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from grids import NONE, Grid, score

from msal_deploy.errors import BadInput
from msal_deploy.recipe import Recipe
from msal_deploy.train.state import Epoch
from msal_deploy.train.validation import ViewScore

REPORT = "report.json"
RULE = (
    "Each fold leaves one source out of training. A recipe's score is the lowest mean Dice of its last epochs on the "
    "sources left out, over all folds and stain densities; the recipe with the highest score is chosen."
)


class TrainingReport(msgspec.Struct, frozen=True):
    """What is read of a report that ``msal-deploy train --json`` wrote."""

    recipe: Recipe
    history: tuple[Epoch, ...]


class Fold(msgspec.Struct, frozen=True):
    """One training run.

    Attributes:
        recipe: Name of the recipe: the name of the folder up to the last hyphen.
        fold: Rest of the name.
        epoch: The last epoch.
        held_out: Scores of the sources left out of training, under each density.
        home: Scores of the held-out images of the training sources.
    """

    recipe: str
    fold: str
    epoch: int
    held_out: tuple[ViewScore, ...]
    home: tuple[ViewScore, ...]


class Candidate(msgspec.Struct, frozen=True):
    """A recipe with all its folds.

    Attributes:
        recipe: Its name.
        folds: Its training runs.
        missing: Fold and view of scores that another recipe has and this one lacks.
    """

    recipe: str
    folds: tuple[Fold, ...]
    missing: tuple[str, ...] = ()

    @property
    def views(self) -> dict[str, ViewScore]:
        """Held-out scores by fold and view."""
        return {f"{fold.fold}: {view.view}": view for fold in self.folds for view in fold.held_out}

    @property
    def worst(self) -> tuple[str, ViewScore]:
        """Name and score of the held-out view with the lowest mean Dice."""
        return min(self.views.items(), key=lambda item: (item[1].dice, item[0]))

    @property
    def worst_image(self) -> ViewScore:
        """The held-out view with the lowest image."""
        return min(self.views.values(), key=lambda view: view.worst_dice)

    @property
    def worst_home(self) -> float:
        """The lowest mean Dice of the held-out images of the training sources."""
        return min(view.dice for fold in self.folds for view in fold.home)


class Choice(msgspec.Struct, frozen=True):
    """All recipes, the best first, and those that lack a fold last."""

    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> str:
        """Name of the chosen recipe."""
        return self.candidates[0].recipe

    def to_json(self) -> dict[str, Any]:
        """Return the choice, the rule and all scores as JSON types."""
        return {"chosen": self.chosen, "rule": RULE, "recipes": [_candidate_json(one) for one in self.candidates]}

    def grids(self) -> list[Grid]:
        """Return a table of the recipes, and one of the held-out views of each."""
        return [self._summary(), *map(_views_grid, self.candidates)]

    def notes(self) -> list[str]:
        """Return the rule, the choice, and which recipes could not be chosen."""
        name, view = self.candidates[0].worst
        incomplete = [one for one in self.candidates if one.missing]
        return [
            RULE,
            f"Chosen: {self.chosen}, whose worst held-out view is {name} with Dice {score(view.dice)}.",
            *(f"{one.recipe} cannot be chosen: it has no score of {', '.join(one.missing)}." for one in incomplete),
        ]

    def _summary(self) -> Grid:
        return Grid(
            "Recipes by their worst held-out view, the best first",
            ("recipe", "folds", "Dice", "worst held-out view", "worst image", "worst at home"),
            tuple(
                (
                    one.recipe,
                    str(len(one.folds)),
                    score(one.worst[1].dice),
                    one.worst[0],
                    score(one.worst_image.worst_dice),
                    score(one.worst_home) if all(fold.home for fold in one.folds) else NONE,
                )
                for one in self.candidates
            ),
        )


def _views_grid(candidate: Candidate) -> Grid:
    lines = tuple(
        (fold.fold, view.view, score(view.dice), score(view.iou), score(view.worst_dice), view.worst_stem)
        for fold in candidate.folds
        for view in fold.held_out
    )
    title = f"{candidate.recipe}: held-out sources at the last epoch"
    return Grid(title, ("fold", "view", "Dice", "IoU", "worst", "worst image"), lines)


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    name, view = candidate.worst
    worst = {"view": name, "dice": view.dice}
    return msgspec.to_builtins(candidate) | {"worst_held_out": worst, "worst_image": candidate.worst_image.worst_dice}


def read_folds(folder: Path) -> list[Fold]:
    """Read ``<recipe>-<fold>/report.json`` of all subfolders.

    Raises:
        BadInput: There is no report, or one cannot be used.
    """
    paths = sorted(folder.glob(f"*/{REPORT}"))
    if not paths:
        raise BadInput(f"{folder} has no RECIPE-FOLD/{REPORT}", f"write them with: msal-deploy train --json …/{REPORT}")
    return [_read_fold(path) for path in paths]


def _read_fold(path: Path) -> Fold:
    recipe, _, fold = path.parent.name.rpartition("-")
    if not recipe or not fold:
        raise BadInput(f"{path.parent} is not named RECIPE-FOLD", "rename it, such as robust-consep")
    try:
        report = msgspec.json.decode(path.read_bytes(), type=TrainingReport)
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is not the JSON of msal-deploy train ({error})", "write it again") from error
    last = report.history[-1] if report.history else None
    if last is None or not last.views:
        raise BadInput(f"{path} has no scores of its last epoch", "finish the training with --resume")
    unseen = _unseen(path, fold, report.recipe, last.views)
    held_out = tuple(view for view in last.views if set_of(view) in unseen)
    return Fold(recipe, fold, last.epoch, held_out, tuple(view for view in last.views if set_of(view) not in unseen))


def _unseen(path: Path, fold: str, recipe: Recipe, views: Sequence[ViewScore]) -> set[str]:
    """Return the validated sources that were not trained on: those without a weight in the recipe's mixture."""
    sets = {set_of(view) for view in views}
    trained = set(recipe.train.mixture) or sets - {fold}  # without a mixture, only the fold's name says it
    if unseen := sets - trained:
        return unseen
    cause = f"{path} has no score of a source that was left out of training"
    raise BadInput(cause, "train the fold with --unseen NAME=PATH, and name it like that source")


def set_of(view: ViewScore) -> str:
    """Return the data set of a view named ``consep`` or ``consep ×0.7``."""
    return view.view.partition(" ×")[0]


def choose(folds: Sequence[Fold]) -> Choice:
    """Rank the recipes by `RULE`. A recipe that lacks a fold or a view of another one comes last.

    Raises:
        BadInput: Every recipe lacks something.
    """
    grouped: dict[str, list[Fold]] = defaultdict(list)
    for fold in folds:
        grouped[fold.recipe].append(fold)
    candidates = [Candidate(recipe, tuple(runs)) for recipe, runs in grouped.items()]
    every = sorted({name for one in candidates for name in one.views})
    candidates = [
        msgspec.structs.replace(one, missing=tuple(name for name in every if name not in one.views))
        for one in candidates
    ]
    if all(one.missing for one in candidates):
        raise BadInput(_all_missing(candidates), "train the same folds with each recipe")
    return Choice(tuple(sorted(candidates, key=lambda one: (bool(one.missing), -one.worst[1].dice, one.recipe))))


def _all_missing(candidates: Sequence[Candidate]) -> str:
    lacks: Iterator[str] = (f"{one.recipe} has no score of {one.missing[0]}" for one in candidates)
    return "No recipe has all held-out scores: " + ", ".join(lacks)
