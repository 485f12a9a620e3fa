"""The gate: which loss is acceptable, and the judgement on one engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from msal_deploy.data import Patch
from msal_deploy.errors import BadInput
from msal_deploy.metrics import (
    CONFIDENCE,
    MIN_IMAGES,
    Interval,
    Verdict,
    images_to_decide,
    signed,
    verdict,
)
from msal_deploy.scoring import NucleiScore, PixelScore

Budgeted = Literal["dice", "aji", "pq"]
LABELS: dict[Budgeted, str] = {"dice": "Dice", "aji": "AJI", "pq": "PQ"}


class Limits(msgspec.Struct, frozen=True):
    """What an engine may lose, compared with the reference.

    Attributes:
        budget: Largest acceptable loss of mean Dice.
        worst_image: Largest acceptable loss of Dice of a single image, as the mean over its patches.
        budget_aji: Largest acceptable loss of mean AJI; None if AJI does not gate.
        budget_pq: Largest acceptable loss of mean PQ; None if PQ does not gate.
    """

    budget: float = 0.002
    worst_image: float = 0.02
    budget_aji: float | None = None
    budget_pq: float | None = None

    def check(self) -> None:
        """Raise `BadInput` unless every limit is at least 0."""
        for name, value in msgspec.structs.asdict(self).items():
            if value is not None and not value >= 0:
                option = f"--{name.replace('_', '-')}"
                raise BadInput(f"Expected {option} of at least 0, got {value:g}", "set the acceptable loss, as 0.002")

    def budgets(self) -> dict[Budgeted, float]:
        """Return the budgets that gate."""
        budgets: dict[Budgeted, float | None] = {"dice": self.budget, "aji": self.budget_aji, "pq": self.budget_pq}
        return {name: budget for name, budget in budgets.items() if budget is not None}


class ImageLoss(msgspec.Struct, frozen=True):
    """The difference in Dice of one image, engine minus reference, as the mean over its patches."""

    stem: str
    delta_dice: float


class Judgement(msgspec.Struct, frozen=True):
    """The judgement on one engine.

    Attributes:
        verdicts: Verdict of each metric with a budget.
        images_to_decide: Estimate of the number of images that would decide all verdicts; None if nothing is undecided,
            or no number of images would.
        worst_image: The image that loses most Dice.
        ruined_images: The images that lose more than the limit.
        failures: One sentence for each reason not to pass.
    """

    verdicts: dict[Budgeted, Verdict]
    images_to_decide: int | None
    worst_image: ImageLoss
    ruined_images: tuple[ImageLoss, ...]
    failures: tuple[str, ...]

    @property
    def lossy(self) -> bool:
        """Whether a loss is over budget, or an image is ruined."""
        return bool(self.ruined_images) or "over" in self.verdicts.values()

    @property
    def verdict(self) -> Verdict:
        """The verdict on Dice."""
        return self.verdicts["dice"]

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        return {"verdict": self.verdict} | value


def judge(patches: Sequence[Patch], pixels: PixelScore, nuclei: NucleiScore, limits: Limits) -> Judgement:
    """Judge one engine by its losses. Losses of all metrics with a budget, and of every image, count.

    Args:
        patches: The patches that were scored.
        pixels: The engine's pixel scores.
        nuclei: The engine's nuclei scores.
        limits: What the engine may lose.
    """
    stems = [patches[k].stem for k in pixels.scored]
    deltas = {"dice": pixels.deltas_dice, "aji": nuclei.deltas_aji, "pq": nuclei.deltas_pq}
    intervals = {"dice": pixels.delta_dice, "aji": nuclei.delta_aji, "pq": nuclei.delta_pq}
    images = len(set(stems))
    budgets = limits.budgets()
    verdicts = {name: verdict(intervals[name], budget, images) for name, budget in budgets.items()}
    needed = {
        name: images_to_decide(deltas[name], stems, budgets[name])
        for name, one in verdicts.items()
        if one == "undecided"
    }
    losses = sorted((ImageLoss(stem, delta) for stem, delta in pixels.by_image.items()), key=lambda one: one.delta_dice)
    ruined = tuple(one for one in losses if one.delta_dice < -limits.worst_image)
    failures = [
        _loss(name, one, intervals[name], budgets[name], images, needed.get(name)) for name, one in verdicts.items()
    ]
    return Judgement(
        verdicts=verdicts,
        images_to_decide=_largest(list(needed.values())),
        worst_image=losses[0],
        ruined_images=ruined,
        failures=tuple(filter(None, (*failures, _ruined(ruined, limits.worst_image)))),
    )


def unjudged(pixels: PixelScore) -> Judgement:
    """Return the judgement on the reference, which loses nothing."""
    return Judgement({"dice": "within"}, None, ImageLoss(next(iter(pixels.by_image)), 0.0), (), ())


def _largest(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return None if None in numbers else max(known, default=None)


def _loss(name: Budgeted, one: Verdict, interval: Interval, budget: float, images: int, needed: int | None) -> str:
    label, allowed = LABELS[name], f"the budget of {budget:g}"
    if one == "within":
        return ""
    if one == "over":
        upper = f"its {CONFIDENCE:.0%} upper bound {signed(interval.upper)}"
        return f"it loses more {label} than {allowed}: the mean Δ{label} is {signed(interval.mean)}, {upper}"
    if images < MIN_IMAGES:
        return f"its loss of {label} is undecided: {images} images are too few for a verdict, {MIN_IMAGES} are needed"
    bounds = f"the mean Δ{label} is between {signed(interval.lower)} and {signed(interval.upper)}"
    more = f"about {needed} images would decide" if needed else "no feasible number of images would decide"
    return f"its loss of {label} is undecided for {allowed}: {bounds}; {more}"


def _ruined(images: Sequence[ImageLoss], limit: float) -> str:
    if not images:
        return ""
    named = ", ".join(f"{one.stem} ({signed(one.delta_dice)})" for one in images[:3])
    more = f" and {len(images) - 3} more" if len(images) > 3 else ""
    noun = "image loses" if len(images) == 1 else "images lose"
    return f"{len(images)} {noun} more than {limit:g} Dice: {named}{more}"
