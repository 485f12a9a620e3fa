"""The Dice of a graph with some of its nodes returned to float, on labelled patches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import msgspec

from msal_deploy.bundle import Bundle
from msal_deploy.data import Patch
from msal_deploy.files import temporary_folder
from msal_deploy.metrics import Interval, clustered_interval, confusion, dice
from msal_deploy.runtimes import Engine, open_engine
from msal_deploy.scoring import run_engine
from msal_deploy.scoring.trials import TrialLog, candidate_bundle
from msal_deploy.validate.bisect.graphs import LowPrecisionGraph


class Trial(msgspec.Struct, frozen=True):
    """The score of one graph.

    Attributes:
        float_nodes: Nodes that were returned to float.
        deltas: Dice of each patch, graph minus reference.
        delta_dice: Interval of their mean.
        finite: Whether all probabilities are finite.
    """

    float_nodes: tuple[str, ...]
    deltas: tuple[float, ...]
    delta_dice: Interval
    finite: bool


class Evaluator:
    """Scores graphs of one engine with nodes returned to float. Each graph is scored once; results are kept.

    Args:
        bundle: Bundle with the graph.
        engine_id: Engine of a CPU runtime that runs the graphs.
        graph: The graph of that engine.
        patches: Patches with nuclei, of at least two images.
        reference: Engine to compare with.
        threads: CPU threads.
        trial_log: File that records each trial, so that an interrupted run resumes; None for none.

    Attributes:
        graph: The graph of the engine.
        patches: The patches.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine_id: str,
        graph: LowPrecisionGraph,
        patches: Sequence[Patch],
        *,
        reference: str,
        threads: int | None = None,
        trial_log: Path | None = None,
    ) -> None:
        self.graph, self.patches = graph, patches
        self._bundle, self._engine_id, self._reference, self._threads = bundle, engine_id, reference, threads
        self._log = TrialLog(trial_log, Trial)
        self._used: set[str] = set()

    @property
    def evaluations(self) -> int:
        """Number of different graphs that were asked for, in this run."""
        return len(self._used)

    @cached_property
    def expected(self) -> tuple[float, ...]:
        """Dice of the reference on each patch."""
        scores, _ = self._dice(self._open(self._bundle, self._reference), range(len(self.patches)))
        return scores

    @cached_property
    def _identity(self) -> str:
        """Everything but the float nodes that a trial depends on, as a hash."""
        digest = hashlib.sha256()
        for part in (self._engine_id, self._reference, str(self._bundle.spec.threshold)):
            digest.update(part.encode() + b"\0")
        for model in (self.graph.model, self.graph.source):
            digest.update(model.SerializeToString(deterministic=True))
        for patch in self.patches:
            digest.update(patch.image.tobytes() + patch.mask.tobytes() + patch.stem.encode())
        return digest.hexdigest()

    def evaluate(self, nodes: Iterable[str], indices: Sequence[int] | None = None) -> Trial:
        """Return `nodes` to float, and score the graph on all patches, or on those at `indices`."""
        nodes = tuple(sorted(nodes))
        indices = tuple(range(len(self.patches)) if indices is None else indices)
        key = hashlib.sha256("\n".join([self._identity, str(indices), *nodes]).encode()).hexdigest()
        self._used.add(key)
        known = self._log.get(key)
        if known is None:
            known = self._score(nodes, indices)
            self._log.add(key, known)
        return known

    def _score(self, nodes: tuple[str, ...], indices: Sequence[int]) -> Trial:
        runtime, _, precision = self._engine_id.partition(":")
        name = self._bundle.graph_name(precision, runtime)
        with temporary_folder(name="candidate") as folder:
            candidate = candidate_bundle(self._bundle, self.graph.returned(nodes), name, folder)
            scores, finite = self._dice(self._open(candidate, self._engine_id), indices)
        return self._trial(nodes, scores, finite, indices)

    def _trial(self, nodes: tuple[str, ...], scores: Sequence[float], finite: bool, indices: Sequence[int]) -> Trial:
        deltas = tuple(score - self.expected[k] for score, k in zip(scores, indices, strict=True))
        return Trial(nodes, deltas, clustered_interval(deltas, [self.patches[k].stem for k in indices]), finite)

    def as_is(self, engine_id: str) -> Trial:
        """Return the score of an engine of the bundle as it is."""
        indices = range(len(self.patches))
        return self._trial((), *self._dice(self._open(self._bundle, engine_id), indices), indices)

    def _open(self, bundle: Bundle, engine_id: str) -> Engine:
        return open_engine(bundle, engine_id, threads=self._threads)

    def _dice(self, engine: Engine, indices: Sequence[int]) -> tuple[tuple[float, ...], bool]:
        patches = [self.patches[k] for k in indices]
        with engine:
            outputs = run_engine(engine, patches)
        threshold = self._bundle.spec.threshold
        pairs = zip(patches, outputs.maps, strict=True)
        return tuple(dice(confusion(patch.mask, found >= threshold)) for patch, found in pairs), (
            not outputs.findings.not_finite
        )
