"""Select the nodes to keep in float so that the INT8 graph's loss of Dice stays within a budget.

1. Quantise all nodes. If the lower confidence bound of ΔDice is at least −budget, stop.
2. Keep each node in float alone. The gain in Dice is the cost of quantising the node, and ranks the nodes.
3. Keep the 1, 2, 4, 8, … most costly nodes in float until the bound is at least −budget; then bisect between the last
   two counts to find the smallest number. Nodes without a cost are never kept in float.

OpenVINO runs the graphs on held-out training images, because its INT8 kernels follow the Q/DQ nodes exactly.
"""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from time import perf_counter_ns
from typing import Any, Self

import msgspec
import onnx
from rich.console import Console
from rich.progress import Progress

from msal_deploy.bundle import Bundle, graph_name
from msal_deploy.data import Patch
from msal_deploy.errors import GateFailed
from msal_deploy.files import temporary_folder
from msal_deploy.graph import int8_share, layers, module_of
from msal_deploy.metrics import Interval, dice, signed
from msal_deploy.precision.int8 import quantisable, to_int8
from msal_deploy.runtimes import open_engine
from msal_deploy.scoring import run_engine, score_pixels
from msal_deploy.scoring.trials import TrialLog, candidate_bundle, fewest

REFERENCE, ENGINE, GRAPH = "openvino:fp32", "openvino:int8", graph_name("int8")
SOURCE = graph_name("fp32")


class Trial(msgspec.Struct, frozen=True):
    """The score of one INT8 graph on the validation patches.

    Attributes:
        float_nodes: The nodes that are kept in float.
        int8_share: Fraction of the multiply-accumulates in INT8.
        dice: Mean Dice over the patches.
        delta_dice: Interval in Dice from FP32.
        latency_ms: Median time of the calls, one patch each, in ms. For plots only; it is not a benchmark.
    """

    float_nodes: tuple[str, ...]
    int8_share: float
    dice: float
    delta_dice: Interval
    latency_ms: float


class NodeCost(msgspec.Struct, frozen=True):
    """The cost of quantising one node.

    Attributes:
        node: Name of the node in the graph.
        module: The network's module that the node belongs to.
        cost: Gain in mean Dice if only this node is kept in float.
    """

    node: str
    module: str
    cost: float


class SearchReport(msgspec.Struct, frozen=True):
    """The result of `search`.

    Attributes:
        budget: Largest allowed loss of Dice.
        patches: Number of validation patches.
        images: Number of validation images.
        ranking: Nodes by cost, highest first; empty if the fully quantised graph is within the budget.
        trials: All trials on the whole set, in order.
        chosen: Index of the selected trial: of those within the budget, the one with the fewest float nodes.
    """

    budget: float
    patches: int
    images: int
    ranking: tuple[NodeCost, ...]
    trials: tuple[Trial, ...]
    chosen: int


class Evaluator:
    """Scores INT8 graphs of a bundle on labelled patches. Each graph is scored once; results are cached.

    Args:
        bundle: A bundle with the FP32 graph.
        ranges: The calibrated ranges for all graphs, see `calibrate`.
        patches: Validation patches.
        trial_log: File that records each trial, so that an interrupted search resumes; None for none.
    """

    def __init__(self, bundle: Bundle, ranges: Any, patches: Sequence[Patch], trial_log: Path | None = None) -> None:
        self.source, self.ranges, self.patches = bundle.file(SOURCE), ranges, patches
        self.nodes = quantisable(self.source)
        self._bundle, self._log = bundle, TrialLog(trial_log, Trial)
        with open_engine(bundle, REFERENCE) as engine:
            self._expected = run_engine(engine, patches).maps

    def calibrated(self, ranges: Any) -> Self:
        """Return a copy of this evaluator with other ranges."""
        other = copy.copy(self)
        other.ranges = ranges
        return other

    def evaluate(self, float_nodes: Sequence[str], *, one_each: bool = False) -> Trial:
        """Quantise all nodes except `float_nodes`, and score the graph on all patches, or on one patch per image."""
        key = self._key(float_nodes, one_each)
        trial = self._log.get(key)
        if trial is None:
            trial = self._scored(float_nodes, one_each)
            self._log.add(key, trial)
        return trial

    def _key(self, float_nodes: Sequence[str], one_each: bool) -> str:
        ranges = sorted(f"{tensor} {data.range_value}" for tensor, data in self.ranges.items())
        patches = [patch.stem + patch.corner for patch in self.patches]
        source = self._bundle.manifest.artifacts[SOURCE].sha256
        text = "\n".join([source, *ranges, *patches, str(one_each), *sorted(float_nodes)])
        return hashlib.sha256(text.encode()).hexdigest()

    def graph(self, float_nodes: Sequence[str]) -> onnx.ModelProto:
        """Return the INT8 graph in which `float_nodes` are kept in float."""
        return to_int8(self.source, self.ranges, set(self.nodes).difference(float_nodes))

    def _scored(self, float_nodes: Sequence[str], one_each: bool) -> Trial:
        first = {patch.stem: index for index, patch in reversed(list(enumerate(self.patches)))}
        indices = sorted(first.values()) if one_each else range(len(self.patches))
        model, patches = self.graph(float_nodes), [self.patches[k] for k in indices]
        expected = [self._expected[k] for k in indices]
        with temporary_folder(name="candidate") as folder:
            actual, times = _run(candidate_bundle(self._bundle, model, GRAPH, folder), patches)
        score = score_pixels(patches, actual, expected, self._bundle.spec.threshold)
        mean = fmean(dice(score.confusions[k]) for k in score.scored)
        return Trial(tuple(float_nodes), int8_share(layers(model)), mean, score.delta_dice, median(times))


def _run(bundle: Bundle, patches: Sequence[Patch]) -> tuple[list[Any], list[float]]:
    probability, times = [], []
    with open_engine(bundle, ENGINE) as engine:
        engine(patches[0].image[None])  # the first call compiles
        for patch in patches:
            start = perf_counter_ns()
            (one,) = run_engine(engine, [patch]).maps
            times.append((perf_counter_ns() - start) / 1e6)
            probability.append(one)
    return probability, times


def search(evaluator: Evaluator, budget: float, *, progress: bool = False) -> SearchReport:
    """Find the smallest set of float nodes for which the lower bound of ΔDice is at least −`budget`::

        report = search(Evaluator(bundle, ranges, patches), budget=0.002)
        print(report.trials[report.chosen].float_nodes)

    Args:
        evaluator: Scores the graphs.
        budget: Largest allowed loss of Dice, such as 0.002.
        progress: Show progress on stderr.

    Raises:
        GateFailed: The budget is exceeded even with all costly nodes in float; the message names the best graph.
    """
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("INT8: all nodes", total=None)
        trials = [evaluator.evaluate(())]
        ranking: tuple[NodeCost, ...] = ()
        if not _within(trials[0], budget):
            ranking = _rank(evaluator, bar, task)
            order = [row.node for row in ranking if row.cost > 0]
            trials += _fewest(evaluator, order, budget, bar, task)
    images = len({patch.stem for patch in evaluator.patches})
    passing = [index for index, trial in enumerate(trials) if _within(trial, budget)]
    if not passing:
        raise _over_budget(trials, budget)
    chosen = min(passing, key=lambda index: len(trials[index].float_nodes))
    return SearchReport(budget, len(evaluator.patches), images, ranking, tuple(trials), chosen)


def _within(trial: Trial, budget: float) -> bool:
    return trial.delta_dice.lower >= -budget


def _rank(evaluator: Evaluator, bar: Progress, task: Any) -> tuple[NodeCost, ...]:
    # One patch per image: there are about a hundred graphs, and only their order matters.
    bar.update(task, description="INT8: cost of each node", total=len(evaluator.nodes))
    base = evaluator.evaluate((), one_each=True).dice
    rows = []
    for node in evaluator.nodes:
        rows.append(NodeCost(node, module_of(node), evaluator.evaluate((node,), one_each=True).dice - base))
        bar.advance(task)
    return tuple(sorted(rows, key=lambda row: -row.cost))


def _fewest(evaluator: Evaluator, order: Sequence[str], budget: float, bar: Progress, task: Any) -> list[Trial]:
    trials: list[Trial] = []

    def passes(count: int) -> bool:
        bar.update(task, description=f"INT8: {count} nodes in float", total=None)
        trials.append(evaluator.evaluate(order[:count]))
        return _within(trials[-1], budget)

    fewest(len(order), passes)
    return trials


def _over_budget(trials: Sequence[Trial], budget: float) -> GateFailed:
    best = max(trials, key=lambda trial: trial.delta_dice.lower)
    return GateFailed(
        f"No INT8 graph stays within the budget of {budget:g} Dice: the best, with {len(best.float_nodes)} nodes in "
        f"float and {best.int8_share:.0%} of the operations in INT8, has a lower bound of "
        f"{signed(best.delta_dice.lower)}",
        "allow a larger --budget, use more training images, or use --fp16 alone",
    )
