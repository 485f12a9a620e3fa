"""Bisection of a small network with planted faults: found, resumed, refused, or nothing to do."""

import inspect
import io
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console
from small_network import INPUTS, NODES, patches, with_wrong_scale, write_small_bundle
from tiny_bundle import put_graph

from msal_deploy.bundle import Bundle
from msal_deploy.data import Patch
from msal_deploy.errors import BadInput, GateFailed, MissingExtra
from msal_deploy.metrics import Interval
from msal_deploy.validate.bisect import bisect, tensors
from msal_deploy.validate.bisect.evaluate import Evaluator, Trial

OPTIONS = {"budget": 0.05, "reference": "onnxruntime:fp32", "threads": 1}


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    return write_small_bundle(tmp_path / "bundle")


def planted(bundle: Bundle, tensor: str, factor: float) -> Bundle:
    model = onnx.load(bundle.graph("int8"))
    return put_graph(bundle, "model.int8.onnx", with_wrong_scale(model, tensor, factor))


@pytest.mark.parametrize("factor", [0.25, 4])
@pytest.mark.parametrize("index", range(3))
def test_a_wrong_scale_is_ranked_first(small, index, factor):
    options = OPTIONS | {"budget": 0.001 if factor == 4 else 0.05}
    report = bisect(planted(small, INPUTS[index], factor), "onnxruntime:int8", patches(small), **options)
    first = report.nodes[0]
    assert (first.node, first.tensor) == (NODES[index], INPUTS[index])
    assert first.scale_ratio == pytest.approx(factor, rel=0.1)
    assert first.delta_dice > report.noise
    assert report.delta_dice.lower < -options["budget"] <= report.within_budget.lower
    assert NODES[index] in report.float_nodes


def test_the_report_adds_up(small):
    report = bisect(planted(small, "x1", 0.25), "onnxruntime:int8", patches(small), **OPTIONS)
    assert report.float_nodes == (NODES[1],)
    assert (report.patches, report.images, report.candidates, len(report.nodes)) == (6, 6, 3, 3)
    assert (report.engine, report.evaluated_on, report.compared_on) == (*["onnxruntime:int8"] * 2, "onnxruntime")
    macs = np.array([3 * 8, 8 * 8, 8 * 1])
    assert [row.share for row in sorted(report.nodes, key=lambda row: NODES.index(row.node))] == pytest.approx(
        list(macs / macs.sum())
    )
    assert report.cost == pytest.approx(64 / 96)
    assert report.nodes[0].module == "centre"
    assert report.nodes[0].delta_dice == pytest.approx(report.within_budget.lower - report.delta_dice.lower)
    assert report.nodes[0].delta_dice_mean == pytest.approx(report.within_budget.mean - report.delta_dice.mean)
    assert report.evaluations == 5  # as it is, all nodes, and each of three nodes


def test_the_engine_runs_the_graph_that_the_bundle_has(small):
    """ΔDice of the engine as it is, from its own probabilities."""
    from msal_deploy.metrics import clustered_interval, confusion, dice
    from msal_deploy.runtimes import open_engine

    wrong, labelled = planted(small, "x2", 0.25), patches(small)
    report = bisect(wrong, "onnxruntime:int8", labelled, **OPTIONS)
    with open_engine(wrong, "onnxruntime:int8", threads=1) as engine:
        masks = [engine(patch.image[None])[0, 0] >= 0.5 for patch in labelled]
    deltas = [dice(confusion(patch.mask, mask)) - 1 for patch, mask in zip(labelled, masks, strict=True)]
    expected = clustered_interval(deltas, [patch.stem for patch in labelled])
    assert report.delta_dice.mean == pytest.approx(expected.mean)
    assert report.delta_dice.lower == pytest.approx(expected.lower)


def test_padding_and_empty_patches_are_left_out(small):
    labelled = patches(small)
    empty = Patch("empty", "top-left", labelled[0].image, np.zeros((64, 64), bool))
    cut = [Patch(p.stem, p.corner, p.image, p.mask[:48, :56]) for p in labelled]
    wrong = planted(small, "x1", 0.25)
    report = bisect(wrong, "onnxruntime:int8", [*labelled, empty], **OPTIONS)
    assert (report.patches, report.images) == (6, 6)
    assert report == bisect(wrong, "onnxruntime:int8", labelled, **OPTIONS)
    assert bisect(wrong, "onnxruntime:int8", cut, **OPTIONS).nodes[0].node == NODES[1]


def test_an_overflow_in_fp16_needs_both_nodes(tmp_path):
    large = write_small_bundle(tmp_path / "large", gain=1e6)
    report = bisect(large, "onnxruntime:fp16", patches(large), **OPTIONS)
    assert set(report.float_nodes) == set(NODES[:2])
    assert report.delta_dice.mean < -0.2
    assert [row.rounding_error for row in report.nodes if row.node == NODES[1]] == [float("inf")]
    assert report.within_budget.mean == pytest.approx(0, abs=1e-3)
    assert "overflow" in shown(report)


def shown(report) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(report.table())
    return stream.getvalue()


def test_an_engine_within_its_budget_is_scored_once(small, monkeypatch):
    scored = count_scores(monkeypatch)
    report = bisect(small, "openvino:int8", patches(small), **OPTIONS | {"budget": 0.5})
    assert scored == [()]
    assert (report.nodes, report.float_nodes, report.cost, report.evaluations) == ((), (), 0, 1)
    assert report.within_budget == report.delta_dice
    assert "openvino:int8 is within the budget of 0.5 Dice" in " ".join(shown(report).split())


def count_scores(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[tuple[str, ...]]:
    """Return a list that gets the nodes of each graph that is scored; interrupt after `stop_after` of them."""
    scored, original = [], Evaluator._score

    def score(self, nodes, indices):
        if len(scored) == stop_after:
            raise KeyboardInterrupt
        scored.append(nodes)
        return original(self, nodes, indices)

    monkeypatch.setattr(Evaluator, "_score", score)
    return scored


def test_an_interrupted_run_resumes(small, tmp_path, monkeypatch):
    wrong, labelled, log = planted(small, "x1", 0.25), patches(small), tmp_path / "logs" / "bisect.jsonl"
    expected = bisect(wrong, "onnxruntime:int8", labelled, **OPTIONS)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        count_scores(patch, stop_after=3)
        bisect(wrong, "onnxruntime:int8", labelled, trial_log=log, **OPTIONS)
    log.write_bytes(log.read_bytes() + b'["cut of')
    with monkeypatch.context() as patch:
        scored = count_scores(patch)
        assert bisect(wrong, "onnxruntime:int8", labelled, trial_log=log, **OPTIONS) == expected
    assert len(scored) == expected.evaluations - 3
    scored = count_scores(monkeypatch)
    assert bisect(wrong, "onnxruntime:int8", labelled, trial_log=log, **OPTIONS) == expected
    assert scored == []


def test_trials_of_another_graph_or_other_patches_are_not_used(small, tmp_path, monkeypatch):
    labelled, log = patches(small), tmp_path / "bisect.jsonl"
    options = OPTIONS | {"budget": 0.5, "trial_log": log}
    scored = count_scores(monkeypatch)
    bisect(small, "onnxruntime:int8", labelled, **options)
    bisect(small, "onnxruntime:int8", labelled, **options)
    assert len(scored) == 1
    bisect(small, "onnxruntime:int8", labelled[:5], **options)
    assert len(scored) == 2
    bisect(small, "openvino:int8", labelled, **options)
    assert len(scored) == 3
    bisect(planted(small, "x1", 1.1), "onnxruntime:int8", labelled, **options)
    assert len(scored) == 4


def test_a_fault_that_is_not_the_precision_is_named(small):
    model = onnx.load(small.graph("int8"))
    (bias,) = [stored for stored in model.graph.initializer if stored.name == "b2"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - np.float32(5), "b2"))
    wrong = put_graph(small, "model.int8.onnx", model)
    with pytest.raises(GateFailed, match=r"onnxruntime:int8 loses Dice .* even with all nodes in float .*: the fault"):
        bisect(wrong, "onnxruntime:int8", patches(small), **OPTIONS)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_an_fp32_graph_under_another_name_is_named(small, precision):
    wrong = put_graph(small, f"model.{precision}.onnx", small.graph("fp32"))
    with pytest.raises(BadInput, match=rf"model.{precision}.onnx computes everything in FP32 under the name"):
        bisect(wrong, f"onnxruntime:{precision}", patches(small), **OPTIONS)


@pytest.mark.parametrize("engine", ["onnxruntime:fp32", "openvino:bf16", "triton:localhost:8001", "triton:int8"])
def test_engines_without_a_graph_of_low_precision_are_refused(small, engine):
    with pytest.raises(BadInput, match="has no FP16 or INT8 graph to bisect"):
        bisect(small, engine, patches(small), **OPTIONS)


def test_bad_patches_and_budgets_are_refused(small):
    one = [Patch("a", "", patch.image, patch.mask) for patch in patches(small)]
    with pytest.raises(BadInput, match="with nuclei of at least two images"):
        bisect(small, "onnxruntime:int8", one, **OPTIONS)
    for budget in (-0.1, float("nan")):
        with pytest.raises(BadInput, match="budget of at least 0"):
            bisect(small, "onnxruntime:int8", patches(small), **OPTIONS | {"budget": budget})


def test_a_gpu_engine_whose_graph_is_fine_has_a_fault_in_its_plan(small, monkeypatch):
    lost = Trial((), (), Interval(-0.1, -0.12, -0.08), True)
    monkeypatch.setattr(Evaluator, "as_is", lambda self, engine: lost)
    with pytest.raises(GateFailed, match=r"its graph does not on openvino:int8: the fault is in the plan"):
        bisect(small, "tensorrt:int8", patches(small), **OPTIONS | {"budget": 0.05})


def test_a_gpu_engine_whose_graph_is_wrong_is_searched_on_the_cpu(small, monkeypatch):
    lost = Trial((), (), Interval(-0.1, -0.12, -0.08), True)
    monkeypatch.setattr(Evaluator, "as_is", lambda self, engine: lost)
    report = bisect(planted(small, "x1", 0.25), "tensorrt:int8", patches(small), **OPTIONS)
    assert (report.engine, report.evaluated_on, report.compared_on) == ("tensorrt:int8", "openvino:int8", "onnxruntime")
    assert report.delta_dice == lost.delta_dice
    assert report.nodes[0].node == NODES[1]


def test_stdout_stays_empty_and_progress_is_on_stderr(small, capfd):
    bisect(planted(small, "x1", 0.25), "onnxruntime:int8", patches(small), progress=True, **OPTIONS)
    out, err = capfd.readouterr()
    assert out == ""
    assert "onnxruntime:int8" in err


def test_a_missing_polygraphy_is_named(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "polygraphy.comparator", None)
    with pytest.raises(MissingExtra, match="polygraphy is not installed"):
        bisect(planted(small, "x1", 0.25), "onnxruntime:int8", patches(small), **OPTIONS)


def test_the_tensorrt_runner_has_the_arguments_of_polygraphy(small):
    """Polygraphy builds nothing until the runner is entered, so its real signatures are checked without a GPU."""
    from polygraphy.backend.trt import TrtRunner

    runner = tensors._tensorrt(onnx.load(small.graph("int8")), ["x1"], (1, 64, 64, 3))
    assert isinstance(runner, TrtRunner)
    assert "feed_dict" in inspect.signature(runner.infer).parameters
