"""Validate: does an engine segment as well as the reference? Scores engines on labelled patches, and never times them.

The gate is paired: ΔDice of a patch is the engine's Dice minus the reference's on the same patch. An engine passes
where the one-sided 95% lower bound of the mean ΔDice, by a bootstrap over images, is no lower than −budget. So too
few images fail an engine that a larger set might pass; they never pass one that nobody could judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from rich import box
from rich.table import Table

from msal_deploy.bundle import Bundle
from msal_deploy.data import Patch
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.metrics import dice, iou, signed
from msal_deploy.runtimes import open_engine
from msal_deploy.scoring import CONFIDENCE, EngineScore, probabilities, score_engine


class ValidationReport(msgspec.Struct, frozen=True, eq=False):
    """Engine id -> score, the reference first, with what was measured and how.

    Attributes:
        patches: (stem, corner) of each patch, in the order of `EngineScore.confusions` and `predictions`.
    """

    reference: str
    engines: dict[str, EngineScore]
    patches: tuple[tuple[str, str], ...]
    budget: float
    threshold: float
    label_convention: str

    @property
    def passed(self) -> bool:
        """Whether every engine passed."""
        return all(score.passed for score in self.engines.values())

    @property
    def images(self) -> int:
        """The number of images that the patches are of."""
        return len({stem for stem, _ in self.patches})

    def require_passed(self) -> None:
        """Raise `GateFailed`, naming the engines that did not pass, unless all did."""
        failures = [f"{name} ({_why(score)})" for name, score in self.engines.items() if not score.passed]
        if failures:
            raise GateFailed(
                f"Not within the budget of {self.budget:g} Dice of {self.reference}: {', '.join(failures)}; "
                "use a higher precision, or more images"
            )

    def pick(self) -> dict[Literal["best", "median", "worst"], int]:
        """Return the index of the best, median and worst patch, by the Dice of the first engine after the reference."""
        scores = [dice(counts) for counts in self.engines[self.judged].confusions]
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}

    @property
    def judged(self) -> str:
        """The first engine that is not the reference, or the reference where it ran alone."""
        return next((engine for engine in self.engines if engine != self.reference), self.reference)

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only; a number that is not finite is null."""
        return {
            "reference": self.reference,
            "patches": len(self.patches),
            "images": self.images,
            "budget": self.budget,
            "confidence": CONFIDENCE,
            "threshold": self.threshold,
            "label_convention": self.label_convention,
            "passed": self.passed,
            "engines": {
                engine: score.to_json() | {"per_patch": self._per_patch(score)}
                for engine, score in self.engines.items()
            },
        }

    def _per_patch(self, score: EngineScore) -> list[dict[str, Any]]:
        return [
            {"stem": stem, "corner": corner, "dice": dice(counts), "iou": iou(counts)}
            for (stem, corner), counts in zip(self.patches, score.confusions, strict=True)
        ]

    def table(self) -> Table:
        """Return the report as a table for an 80-column terminal, two lines an engine as in the header."""
        table = Table(
            title=f"Parity with {self.reference} on {len(self.patches)} patches of {self.images} images",
            caption=f"An engine passes where the lower bound of ΔDice ({CONFIDENCE:.0%}) is at least −{self.budget:g}.",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("engine", no_wrap=True)
        for column in ("Dice", "IoU", "precision", "recall"):
            table.add_column(f"{column}\npooled", justify="right")
        for column in ("ΔDice\nlower", "flipped\npixels", ""):
            table.add_column(column, justify="right")
        for engine, score in self.engines.items():
            table.add_row(engine, *_cells(score.to_json()))
        return table


def _why(score: EngineScore) -> str:
    if not score.finite:
        return "its probabilities are not all finite"
    return f"the lower bound of its mean ΔDice is {signed(score.delta_dice.lower)}"


def _cells(score: dict[str, Any]) -> list[str]:
    keys = [("pixel_dice_mean", "pixel_dice_pooled"), ("pixel_iou_mean", "pixel_iou_pooled")]
    keys += [("precision", "precision_pooled"), ("recall", "recall_pooled")]
    return [
        *(f"{score[mean]:.4f}\n{score[total]:.4f}" for mean, total in keys),
        f"{signed(score['delta_dice']['mean'])}\n{signed(score['delta_dice']['lower'])}",
        f"{score['flipped_pixels']:.3%}",
        "[green]✓[/]" if score["passed"] else "[red]✗[/]" if score["finite"] else "[red]✗ NaN[/]",
    ]


def validate(
    bundle: Bundle,
    engine_ids: Sequence[str],
    patches: Sequence[Patch],
    *,
    budget: float = 0.002,
    batch: int = 1,
    threads: int | None = None,
    reference: str = "torch:fp32",
    label_convention: str = "",
    progress: bool = False,
) -> ValidationReport:
    """Score engines on labelled patches, beside the reference.

    Args:
        engine_ids: engines to judge; the reference runs first, named here or not. One is open at a time.
        patches: of at least two images and all of one size.
        budget: the loss of Dice that is allowed.
        batch: patches given to the engine at once.
        threads: CPU threads of each engine, or None for what its runtime takes by itself.
        label_convention: a sentence on how the masks were drawn, kept in the report.
        progress: show a progress bar on stderr.

    Raises:
        BadInput: patches of fewer than two images, an engine named twice or unknown, or a number out of range.
    """
    _check(engine_ids, patches, budget, batch)
    ids = [reference, *(engine for engine in engine_ids if engine != reference)]
    engines = {engine: open_engine(bundle, engine, threads=threads) for engine in ids}
    # The reference may compute for minutes: what another engine lacks, a driver or a graph, is told before.
    for name in ids[1:]:
        with engines[name]:
            pass
    expected = probabilities(engines.pop(reference), patches, batch, progress)
    threshold = bundle.spec.threshold
    if not (expected >= threshold).any():
        raise BadInput(
            f"{reference} finds no nucleus in any patch, so there is nothing to lose; train the checkpoint first"
        )
    scores = {reference: score_engine(patches, expected, expected, threshold, budget)}
    for name, engine in engines.items():
        probability = probabilities(engine, patches, batch, progress)
        scores[name] = score_engine(patches, probability, expected, threshold, budget)
    names = tuple((patch.stem, patch.corner) for patch in patches)
    return ValidationReport(reference, scores, names, budget, threshold, label_convention)


def _check(engine_ids: Sequence[str], patches: Sequence[Patch], budget: float, batch: int) -> None:
    if len({patch.stem for patch in patches}) < 2:
        raise BadInput("The patches to validate on must be of at least two images; give more images")
    if len({patch.image.shape for patch in patches}) > 1:
        raise BadInput("The patches to validate on have different sizes; cut them to one size")
    if repeated := {engine for engine in engine_ids if list(engine_ids).count(engine) > 1}:
        raise BadInput(f"{', '.join(sorted(repeated))} is named more than once; name each engine once")
    if not budget >= 0:
        raise BadInput(f"The budget is {budget:g}; give the loss of Dice that is allowed, such as 0.002")
    if batch < 1:
        raise BadInput(f"The batch is {batch}; it must be at least 1")
