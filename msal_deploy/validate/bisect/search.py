"""Rank nodes by what their return to float gains, and find a cheap set that brings the graph within the budget.

1. The tensors name the candidates: nodes whose operands lose most by rounding, and nodes that add most error.
2. Each candidate alone is returned to float. The gain of the lower bound of ΔDice ranks them; among gains that are
   within the noise, rounding errors do.
3. The first 1, 2, 4, 8, … nodes of the ranking are returned until the graph is within the budget; then the smallest
   number is found by bisection.
4. Each node of that set, the most expensive first, is rounded again if the graph stays within the budget without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from msal_deploy.data import Patch
from msal_deploy.graph import module_of
from msal_deploy.scoring.trials import fewest
from msal_deploy.validate.bisect.evaluate import Trial
from msal_deploy.validate.bisect.report import NodeGain
from msal_deploy.validate.bisect.tensors import NodeError

CANDIDATES = 24  # nodes returned one by one
RANKED_PATCHES = 16  # patches on which they are; only their order matters
PRUNED = 12  # nodes of the set that are tried without
NOISE_FACTOR = 2.0


class Scorer(Protocol):
    """Scores a graph with nodes returned to float; see `Evaluator`."""

    def evaluate(self, nodes: Collection[str], indices: Sequence[int] | None = None) -> Trial:
        """Return the trial."""
        ...


def within(trial: Trial, budget: float) -> bool:
    """Return whether the lower bound of ΔDice is at least −`budget`, and all probabilities are finite."""
    return trial.finite and trial.delta_dice.lower >= -budget


def candidates(errors: Sequence[NodeError], count: int = CANDIDATES) -> tuple[NodeError, ...]:
    """Return the errors of the `count` most suspicious nodes: in turn the next by rounding and by added error."""
    by_rounding = sorted(errors, key=lambda error: -error.rounding_error)
    by_added = sorted(errors, key=lambda error: -error.added_error)
    in_turn = [error for pair in zip(by_rounding, by_added, strict=True) for error in pair]
    return tuple({error.node: error for error in in_turn}.values())[:count]


def spread(patches: Sequence[Patch], count: int = RANKED_PATCHES) -> tuple[int, ...]:
    """Return the indices of up to `count` patches, in turn one of each image."""
    seen: dict[str, int] = {}
    turn = []
    for patch in patches:
        turn.append(seen.get(patch.stem, 0))
        seen[patch.stem] = turn[-1] + 1
    return tuple(sorted(sorted(range(len(patches)), key=turn.__getitem__)[:count]))


def rank(
    scorer: Scorer,
    suspects: Sequence[NodeError],
    indices: Sequence[int],
    shares: Mapping[str, float],
    advance: Callable[[str], None],
) -> tuple[NodeGain, ...]:
    """Return each suspect to float alone, and order them as `ranked` does.

    Args:
        scorer: Scores the graphs.
        suspects: The nodes.
        indices: Patches to score them on.
        shares: Node -> share of the multiply-accumulates; other nodes have none.
        advance: Called before each trial with what it is.
    """
    base = scorer.evaluate((), indices).delta_dice
    rows = []
    for error in suspects:
        advance(f"{error.node} in float")
        interval = scorer.evaluate((error.node,), indices).delta_dice
        gains = interval.lower - base.lower, interval.mean - base.mean
        rows.append(_gain(error, *gains, shares.get(error.node, 0.0)))
    return ranked(rows)


def noise(ranking: Sequence[NodeGain]) -> float:
    """Return the gain up to which a gain may be chance: twice the largest loss.

    Float cannot make a graph worse but by chance, so the losses show how much chance there is.
    """
    return NOISE_FACTOR * max([0.0, *(-row.delta_dice for row in ranking)])


def ranked(rows: Sequence[NodeGain]) -> tuple[NodeGain, ...]:
    """Return rows by gain, highest first; then those within the noise by rounding error."""
    limit = noise(rows)
    return tuple(
        sorted(rows, key=lambda row: (-row.delta_dice if row.delta_dice > limit else 0.0, -row.rounding_error))
    )


def _gain(error: NodeError, lower: float, mean: float, share: float) -> NodeGain:
    return NodeGain(
        node=error.node,
        module=module_of(error.node),
        delta_dice=lower,
        delta_dice_mean=mean,
        tensor=error.tensor,
        scale_ratio=error.scale_ratio,
        rounding_error=error.rounding_error,
        tensor_error=error.tensor_error,
        added_error=error.added_error,
        share=share,
    )


def order(ranking: Sequence[NodeGain], errors: Sequence[NodeError]) -> tuple[str, ...]:
    """Return all nodes in the order in which they return to float: by gain, then by error.

    A node without a gain of its own can still be needed together with another: the reader of a tensor that overflows.
    """
    gaining = sorted((row for row in ranking if row.delta_dice > 0), key=lambda row: -row.delta_dice)
    return tuple(
        dict.fromkeys([*(row.node for row in gaining), *(error.node for error in candidates(errors, len(errors)))])
    )


def cheapest(
    scorer: Scorer,
    ordered: Sequence[str],
    budget: float,
    shares: Mapping[str, float],
    advance: Callable[[str], None],
) -> tuple[str, ...]:
    """Return a cheap set of nodes that brings the graph within the budget, which all nodes together do."""

    def passes(nodes: Sequence[str]) -> bool:
        advance(f"{len(nodes)} nodes in float")
        return within(scorer.evaluate(nodes), budget)

    count = fewest(len(ordered), lambda number: passes(ordered[:number]))
    chosen = list(ordered[:count])
    for node in sorted(chosen, key=lambda node: -shares.get(node, 0.0))[:PRUNED]:
        rest = [other for other in chosen if other != node]
        if rest and passes(rest):
            chosen = rest
    return tuple(chosen)
