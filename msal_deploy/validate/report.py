"""What `validate` found: the scores, checks and judgement of each engine, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich import box
from rich.table import Table

from msal_deploy import metrics
from msal_deploy.data import Protocol
from msal_deploy.errors import GateFailed
from msal_deploy.metrics import CONFIDENCE, Metric, aji, excludable_share, iou, panoptic_quality, signed
from msal_deploy.scoring import NucleiScore, OutputFindings, PixelScore
from msal_deploy.validate.checks import Check
from msal_deploy.validate.differences import Differences
from msal_deploy.validate.gate import Judgement, Limits

VERDICT_MARKS = {"within": "[green]✓[/]", "over": "[red]✗[/]", "undecided": "[yellow]?[/]"}


class EngineResult(msgspec.Struct, frozen=True, eq=False):
    """The result of one engine.

    Attributes:
        pixels: Pixel scores.
        nuclei: Scores of the separated nuclei.
        judgement: Whether its losses are acceptable.
        checks: Checks that need no labels.
        differences: Where the engine differs from the reference.
        findings: What is wrong with the probabilities.
        cause: One sentence on the likely cause of a loss; empty if it is not known.
        protocols: Averages with the other protocols, by their JSON keys.
    """

    pixels: PixelScore
    nuclei: NucleiScore
    judgement: Judgement
    checks: tuple[Check, ...]
    differences: Differences
    findings: OutputFindings
    cause: str
    protocols: dict[Protocol, dict[str, float]]

    @property
    def finite(self) -> bool:
        """Whether all probabilities are finite."""
        return not self.findings.not_finite

    @property
    def faults(self) -> tuple[str, ...]:
        """One sentence for each fault of the probabilities and each check that failed."""
        return (*self.findings.sentences, *(check.text for check in self.checks if not check.passed))

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each reason not to pass, then the likely cause."""
        return (*self.faults, *self.judgement.failures, *filter(None, [self.cause]))

    @property
    def passed(self) -> bool:
        """Whether there is no reason not to pass."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            **self.pixels.to_json(),
            **self.nuclei.to_json(),
            "finite": self.finite,
            "passed": self.passed,
            **self.judgement.to_json(),
            "failures": list(self.failures),
            "checks": [check.to_json() for check in self.checks],
            "differences": self.differences.to_json(),
        }


class ValidationReport(msgspec.Struct, frozen=True, eq=False):
    """The results of all engines on the same patches.

    Attributes:
        reference: Id of the reference engine.
        engines: Engine id -> result, the reference first.
        patches: (stem, corner) of each patch, in the order of the scores.
        limits: What an engine may lose.
        threshold: Probability from which a pixel is a nucleus.
        label_convention: How the true masks were drawn.
        protocol: How the patches were made from the images.
        size: Side of a patch or tile in pixels.
        protocol_patches: Number of patches of each of the other protocols.
    """

    reference: str
    engines: dict[str, EngineResult]
    patches: tuple[tuple[str, str], ...]
    limits: Limits
    threshold: float
    label_convention: str
    protocol: Protocol = "corners"
    size: int = 512
    protocol_patches: Mapping[Protocol, int] = {}

    @property
    def passed(self) -> bool:
        """Whether all engines passed."""
        return all(result.passed for result in self.engines.values())

    @property
    def images(self) -> int:
        """Number of images with a true nucleus in a patch."""
        return len({self.patches[index][0] for index in self._any.pixels.scored})

    @property
    def empty_patches(self) -> list[tuple[str, str]]:
        """(stem, corner) of the patches without a true nucleus."""
        scored = set(self._any.pixels.scored)
        return [names for index, names in enumerate(self.patches) if index not in scored]

    @property
    def _any(self) -> EngineResult:
        return self.engines[self.reference]

    def require_passed(self) -> None:
        """Check that all engines passed.

        Raises:
            GateFailed: An engine did not; the message names each one with its reasons.
        """
        failed = {name: result.failures for name, result in self.engines.items() if not result.passed}
        if failed:
            causes = [f"{name}: {'; '.join(failures)}" for name, failures in failed.items()]
            raise GateFailed(f"Not within budget of {self.reference}: {'. '.join(causes)}", self._remedy())

    def _remedy(self) -> str:
        """Return what helps the engines that did not pass."""
        failed = [result for result in self.engines.values() if not result.passed]
        undecided = any("undecided" in result.judgement.verdicts.values() for result in failed)
        lost = any(result.judgement.lossy for result in failed)
        remedies = [
            "use a higher precision or find the layers with --bisect" if lost else "",
            "validate on more images" if undecided else "",
        ]
        return " and ".join(filter(None, remedies)) or "do not use the engine"

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; numbers that are not finite are null."""
        return {
            "reference": self.reference,
            "protocol": self.protocol,
            "patch": self.size,
            "patches": len(self.patches),
            "images": self.images,
            "empty_patches": [{"stem": stem, "corner": corner} for stem, corner in self.empty_patches],
            **msgspec.to_builtins(self.limits),
            "confidence": CONFIDENCE,
            "excludable_share": excludable_share(self.images),
            "threshold": self.threshold,
            "label_convention": self.label_convention,
            "passed": self.passed,
            "protocols": self._protocols(),
            "engines": {
                engine: result.to_json() | {"per_patch": self._per_patch(result)}
                for engine, result in self.engines.items()
            },
        }

    def _protocols(self) -> list[dict[str, Any]]:
        return [
            {
                "protocol": protocol,
                "patches": patches,
                "engines": {engine: result.protocols[protocol] for engine, result in self.engines.items()},
            }
            for protocol, patches in self.protocol_patches.items()
        ]

    def _per_patch(self, result: EngineResult) -> list[dict[str, Any]]:
        pixels, nuclei = result.pixels, result.nuclei
        return [
            {
                "stem": stem,
                "corner": corner,
                "dice": pixels.dice_of(index),
                "iou": iou(pixels.confusions[index]) if index in pixels.scored else None,
                "aji": aji(nuclei.counts[index]) if index in pixels.scored else None,
                "pq": panoptic_quality(nuclei.counts[index]) if index in pixels.scored else None,
                "flipped_pixels": pixels.flips[index] / pixels.predictions[index].size,
            }
            for index, (stem, corner) in enumerate(self.patches)
        ]

    def table(self) -> Table:
        """Return a table for an 80-column terminal. Each engine has two lines, as the header has."""
        table = Table(
            title=f"Parity with {self.reference} on {len(self.patches)} patches of {self.images} images",
            caption=self._caption(),
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("engine", no_wrap=True)
        pixels = [f"{metric.label}\npooled" for metric in _shown(metrics.METRICS)]
        nuclei = "\n".join(metric.label for metric in _shown(metrics.NUCLEI_METRICS))
        for column in (*pixels, nuclei, "ΔDice\nlower", "ΔAJI\nΔPQ", "worst\nimage", ""):
            table.add_column(column, justify="right")
        for engine, result in self.engines.items():
            table.add_row(engine, *_cells(result))
        return table

    def _caption(self) -> str:
        empty = f"{len(self.empty_patches)} without a labelled nucleus: not in the means.\n"
        return (
            f"Means over patches; below, pooled scores, and for ΔDice the {CONFIDENCE:.0%} lower bound.\n"
            f"✓ if that bound is at least −{self.limits.budget:g}, ? if undecided, ✗ if over budget or faulty.\n"
            + (empty if self.empty_patches else "")
            + f"{self.images} images without a ruined one (ΔDice under −{self.limits.worst_image:g}) exclude at "
            f"{CONFIDENCE:.0%}\nonly that more than {excludable_share(self.images):.0%} of all images are ruined."
        )


def _shown(entries: Sequence[Metric[Any]]) -> list[Metric[Any]]:
    return [metric for metric in entries if metric.terminal]


def _cells(result: EngineResult) -> list[str]:
    pixels, nuclei = result.pixels.averages(), result.nuclei.averages()
    return [
        *(f"{pixels[one.mean_key]:.4f}\n{pixels[one.pooled_key]:.4f}" for one in _shown(metrics.METRICS)),
        "\n".join(f"{nuclei[one.mean_key]:.4f}" for one in _shown(metrics.NUCLEI_METRICS)),
        f"{signed(result.pixels.delta_dice.mean)}\n{signed(result.pixels.delta_dice.lower)}",
        f"{signed(result.nuclei.delta_aji.mean)}\n{signed(result.nuclei.delta_pq.mean)}",
        signed(result.judgement.worst_image.delta_dice),
        _mark(result),
    ]


def _mark(result: EngineResult) -> str:
    if result.passed:
        return VERDICT_MARKS["within"]
    if not result.finite:
        return "[red]✗ NaN[/]"
    only_undecided = not result.faults and not result.judgement.ruined_images
    over = "over" in result.judgement.verdicts.values()
    return VERDICT_MARKS["undecided" if only_undecided and not over else "over"]
