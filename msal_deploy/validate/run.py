"""Validate: compare the segmentation of engines with a reference engine on labelled patches. No timing.

The gate is on paired differences: ΔDice of a patch is the engine's Dice minus the reference's Dice on the same patch.
An engine passes if the one-sided 95% lower bound of its mean ΔDice, from a bootstrap over images, is at least −budget.
With few images the bound is low, so an engine can fail that would pass on a larger set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from rich import box
from rich.table import Table

from msal_deploy import metrics
from msal_deploy.bundle import Bundle
from msal_deploy.data import Patch
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.metrics import CONFIDENCE, dice, iou, signed
from msal_deploy.runtimes import open_engine
from msal_deploy.scoring import EngineScore, probabilities, score_engine


class ValidationReport(msgspec.Struct, frozen=True, eq=False):
    """The scores of all engines on the same patches.

    Attributes:
        reference: Id of the reference engine.
        engines: Engine id -> score, the reference first.
        patches: (stem, corner) of each patch, in the order of `EngineScore.confusions` and `EngineScore.predictions`.
        budget: Largest acceptable loss of mean Dice.
        threshold: Probability from which a pixel is a nucleus.
        label_convention: How the true masks were drawn.
    """

    reference: str
    engines: dict[str, EngineScore]
    patches: tuple[tuple[str, str], ...]
    budget: float
    threshold: float
    label_convention: str

    @property
    def passed(self) -> bool:
        """Whether all engines passed."""
        return all(score.passed for score in self.engines.values())

    @property
    def images(self) -> int:
        """Number of images that the patches were cut from."""
        return len({stem for stem, _ in self.patches})

    def require_passed(self) -> None:
        """Check that all engines passed.

        Raises:
            GateFailed: An engine's Dice loss exceeds the budget, or a probability is not finite.
        """
        if not self.passed:
            losses, not_finite = self._losses(), self._not_finite()
            remedy = "use a higher precision" + (" or validate on more images" if losses else "")
            raise GateFailed(". ".join(filter(None, (losses, not_finite))), remedy)

    def _losses(self) -> str:
        bounds = [
            f"{name} (lower bound of the mean ΔDice: {signed(score.delta_dice.lower)})"
            for name, score in self.engines.items()
            if score.finite and not score.passed
        ]
        against = f"Dice loss exceeds the budget of {self.budget:g} compared with {self.reference}"
        return f"{against}: {', '.join(bounds)}" if bounds else ""

    def _not_finite(self) -> str:
        names = [name for name, score in self.engines.items() if not score.finite]
        return f"Probabilities are not finite: {', '.join(names)}" if names else ""

    def pick(self) -> dict[Literal["best", "median", "worst"], int]:
        """Return the indices of the patches with the best, median and worst Dice of the engine `example_engine`."""
        scores = [dice(counts) for counts in self.engines[self.example_engine].confusions]
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}

    @property
    def example_engine(self) -> str:
        """The first engine after the reference, or the reference if it is the only engine."""
        return next((engine for engine in self.engines if engine != self.reference), self.reference)

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; numbers that are not finite are null."""
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
        """Return a table for an 80-column terminal. Each engine has two lines, as the header has."""
        table = Table(
            title=f"Parity with {self.reference} on {len(self.patches)} patches of {self.images} images",
            caption=f"Above: mean over patches. Below: pooled; for ΔDice the {CONFIDENCE:.0%} lower bound.\n"
            f"✓ if that bound is at least −{self.budget:g}.",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("engine", no_wrap=True)
        columns = [f"{metric.label}\npooled" for metric in metrics.METRICS if metric.terminal]
        for column in (*columns, "ΔDice\nlower", "flipped\npixels", ""):
            table.add_column(column, justify="right")
        for engine, score in self.engines.items():
            table.add_row(engine, *_cells(score.to_json()))
        return table


def _cells(score: dict[str, Any]) -> list[str]:
    return [
        *(
            f"{score[metric.mean_key]:.4f}\n{score[metric.pooled_key]:.4f}"
            for metric in metrics.METRICS
            if metric.terminal
        ),
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
    """Score engines on labelled patches and compare each with the reference.

    >>> from pathlib import Path
    >>> from msal_deploy.data import open_dataset, patches_of
    >>> with open_dataset(Path("monuseg")) as dataset:
    ...     patches = patches_of(dataset.test)
    >>> bundle = Bundle(Path("bundle"))
    >>> report = validate(bundle, ["onnxruntime:fp16"], patches, reference="onnxruntime:fp32")
    >>> report.passed, report.images
    (True, 2)

    Args:
        bundle: Bundle with the graphs and plans of the engines.
        engine_ids: Engines to score. The reference always runs, first. One engine is open at a time.
        patches: Patches of the same size, of at least two images.
        budget: Largest acceptable loss of mean Dice.
        batch: Patches per inference call.
        threads: CPU threads of each engine; None for the runtime's default.
        reference: Engine to compare with.
        label_convention: How the true masks were drawn; the report includes it.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: The patches are of fewer than two images, an engine is unknown or listed twice, an argument is out
            of range, or the reference predicts no nuclei.
        MissingRequirement: An engine cannot be opened on this machine. Raised before the reference runs.
    """
    _check(engine_ids, patches, budget, batch)
    ids = [reference, *(engine for engine in engine_ids if engine != reference)]
    engines = {engine: open_engine(bundle, engine, threads=threads) for engine in ids}
    # The reference may run for minutes, so first check that the other engines can be opened.
    for name in ids[1:]:
        with engines[name]:
            pass
    expected = probabilities(engines.pop(reference), patches, batch, progress)
    threshold = bundle.spec.threshold
    if not (expected >= threshold).any():
        raise BadInput(
            f"{reference} predicts no nucleus in any patch, so parity cannot be judged", "train the checkpoint first"
        )
    scores = {reference: score_engine(patches, expected, expected, threshold, budget)}
    for name, engine in engines.items():
        probability = probabilities(engine, patches, batch, progress)
        scores[name] = score_engine(patches, probability, expected, threshold, budget)
    names = tuple((patch.stem, patch.corner) for patch in patches)
    return ValidationReport(reference, scores, names, budget, threshold, label_convention)


def _check(engine_ids: Sequence[str], patches: Sequence[Patch], budget: float, batch: int) -> None:
    images = len({patch.stem for patch in patches})
    if images < 2:
        raise BadInput(f"Expected patches of at least two images, got {images}", "add images to the test set")
    if len(sizes := {patch.image.shape[:2] for patch in patches}) > 1:
        actual = " and ".join(f"{height}×{width}" for height, width in sorted(sizes))
        raise BadInput(f"Expected patches of the same size, got {actual}", "cut all patches to one size")
    if repeated := sorted({engine for engine in engine_ids if list(engine_ids).count(engine) > 1}):
        raise BadInput(f"Expected each engine once, got {', '.join(repeated)} more than once", "list it once")
    if not budget >= 0:
        raise BadInput(f"Expected a budget of at least 0, got {budget:g}", "set the acceptable loss, such as 0.002")
    if batch < 1:
        raise BadInput(f"Expected a batch of at least 1, got {batch}", "set a positive number")
