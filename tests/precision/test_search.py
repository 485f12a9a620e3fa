"""The search under a budget, with an evaluator of known costs and once with the real one."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from msal_deploy.data import patches_of
from msal_deploy.errors import GateFailed
from msal_deploy.metrics import Interval, confusion, dice
from msal_deploy.precision import search as module
from msal_deploy.precision.search import Evaluator, Trial, search
from msal_deploy.runtimes import open_engine

COSTS = {"/network/a/Conv": 0.004, "/network/b/Conv": 0.002, "/network/c/Conv": 0.001, "/network/d/Conv": -0.001}
SPREAD = 0.0005


class KnownCosts:
    """Quantising a node costs its entry in COSTS; the bound is SPREAD below the mean."""

    nodes = tuple(sorted(COSTS))

    def __init__(self) -> None:
        self.patches = [type("Patch", (), {"stem": stem}) for stem in ("one", "one", "two")]
        self.asked: list[tuple[tuple[str, ...], bool]] = []

    def evaluate(self, float_nodes, *, one_each=False):
        self.asked.append((tuple(float_nodes), one_each))
        loss = sum(cost for node, cost in COSTS.items() if node not in float_nodes)
        return Trial(
            tuple(float_nodes),
            1 - len(float_nodes) / 4,
            0.8 - loss,
            Interval(-loss, -loss - SPREAD, -loss + SPREAD),
            1.0,
        )


def test_search_needs_one_trial_if_full_int8_is_within_the_budget():
    evaluator = KnownCosts()
    report = search(evaluator, 0.007)
    assert (report.chosen, report.trials[0].float_nodes, report.ranking) == (0, (), ())
    assert evaluator.asked == [((), False)]
    assert (report.patches, report.images) == (3, 2)


def test_search_ranks_nodes_by_cost():
    report = search(KnownCosts(), 0.003)
    assert [row.module for row in report.ranking] == ["a", "b", "c", "d"]
    assert [row.cost for row in report.ranking] == pytest.approx([0.004, 0.002, 0.001, -0.001])


@pytest.mark.parametrize(("budget", "count"), [(0.003, 1), (0.0006, 2), (0.0, 3)])
def test_search_keeps_the_fewest_nodes_in_float(budget, count):
    report = search(KnownCosts(), budget)
    chosen = report.trials[report.chosen]
    assert chosen.float_nodes == tuple(sorted(COSTS, key=lambda node: -COSTS[node])[:count])
    assert chosen.delta_dice.lower >= -budget


def test_search_never_keeps_a_node_without_cost_in_float():
    evaluator = KnownCosts()
    search(evaluator, 0.0)
    assert not any("/network/d/Conv" in nodes for nodes, one_each in evaluator.asked if not one_each)


def test_search_over_budget_names_the_best_graph(monkeypatch):
    monkeypatch.setitem(COSTS, "/network/d/Conv", 0.0)  # no cost, but the spread remains
    with pytest.raises(GateFailed, match="3 nodes in float and 25% of the operations in INT8, has a lower bound of"):
        search(KnownCosts(), 0.0001)


@pytest.fixture(scope="module")
def patches(images):
    return patches_of(images[:2], 256)[:6]


@pytest.fixture
def evaluator(bundle, ranges, patches, tmp_path) -> Evaluator:
    return Evaluator(bundle, ranges, patches, tmp_path / "trial_log" / "trials.jsonl")


def test_evaluator_scores_and_caches(evaluator, bundle, ranges, patches, tmp_path, monkeypatch):
    first = evaluator.evaluate(())
    assert first.int8_share > 0.9999
    assert first.latency_ms > 0
    assert first.delta_dice.lower <= first.delta_dice.mean
    again = Evaluator(bundle, ranges, patches, tmp_path / "trial_log" / "trials.jsonl")
    monkeypatch.setattr(module, "_run", lambda *_: pytest.fail("it was scored again"))
    assert again.evaluate(()) == first


def test_trials_depend_on_calibration_and_patches(evaluator, bundle, ranges, patches, tiles, graph):
    from msal_deploy.precision.calibrate import calibrate

    assert evaluator._key((), False) != evaluator._key((), True)
    assert evaluator._key((), False) != evaluator._key(("x",), False)
    assert evaluator._key((), False) != evaluator.calibrated(calibrate(graph, tiles[:1]))._key((), False)
    assert evaluator._key((), False) != Evaluator(bundle, ranges, patches[:5])._key((), False)


def test_incomplete_last_line_of_the_trial_log_is_ignored(evaluator, bundle, ranges, patches, tmp_path, monkeypatch):
    trial = evaluator.evaluate(())
    trial_log: Path = tmp_path / "trial_log" / "trials.jsonl"
    trial_log.write_bytes(trial_log.read_bytes() + b'["cut of')
    monkeypatch.setattr(module, "_run", lambda *_: pytest.fail("it was scored again"))
    assert Evaluator(bundle, ranges, patches, trial_log).evaluate(()) == trial


def test_all_nodes_in_float_equal_fp32(evaluator):
    trial = evaluator.evaluate(evaluator.nodes)
    assert trial.int8_share == 0
    assert trial.delta_dice.mean == pytest.approx(0, abs=1e-4)
    assert np.isfinite(trial.dice)


def test_the_padding_of_small_images_is_not_scored(bundle, ranges, patches):
    small = [replace(patch, mask=patch.mask[:100], instances=None) for patch in patches[::4]]  # of two images
    evaluator = Evaluator(bundle, ranges, small)
    trial = evaluator.evaluate(evaluator.nodes)
    with open_engine(bundle, "openvino:fp32") as engine:
        maps = [engine(patch.image[None])[0, 0, :100] >= bundle.spec.threshold for patch in small]
    expected = [dice(confusion(patch.mask, one)) for patch, one in zip(small, maps, strict=True)]
    assert 0 < trial.dice == pytest.approx(np.mean(expected), abs=1e-3)
