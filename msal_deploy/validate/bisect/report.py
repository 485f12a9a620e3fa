"""What bisection found: the nodes that cost Dice, and the cheapest set that brings the engine within its budget."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from rich import box
from rich.table import Table

from msal_deploy.metrics import Interval, signed

SHOWN = 10  # rows of the table


class NodeGain(msgspec.Struct, frozen=True):
    """What returning one node to float does.

    Attributes:
        node: Name of the node in the graph.
        module: Module of the network that it belongs to.
        delta_dice: Gain of the lower bound of the mean ΔDice, which the gate judges, if only this node is returned.
        delta_dice_mean: Gain of the mean itself.
        tensor: Its operand, an activation or weights, that loses most by rounding.
        scale_ratio: Scale of `tensor`, relative to the smallest scale that clips none of its values: 0.25 is four
            times too small. None if it holds weights, or is FP16.
        rounding_error: Relative RMS error of its operands by rounding alone; Inf if a value does not fit.
        tensor_error: Relative RMS error of its output in the whole graph, against the FP32 graph.
        added_error: Part of `tensor_error` that its inputs did not have.
        share: Share of the multiply-accumulates, from 0 to 1.
    """

    node: str
    module: str
    delta_dice: float
    delta_dice_mean: float
    tensor: str
    scale_ratio: float | None
    rounding_error: float
    tensor_error: float
    added_error: float
    share: float


class BisectReport(msgspec.Struct, frozen=True):
    """The result of `bisect`.

    Attributes:
        engine: The engine whose loss was searched.
        evaluated_on: The engine that ran the graphs: the same, or one of the CPU if that one needs a GPU.
        compared_on: Runtime whose inner tensors were compared with FP32; empty if nothing was searched.
        reference: The engine that ΔDice refers to.
        budget: Largest acceptable loss of mean Dice.
        patches: Number of patches.
        images: Number of images that they were cut from.
        delta_dice: Interval of the engine as it is.
        candidates: Number of nodes that can be returned to float.
        nodes: Those that were returned one by one: by gain, then, within the noise, by rounding error. Empty if the
            engine is within its budget.
        noise: Gain of a node up to which it may be chance.
        float_nodes: The cheapest set found that brings the engine within its budget.
        within_budget: Interval with this set in float.
        cost: Share of the multiply-accumulates that the set returns to float, from 0 to 1.
        evaluations: Number of graphs scored, including those of an interrupted run.
    """

    engine: str
    evaluated_on: str
    compared_on: str
    reference: str
    budget: float
    patches: int
    images: int
    delta_dice: Interval
    candidates: int
    nodes: tuple[NodeGain, ...]
    noise: float
    float_nodes: tuple[str, ...]
    within_budget: Interval
    cost: float
    evaluations: int

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        if not self.float_nodes:
            return f"{self.engine} is within the budget of {self.budget:g} Dice; no node needs to return to float."
        count = f"{len(self.float_nodes)} of {self.candidates} nodes"
        return (
            f"With {count} in float ({self.cost:.1%} of the operations), the lower bound of the mean ΔDice of "
            f"{self.engine} rises from {signed(self.delta_dice.lower)} to {signed(self.within_budget.lower)}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; errors that are not finite are null."""
        report: dict[str, Any] = msgspec.to_builtins(self)
        report["nodes"] = [{key: _finite(value) for key, value in node.items()} for node in report["nodes"]]
        return report

    def table(self) -> Table:
        """Return a table for an 80-column terminal, with the largest gains first."""
        table = Table(
            title=f"Nodes of {self.engine} returned to float, one by one",
            caption=f"{self.sentence}\nΔDice: gain of the lower bound; up to {self.noise:.4f} may be chance. Rounding: "
            "relative RMS error of the operands. Scale: relative to the smallest that clips nothing. ● in the set.",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("node", overflow="fold")
        for column in ("ΔDice", "rounding", "scale", ""):
            table.add_column(column, justify="right", no_wrap=True)
        for row in self.nodes[:SHOWN]:
            table.add_row(*self._cells(row))
        return table

    def _cells(self, row: NodeGain) -> list[str]:
        scale = "" if row.scale_ratio is None else f"{row.scale_ratio:.2f}×"
        rounding = f"{row.rounding_error:.2%}" if math.isfinite(row.rounding_error) else "overflow"
        return [row.node, signed(row.delta_dice), rounding, scale, "●" if row.node in self.float_nodes else ""]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
