"""Which nodes go back to float so that the Dice that INT8 costs stays within a budget, with confidence.

1. Everything in INT8. If the lower bound of ΔDice clears the budget, that is the answer.
2. Each node alone back in float: what Dice that gains is what its INT8 costs. This ranks the nodes.
3. The costliest 1, 2, 4, 8 … back in float, until the bound clears the budget; then halving between the last two
   counts finds the fewest. Nodes whose return gains nothing are never returned.

Judged by OpenVINO on held-out training images, because its INT8 kernels compute what the Q/DQ graph says.
"""

import copy
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from time import perf_counter_ns
from typing import Any, Self

import msgspec
import numpy as np
import onnx
from msgspec.structs import replace
from rich.console import Console
from rich.progress import Progress

from msal_deploy.bundle import Bundle, artifact, graph_name, write_manifest
from msal_deploy.data import Patch
from msal_deploy.errors import GateFailed
from msal_deploy.graph import int8_share, layers, module_of
from msal_deploy.metrics import dice, signed
from msal_deploy.precision.int8 import quantisable, to_int8
from msal_deploy.runtimes import open_engine
from msal_deploy.scoring import Difference, probabilities, score_engine

REFERENCE, ENGINE, GRAPH = "openvino:fp32", "openvino:int8", graph_name("int8")
SOURCE = graph_name("fp32")


class Trial(msgspec.Struct, frozen=True):
    """One INT8 graph on the validation patches; `float_nodes` of what could be INT8 are in float.

    Attributes:
        int8_share: share of the multiply-accumulates in INT8.
        latency_ms: median of the evaluator's own calls, one patch each: a hint for the plot, no benchmark.
    """

    float_nodes: tuple[str, ...]
    int8_share: float
    dice: float
    delta_dice: Difference
    latency_ms: float


class NodeCost(msgspec.Struct, frozen=True):
    """What the mean Dice gains where this node alone is returned to float."""

    node: str
    module: str
    cost: float


class SearchReport(msgspec.Struct, frozen=True):
    """The way to the graph that was chosen: the trials in their order, the last one that met the budget is it."""

    budget: float
    patches: int
    images: int
    ranking: tuple[NodeCost, ...]
    trials: tuple[Trial, ...]
    chosen: int


class Evaluator:
    """Scores INT8 graphs of a bundle on labelled patches, and remembers what it has scored.

    Args:
        ranges: of the calibration that all its graphs share.
        trial_log: a file that keeps each trial, so that a search that was stopped goes on where it was; None for none.
    """

    def __init__(self, bundle: Bundle, ranges: Any, patches: Sequence[Patch], trial_log: Path | None = None) -> None:
        self.source, self.ranges, self.patches = bundle.file(SOURCE), ranges, patches
        self.nodes = quantisable(self.source)
        self._bundle, self._memory = bundle, trial_log
        self._known = dict(_read(trial_log)) if trial_log else {}
        self._expected = probabilities(open_engine(bundle, REFERENCE), patches, 1, progress=False)

    def calibrated(self, ranges: Any) -> Self:
        """Return the same evaluator for another calibration."""
        other = copy.copy(self)
        other.ranges = ranges
        return other

    def evaluate(self, float_nodes: Sequence[str], *, one_each: bool = False) -> Trial:
        """Quantise all but `float_nodes` and score the result on all patches, or on one of each image."""
        key = self._key(float_nodes, one_each)
        if key not in self._known:
            self._known[key] = self._scored(float_nodes, one_each)
            _append(self._memory, key, self._known[key])
        return self._known[key]

    def _key(self, float_nodes: Sequence[str], one_each: bool) -> str:
        ranges = sorted(f"{tensor} {data.range_value}" for tensor, data in self.ranges.items())
        patches = [patch.stem + patch.corner for patch in self.patches]
        source = self._bundle.manifest.artifacts[SOURCE].sha256
        text = "\n".join([source, *ranges, *patches, str(one_each), *sorted(float_nodes)])
        return hashlib.sha256(text.encode()).hexdigest()

    def graph(self, float_nodes: Sequence[str]) -> onnx.ModelProto:
        """Return the INT8 graph with `float_nodes` in float."""
        return to_int8(self.source, self.ranges, set(self.nodes).difference(float_nodes))

    def _scored(self, float_nodes: Sequence[str], one_each: bool) -> Trial:
        first = {patch.stem: index for index, patch in reversed(list(enumerate(self.patches)))}
        chosen = sorted(first.values()) if one_each else range(len(self.patches))
        model, patches, expected = self.graph(float_nodes), [self.patches[k] for k in chosen], self._expected[chosen]
        with tempfile.TemporaryDirectory() as folder:
            found, times = _run(_candidate(self._bundle, model, Path(folder)), patches)
        score = score_engine(patches, found, expected, self._bundle.spec.threshold, 0)
        mean = fmean(dice(counts) for counts in score.confusions)
        return Trial(tuple(float_nodes), int8_share(layers(model)), mean, score.delta_dice, median(times))


def _candidate(bundle: Bundle, model: onnx.ModelProto, folder: Path) -> Bundle:
    """Return a bundle of `model` alone, as what opens engines takes them."""
    onnx.save(model, folder / GRAPH)
    write_manifest(folder, replace(bundle.manifest, artifacts={GRAPH: artifact(folder, GRAPH)}))
    return Bundle(folder)


def _run(bundle: Bundle, patches: Sequence[Patch]) -> tuple[Any, list[float]]:
    probability, times = [], []
    with open_engine(bundle, ENGINE) as engine:
        engine(patches[0].image[None])  # compiles
        for patch in patches:
            start = perf_counter_ns()
            probability.append(engine(patch.image[None])[0])
            times.append((perf_counter_ns() - start) / 1e6)
    return np.concatenate(probability), times


def search(evaluator: Evaluator, budget: float, *, progress: bool = False) -> SearchReport:
    """Return how few nodes must be in float for ΔDice's lower bound to clear −`budget`, and which.

    Raises:
        GateFailed: not even with all of them that gain anything; the message says what the best came to.
    """
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("INT8: everything", total=None)
        trials = [evaluator.evaluate(())]
        ranking: tuple[NodeCost, ...] = ()
        if not _clears(trials[0], budget):
            ranking = _rank(evaluator, bar, task)
            order = [row.node for row in ranking if row.cost > 0]
            trials += _fewest(evaluator, order, budget, bar, task)
    images = len({patch.stem for patch in evaluator.patches})
    passing = [index for index, trial in enumerate(trials) if _clears(trial, budget)]
    if not passing:
        raise GateFailed(_best(trials, budget))
    chosen = min(passing, key=lambda index: len(trials[index].float_nodes))
    return SearchReport(budget, len(evaluator.patches), images, ranking, tuple(trials), chosen)


def _clears(trial: Trial, budget: float) -> bool:
    return trial.delta_dice.lower >= -budget


def _rank(evaluator: Evaluator, bar: Progress, task: Any) -> tuple[NodeCost, ...]:
    # One patch an image: a hundred graphs are judged here, and only their order is wanted.
    bar.update(task, description="INT8: what each node costs", total=len(evaluator.nodes))
    base = evaluator.evaluate((), one_each=True).dice
    rows = []
    for node in evaluator.nodes:
        rows.append(NodeCost(node, module_of(node), evaluator.evaluate((node,), one_each=True).dice - base))
        bar.advance(task)
    return tuple(sorted(rows, key=lambda row: -row.cost))


def _fewest(evaluator: Evaluator, order: Sequence[str], budget: float, bar: Progress, task: Any) -> list[Trial]:
    trials: list[Trial] = []
    failed, count = 0, 1
    while order:
        trials.append(_returned(evaluator, order, count, bar, task))
        if _clears(trials[-1], budget):
            break
        if count == len(order):
            return trials
        failed, count = count, min(2 * count, len(order))
    while count - failed > 1:
        middle = (failed + count) // 2
        trials.append(_returned(evaluator, order, middle, bar, task))
        failed, count = (failed, middle) if _clears(trials[-1], budget) else (middle, count)
    return trials


def _returned(evaluator: Evaluator, order: Sequence[str], count: int, bar: Progress, task: Any) -> Trial:
    bar.update(task, description=f"INT8: {count} nodes back in float", total=None)
    return evaluator.evaluate(order[:count])


def _best(trials: Sequence[Trial], budget: float) -> str:
    best = max(trials, key=lambda trial: trial.delta_dice.lower)
    return (
        f"No INT8 graph keeps within {budget:g} Dice: the best, with {len(best.float_nodes)} nodes in float and "
        f"{best.int8_share:.0%} of the operations in INT8, has a lower bound of {signed(best.delta_dice.lower)}; "
        "allow a larger --budget, give more training images, or use --fp16 alone"
    )


def _read(trial_log: Path) -> list[tuple[str, Trial]]:
    if not trial_log.exists():
        return []
    found = []
    for line in trial_log.read_bytes().splitlines():
        try:
            found.append(msgspec.json.decode(line, type=tuple[str, Trial]))
        except msgspec.DecodeError:  # the last line of a process that was killed
            continue
    return found


def _append(trial_log: Path | None, key: str, trial: Trial) -> None:
    if trial_log is not None:
        trial_log.parent.mkdir(parents=True, exist_ok=True)
        with trial_log.open("ab") as stream:
            stream.write(msgspec.json.encode((key, trial)) + b"\n")
