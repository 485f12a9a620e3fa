"""The search under a budget, on an evaluator whose costs are known, and once on the real one."""

from pathlib import Path

import numpy as np
import pytest

from msal_deploy.data import patches_of
from msal_deploy.errors import GateFailed
from msal_deploy.precision import search as module
from msal_deploy.precision.search import Evaluator, Trial, search
from msal_deploy.scoring import Difference

COSTS = {"/network/a/Conv": 0.004, "/network/b/Conv": 0.002, "/network/c/Conv": 0.001, "/network/d/Conv": -0.001}
SPREAD = 0.0005


class Known:
    """Each node's INT8 costs what COSTS says; the bound lies SPREAD below the mean."""

    nodes = tuple(sorted(COSTS))

    def __init__(self) -> None:
        self.patches = [type("Patch", (), {"stem": stem}) for stem in ("one", "one", "two")]
        self.asked: list[tuple[tuple[str, ...], bool]] = []

    def evaluate(self, float_nodes, *, one_each=False):
        self.asked.append((tuple(float_nodes), one_each))
        loss = sum(cost for node, cost in COSTS.items() if node not in float_nodes)
        return Trial(tuple(float_nodes), 1 - len(float_nodes) / 4, 0.8 - loss, Difference(-loss, -loss - SPREAD), 1.0)


def test_a_budget_that_all_int8_keeps_needs_one_trial():
    evaluator = Known()
    report = search(evaluator, 0.007)
    assert (report.chosen, report.trials[0].float_nodes, report.ranking) == (0, (), ())
    assert evaluator.asked == [((), False)]
    assert (report.patches, report.images) == (3, 2)


def test_nodes_are_ranked_by_cost_and_modules_are_named():
    report = search(Known(), 0.003)
    assert [row.module for row in report.ranking] == ["a", "b", "c", "d"]
    assert [row.cost for row in report.ranking] == pytest.approx([0.004, 0.002, 0.001, -0.001])


@pytest.mark.parametrize(("budget", "count"), [(0.003, 1), (0.0006, 2), (0.0, 3)])
def test_the_fewest_nodes_that_keep_the_budget_are_returned(budget, count):
    report = search(Known(), budget)
    chosen = report.trials[report.chosen]
    assert chosen.float_nodes == tuple(sorted(COSTS, key=lambda node: -COSTS[node])[:count])
    assert chosen.delta_dice.lower >= -budget


def test_a_node_whose_return_gains_nothing_is_never_returned():
    evaluator = Known()
    search(evaluator, 0.0)
    assert not any("/network/d/Conv" in nodes for nodes, one_each in evaluator.asked if not one_each)


def test_a_budget_that_cannot_be_kept_names_the_best(monkeypatch):
    monkeypatch.setitem(COSTS, "/network/d/Conv", 0.0)  # gains nothing, and the spread stays
    with pytest.raises(GateFailed, match="3 nodes in float and 25% of the operations in INT8, has a lower bound of"):
        search(Known(), 0.0001)


@pytest.fixture(scope="module")
def patches(images):
    return patches_of(images[:2], 256)[:6]


@pytest.fixture
def evaluator(bundle, ranges, patches, tmp_path) -> Evaluator:
    return Evaluator(bundle, ranges, patches, tmp_path / "trial_log" / "trials.jsonl")


def test_the_real_judge_scores_and_remembers(evaluator, bundle, ranges, patches, tmp_path, monkeypatch):
    first = evaluator.evaluate(())
    assert first.int8_share > 0.9999
    assert first.latency_ms > 0
    assert first.delta_dice.lower <= first.delta_dice.mean
    again = Evaluator(bundle, ranges, patches, tmp_path / "trial_log" / "trials.jsonl")
    monkeypatch.setattr(module, "_run", lambda *_: pytest.fail("was scored again"))
    assert again.evaluate(()) == first


def test_another_calibration_or_other_patches_are_other_trials(evaluator, bundle, ranges, patches, tiles, graph):
    from msal_deploy.precision.calibrate import calibrate

    assert evaluator._key((), False) != evaluator._key((), True)
    assert evaluator._key((), False) != evaluator._key(("x",), False)
    assert evaluator._key((), False) != evaluator.calibrated(calibrate(graph, tiles[:1]))._key((), False)
    assert evaluator._key((), False) != Evaluator(bundle, ranges, patches[:5])._key((), False)


def test_a_killed_process_costs_only_its_last_line(evaluator, tmp_path):
    trial = evaluator.evaluate(())
    trial_log: Path = tmp_path / "trial_log" / "trials.jsonl"
    trial_log.write_bytes(trial_log.read_bytes() + b'["cut of')
    assert list(dict(module._read(trial_log)).values()) == [trial]


def test_all_in_float_is_fp32(evaluator):
    trial = evaluator.evaluate(evaluator.nodes)
    assert trial.int8_share == 0
    assert trial.delta_dice.mean == pytest.approx(0, abs=1e-4)
    assert np.isfinite(trial.dice)
