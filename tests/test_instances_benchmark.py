"""benchmarks/instances/: the ways that `separate` is compared with, and a run on a small synthetic set."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner

from msal_deploy.data import synthesize

FOLDER = Path(__file__).parents[1] / "benchmarks" / "instances"
sys.path.insert(0, str(FOLDER))

import baselines  # noqa: E402
import measure_instances  # noqa: E402
from instances import app  # noqa: E402

from msal_deploy.metrics import aji, count_nuclei  # noqa: E402


@pytest.fixture
def scene():
    """Two discs that overlap by a little, two halves of one disc, and a false nucleus: probabilities and the truth."""
    truth = np.zeros((64, 140), np.int32)
    for label, x in ((1, 20), (2, 40)):
        cv2.circle(truth, (x, 32), 11, label, cv2.FILLED)
    cv2.circle(truth, (80, 32), 14, 3, cv2.FILLED)
    truth[:, 81:][truth[:, 81:] == 3] = 4
    probability = (truth > 0).astype(np.float32)
    cv2.circle(probability, (120, 32), 8, 1.0, cv2.FILLED)
    return probability, truth


def test_simple_ways(scene):
    probability, truth = scene
    assert len(np.unique(baselines.connected(probability, truth))) - 1 == 3  # both pairs are merged
    assert len(np.unique(baselines.peaks(probability, truth))) - 1 == 4  # the discs are two nuclei, the halves one
    assert len(np.unique(baselines.default(probability, truth))) - 1 == 4


def test_ways_that_know_the_truth(scene):
    probability, truth = scene
    for one in (baselines.true_markers, baselines.true_separation):
        counts = count_nuclei(truth, one(probability, truth))
        assert (counts.true, counts.found, counts.matched) == (4, 5, 4)  # the false nucleus stays
    perfect = np.unique(baselines.true_separation((truth > 0).astype(np.float32), truth), return_inverse=True)[1]
    assert aji(count_nuclei(truth, perfect.reshape(truth.shape).astype(np.int32))) == 1
    counts = count_nuclei(truth, baselines.true_foreground(probability, truth))
    assert (counts.found, counts.matched) == (3, 3)  # the halves are one, and the larger half is most of it


def test_small_regions_are_left_out():
    small = np.zeros((20, 40), np.float32)
    small[5:12, 5:14] = small[2:10, 20:28] = 1  # 63 and 64 pixels
    found = baselines.connected(small, np.zeros((20, 40), np.int32))
    assert found[8, 8] == 0 and found[8, 24] > 0


def test_run_on_a_synthetic_set(tmp_path, monkeypatch):
    monkeypatch.setattr(measure_instances, "VARIANTS", ({}, {"saddle": 0.8}, {"threshold": 0.4}))
    write_tiny_bundle(tmp_path / "bundle")
    synthesize(tmp_path / "monuseg", train=2, test=2, size=256)
    words = ["run", tmp_path / "bundle", "--data", tmp_path / "monuseg", "-e", "onnxruntime:fp32", "--repeats", 1]
    result = CliRunner().invoke(app, [*map(str, words), "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert [row["how"] for row in written["choice"]] == ["default", "saddle 0.8", "threshold 0.4"]
    assert [row["images"] for row in written["choice"]] == [1, 1, 1]
    assert [row["how"] for row in written["limits"]] == list(measure_instances.COMPARED)
    assert [row["images"] for row in written["test"]] == [2] * len(measure_instances.COMPARED)
    assert written["limits"][0]["scores"].keys() == {f"{name}_mean" for name in ("aji", "pq", "sq", "dq", "f1")}
    assert written["timing"]["sizes"] == ["256×256"] and written["timing"]["images"] == 2
    assert "What limits it" in result.output
