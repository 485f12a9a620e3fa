"""Compare engines with the reference, which runs once and first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from msal_deploy.data import Patch, Protocol
from msal_deploy.errors import BadInput
from msal_deploy.metrics import dice
from msal_deploy.runtimes import Engine
from msal_deploy.scoring import (
    NucleiScore,
    Outputs,
    PixelScore,
    find_nuclei,
    run_engine,
    score_nuclei,
    score_pixels,
)
from msal_deploy.spec import ModelSpec
from msal_deploy.validate.checks import Check, check_engine, compare_builds
from msal_deploy.validate.diagnose import diagnose
from msal_deploy.validate.differences import differences
from msal_deploy.validate.gate import Judgement, Limits, judge, unjudged
from msal_deploy.validate.precision_check import check_precision
from msal_deploy.validate.probe import choose_tiles, probe_reference
from msal_deploy.validate.report import EngineResult

if TYPE_CHECKING:
    from msal_deploy.scoring.nuclei_score import Labels

MIN_REFERENCE_DICE = 0.1  # below, there is too little to lose for parity to mean anything


class Inputs(msgspec.Struct, frozen=True, eq=False):
    """What every engine is run on.

    Attributes:
        patches: The patches of each protocol; the first protocol is the one that is judged.
        size: Side of a patch or tile in pixels.
        batch: Patches per inference call.
        progress: Show a progress bar on stderr.
    """

    patches: Mapping[Protocol, Sequence[Patch]]
    size: int
    batch: int
    progress: bool

    @property
    def protocol(self) -> Protocol:
        """The protocol that is judged."""
        return next(iter(self.patches))

    @property
    def judged(self) -> Sequence[Patch]:
        """The patches of the protocol that is judged."""
        return self.patches[self.protocol]

    def run(self, engine: Engine) -> dict[Protocol, Outputs]:
        """Run an open engine on the patches of each protocol."""
        return {
            protocol: run_engine(
                engine,
                patches,
                batch=self.batch,
                tile=self.size if protocol == "tiles" else None,
                progress=self.progress,
            )
            for protocol, patches in self.patches.items()
        }


class _Scores(msgspec.Struct, frozen=True, eq=False):
    pixels: PixelScore
    nuclei: NucleiScore


class Comparison:
    """The reference's outputs, with which engines are compared.

    Args:
        reference: The reference engine, not open.
        inputs: What every engine is run on.
        limits: What an engine may lose.

    Raises:
        BadInput: The reference scores near zero.
    """

    def __init__(self, reference: Engine, inputs: Inputs, limits: Limits) -> None:
        self._reference, self._inputs, self._limits = reference, inputs, limits
        self._spec: ModelSpec = reference.spec
        with reference:
            self._outputs = inputs.run(reference)
            _require_score(reference.id, inputs.judged, self._outputs[inputs.protocol], self._spec.threshold)
            self._probe = probe_reference(reference, choose_tiles(inputs.judged))
            self._checks = check_engine(reference, self._probe)
        self._nuclei = self._find(self._outputs)

    def reference_result(self) -> EngineResult:
        """Return the result of the reference, which differs from itself by nothing."""
        scores = self._score(self._outputs, self._nuclei)
        judgement = unjudged(scores[self._inputs.protocol].pixels)
        return self._result(self._reference, self._outputs, scores, judgement, self._checks, "")

    def result(self, engine: Engine, second_build: Engine | None = None) -> EngineResult:
        """Run an engine that is not open, and compare it with the reference.

        Args:
            engine: The engine.
            second_build: The same engine of another build, which must compute the same.
        """
        precision = check_precision(engine.bundle, engine.id)
        with engine:
            outputs = self._inputs.run(engine)
            scores = self._score(outputs, self._find(outputs))
            judged = scores[self._inputs.protocol]
            judgement = judge(self._inputs.judged, judged.pixels, judged.nuclei, self._limits)
            checks = (precision, *check_engine(engine, self._probe))
            cause = diagnose(engine, self._probe) if judgement.failures else None
        if second_build is not None:
            checks += (compare_builds(engine, second_build, self._probe.tiles),)
        return self._result(engine, outputs, scores, judgement, checks, cause or "")

    def _find(self, outputs: Mapping[Protocol, Outputs]) -> dict[Protocol, tuple[Labels, ...]]:
        return {
            protocol: find_nuclei(self._inputs.patches[protocol], output.maps, self._spec)
            for protocol, output in outputs.items()
        }

    def _score(
        self, outputs: Mapping[Protocol, Outputs], nuclei: Mapping[Protocol, Sequence[Labels]]
    ) -> dict[Protocol, _Scores]:
        return {
            protocol: _Scores(
                score_pixels(patches, outputs[protocol].maps, self._outputs[protocol].maps, self._spec.threshold),
                score_nuclei(patches, nuclei[protocol], self._nuclei[protocol]),
            )
            for protocol, patches in self._inputs.patches.items()
        }

    def _result(
        self,
        engine: Engine,
        outputs: Mapping[Protocol, Outputs],
        scores: Mapping[Protocol, _Scores],
        judgement: Judgement,
        checks: Sequence[Check],
        cause: str,
    ) -> EngineResult:
        protocol, patches = self._inputs.protocol, self._inputs.judged
        output, judged = outputs[protocol], scores[protocol]
        return EngineResult(
            pixels=judged.pixels,
            nuclei=judged.nuclei,
            judgement=judgement,
            checks=tuple(checks),
            differences=differences(
                patches, output.maps, self._outputs[protocol].maps, self._spec.threshold, self._spec.microns_per_pixel
            ),
            findings=output.findings,
            cause=cause,
            protocols={
                name: score.pixels.averages() | score.nuclei.averages()
                for name, score in scores.items()
                if name != protocol
            },
        )


def _require_score(reference: str, patches: Sequence[Patch], output: Outputs, threshold: float) -> None:
    pixels = score_pixels(patches, output.maps, output.maps, threshold)
    mean = sum(dice(pixels.confusions[index]) for index in pixels.scored) / len(pixels.scored)
    if not mean >= MIN_REFERENCE_DICE:
        raise BadInput(
            f"{reference} has a mean Dice of {mean:.4f}, so there is nothing to lose and parity means nothing",
            "train the checkpoint first, or check that images and labels belong together",
        )
