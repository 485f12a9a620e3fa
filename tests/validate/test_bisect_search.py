"""The ranking and the search for the cheapest set, with graphs of known losses."""

import math

import numpy as np
import pytest

from msal_deploy.data import Patch
from msal_deploy.metrics import Interval
from msal_deploy.validate.bisect.evaluate import Trial
from msal_deploy.validate.bisect.report import BisectReport, NodeGain
from msal_deploy.validate.bisect.search import candidates, cheapest, noise, order, rank, ranked, spread, within
from msal_deploy.validate.bisect.tensors import NodeError

SPREAD = 0.0005


class KnownLosses:
    """Rounding a node costs its entry in the mean, and the bound is SPREAD below the mean."""

    def __init__(self, **losses: float) -> None:
        self.losses, self.asked = losses, []

    def evaluate(self, nodes, indices=None):
        self.asked.append((tuple(nodes), indices))
        mean = -sum(loss for node, loss in self.losses.items() if node not in nodes)
        return Trial(tuple(nodes), (), Interval(mean, mean - SPREAD * (2 if mean else 1), mean + SPREAD), True)


def error(node: str, rounding: float, added: float = 0.0) -> NodeError:
    return NodeError(node, "input", rounding, 0.25, 0.5, added)


def row(node: str, gain: float, rounding: float = 0.1) -> NodeGain:
    return NodeGain(node, "", gain, gain, "", None, rounding, 0.0, 0.0, 0.0)


def steps() -> tuple[list[str], object]:
    texts: list[str] = []
    return texts, texts.append


def test_within_needs_the_lower_bound_and_finite_probabilities():
    trial = Trial((), (), Interval(0.0, -0.002, 0.002), True)
    assert within(trial, 0.002)
    assert not within(trial, 0.0019)
    assert not within(Trial((), (), Interval(0.0, 0.0, 0.0), False), 0.002)


def test_candidates_take_turns_between_rounding_and_added_error():
    errors = [error("a", 0.1, 0.4), error("b", 0.4, 0.1), error("c", 0.3, 0.2), error("d", 0.2, 0.3)]
    assert [one.node for one in candidates(errors)] == ["b", "a", "c", "d"]
    assert [one.node for one in candidates(errors, 3)] == ["b", "a", "c"]
    assert [one.node for one in candidates(errors[::-1])] == ["b", "a", "c", "d"]


def test_candidates_are_at_most_24():
    assert len(candidates([error(str(number), 0.1) for number in range(30)])) == 24


def test_spread_takes_one_patch_of_each_image_in_turn():
    blank = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), bool)
    patches = [Patch(stem, "", *blank) for stem in "aaabbc"]
    assert spread(patches, 3) == (0, 3, 5)
    assert spread(patches, 4) == (0, 1, 3, 5)
    assert spread(patches, 5) == (0, 1, 3, 4, 5)
    assert spread(patches) == (0, 1, 2, 3, 4, 5)
    more = [Patch(stem, "", *blank) for stem in "aaab"]
    assert spread(more, 3) == (0, 1, 3)
    assert len(spread(patches * 4)) == 16


def test_rank_returns_each_suspect_alone():
    scorer, (texts, advance) = KnownLosses(a=0.003, b=0.001, c=0.002), steps()
    suspects = [error("b", 0.3), error("/network/a/Conv", 0.2, 0.1), error("c", 0.1)]
    scorer.losses["/network/a/Conv"] = scorer.losses.pop("a")
    ranking = rank(scorer, suspects, (0, 2), {"c": 0.25}, advance)
    assert [row.node for row in ranking] == ["/network/a/Conv", "c", "b"]
    assert [row.delta_dice for row in ranking] == pytest.approx([0.003, 0.002, 0.001])
    assert [row.delta_dice_mean for row in ranking] == pytest.approx([0.003, 0.002, 0.001])
    assert [row.share for row in ranking] == [0.0, 0.25, 0.0]
    assert ranking[0].module == "a"
    assert (ranking[0].tensor, ranking[0].scale_ratio) == ("input", 0.25)
    assert (ranking[0].rounding_error, ranking[0].tensor_error, ranking[0].added_error) == (0.2, 0.5, 0.1)
    assert scorer.asked == [((), (0, 2)), (("b",), (0, 2)), (("/network/a/Conv",), (0, 2)), (("c",), (0, 2))]
    assert texts == ["b in float", "/network/a/Conv in float", "c in float"]


def test_rank_is_by_the_bound_and_not_by_the_mean():
    class Wide(KnownLosses):
        def evaluate(self, nodes, indices=None):
            lower = {(): -0.01, ("a",): -0.002, ("b",): -0.009}[tuple(nodes)]
            mean = {(): -0.001, ("a",): -0.002, ("b",): 0.0}[tuple(nodes)]
            return Trial((), (), Interval(mean, lower, 0.01), True)

    first, second = rank(Wide(), [error("b", 0.3), error("a", 0.1)], (0,), {}, lambda _: None)
    assert (first.node, first.delta_dice, first.delta_dice_mean) == ("a", pytest.approx(0.008), pytest.approx(-0.001))
    assert (second.node, second.delta_dice, second.delta_dice_mean) == ("b", pytest.approx(0.001), pytest.approx(0.001))


def test_noise_is_twice_the_largest_loss():
    assert noise([row("a", 0.003), row("b", -0.0002), row("c", -0.0005)]) == 0.001
    assert noise([row("a", 0.003), row("b", 0.0)]) == 0.0
    assert noise([]) == 0.0


def test_gains_within_the_noise_are_ordered_by_rounding_error():
    rows = [row("a", 0.0009, 0.1), row("b", 0.003, 0.2), row("c", -0.0005, 0.3), row("d", 0.001, 0.4), row("e", 0.002)]
    assert [one.node for one in ranked(rows)] == ["b", "e", "d", "c", "a"]


def test_order_is_by_gain_then_by_error():
    errors = [error("a", 0.1, 0.4), error("b", 0.4, 0.1), error("c", 0.3, 0.2), error("d", 0.2, 0.3)]
    ranking = ranked([row("d", 0.0003, 0.2), row("a", 0.005), row("b", 0.0), row("c", -0.0002, 0.3)])
    assert [one.node for one in ranking] == ["a", "c", "d", "b"]  # d is within the noise
    assert order(ranking, errors) == ("a", "d", "b", "c")
    rising = ranked([row("c", 0.0002, 0.4), row("d", 0.0003, 0.2), row("a", 0.0, 0.9), row("b", -0.0002, 0.3)])
    assert order(rising, errors) == ("d", "c", "b", "a")


def test_cheapest_is_the_shortest_prefix():
    scorer, (texts, advance) = KnownLosses(a=0.004, b=0.002, c=0.001, d=0.0005), steps()
    assert cheapest(scorer, ("a", "b", "c", "d"), 0.0026, {}, advance) == ("a", "b")
    assert texts[:2] == ["1 nodes in float", "2 nodes in float"]
    assert all(indices is None for _, indices in scorer.asked)


def test_cheapest_drops_the_most_expensive_node_that_is_not_needed():
    scorer = KnownLosses(a=0.001, b=0.001, c=0.004, d=0.0)
    shares = {"a": 0.1, "b": 0.3, "c": 0.2}
    # a, b and c come first; c is enough with one of a and b, and b costs more
    assert cheapest(scorer, ("a", "b", "c", "d"), 0.0021, shares, lambda _: None) == ("a", "c")
    assert cheapest(scorer, ("a", "b", "c", "d"), 0.0021, {"a": 0.4, "b": 0.3}, lambda _: None) == ("b", "c")


def test_cheapest_keeps_at_least_one_node():
    scorer = KnownLosses(a=0.002)
    assert cheapest(scorer, ("a",), 0.001, {}, lambda _: None) == ("a",)
    assert scorer.asked == [(("a",), None)]


def test_cheapest_tries_to_drop_at_most_twelve_nodes():
    names = [f"n{number:02}" for number in range(16)]
    scorer = KnownLosses(**dict.fromkeys(names, 0.001))
    assert cheapest(scorer, names, 0.0005, {}, lambda _: None) == tuple(names)
    without = [next(iter(set(names).difference(nodes))) for nodes, _ in scorer.asked if len(nodes) == 15]
    assert without == [names[-1], *names[:12]]  # the last comes from the search for the shortest prefix


def report(**changes) -> BisectReport:
    values = {
        "engine": "openvino:int8",
        "evaluated_on": "openvino:int8",
        "compared_on": "onnxruntime",
        "reference": "torch:fp32",
        "budget": 0.002,
        "patches": 56,
        "images": 14,
        "delta_dice": Interval(-0.01, -0.0123, -0.008),
        "candidates": 103,
        "nodes": (
            NodeGain("/network/a/Conv", "a", 0.0103, 0.009, "t", 0.254, 0.3139, 0.4, 0.39, 0.021),
            NodeGain("/network/b/Conv", "b", -0.0001, 0.0, "w", None, math.inf, 0.01, 0.0, 0.0),
        ),
        "noise": 0.0002,
        "float_nodes": ("/network/a/Conv",),
        "within_budget": Interval(0.0, -0.0004, 0.0004),
        "cost": 0.021,
        "evaluations": 30,
    }
    return BisectReport(**{**values, **changes})


def test_sentence_says_what_the_set_costs_and_gains():
    assert report().sentence == (
        "With 1 of 103 nodes in float (2.1% of the operations), the lower bound of the mean ΔDice of openvino:int8 "
        "rises from -0.0123 to -0.0004."
    )
    assert report(float_nodes=()).sentence == (
        "openvino:int8 is within the budget of 0.002 Dice; no node needs to return to float."
    )


def test_json_has_no_infinity():
    values = report().to_json()
    assert values["nodes"][0] == {
        "node": "/network/a/Conv",
        "module": "a",
        "delta_dice": 0.0103,
        "delta_dice_mean": 0.009,
        "tensor": "t",
        "scale_ratio": 0.254,
        "rounding_error": 0.3139,
        "tensor_error": 0.4,
        "added_error": 0.39,
        "share": 0.021,
    }
    assert values["nodes"][1]["rounding_error"] is None
    assert values["delta_dice"] == {"mean": -0.01, "lower": -0.0123, "upper": -0.008}
    assert values["within_budget"] == {"mean": 0.0, "lower": -0.0004, "upper": 0.0004}
    assert list(values["float_nodes"]) == ["/network/a/Conv"]
    assert (values["budget"], values["patches"], values["images"], values["cost"]) == (0.002, 56, 14, 0.021)


def cells(report: BisectReport) -> list[list[str]]:
    return [list(column.cells) for column in report.table().columns]


def test_table_marks_the_set():
    assert cells(report()) == [
        ["/network/a/Conv", "/network/b/Conv"],
        ["+0.0103", "-0.0001"],
        ["31.39%", "overflow"],
        ["0.25×", ""],
        ["●", ""],
    ]
    assert "up to 0.0002 may be chance" in str(report().table().caption)
    assert "openvino:int8" in str(report().table().title)


def test_table_has_ten_rows():
    rows = tuple(row(str(number), 0.001) for number in range(12))
    assert cells(report(nodes=rows))[0] == [str(number) for number in range(10)]
