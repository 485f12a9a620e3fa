"""A wrong INT8 scale in the shipped weights, found on MoNuSeg, if MSAL_DEPLOY_MONUSEG names a copy."""

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from small_network import with_wrong_scale
from tiny_bundle import put_graph

from msal_deploy import export as export_stage
from msal_deploy.bundle import INT8_U8S8, Bundle
from msal_deploy.checkpoint import load_checkpoint
from msal_deploy.data import Patch, corner_patches, open_dataset
from msal_deploy.precision import add_precisions
from msal_deploy.validate.bisect import bisect
from msal_deploy.weights import find_weights

MONUSEG = os.environ.get("MSAL_DEPLOY_MONUSEG")
pytestmark = pytest.mark.skipif(not MONUSEG, reason="MSAL_DEPLOY_MONUSEG does not name a MoNuSeg copy")

FAULTS = [
    ("encoder2", "/network/encoder2/encoder2.0/relu_1/Relu_output_0"),
    ("decoder4", "/network/decoder4/Add_output_0"),
    ("decoder2", "/network/decoder2/up/up.0/up.0.2/Relu_output_0"),
]


@pytest.fixture(scope="module")
def patches() -> tuple[Patch, ...]:
    with open_dataset(Path(MONUSEG or "")) as dataset:
        return tuple(corner_patches(image, 128)[0] for image in dataset.train[:10])


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """The bundle of the small shipped weights, in INT8."""
    folder = tmp_path_factory.mktemp("shipped") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_stage, "SIZES", ((64, 64),))
        patch.setattr(export_stage, "BATCHES", (1,))
        export_stage.export(load_checkpoint(find_weights("msal-net-r18")), folder)
    with open_dataset(Path(MONUSEG or "")) as dataset:
        add_precisions(folder, dataset.train, dataset.test, int8=True, tiles=6)
    yield Bundle(folder)


@pytest.mark.parametrize(("module", "tensor"), FAULTS)
def test_a_wrong_scale_of_the_shipped_weights_is_ranked_first(shipped, patches, module, tensor):
    right = onnx.load(shipped.file(INT8_U8S8))
    wrong = put_graph(shipped, INT8_U8S8, with_wrong_scale(right, tensor, 0.25))
    try:
        report = bisect(wrong, "onnxruntime:int8", patches, budget=0.002, reference="onnxruntime:fp32", threads=1)
    finally:
        put_graph(shipped, INT8_U8S8, right)
    assert report.delta_dice.lower < -0.002 <= report.within_budget.lower
    assert report.nodes[0].tensor == tensor
    assert f"/network/{module}" in tensor
    assert report.nodes[0].scale_ratio < 0.5
    assert report.nodes[0].node in report.float_nodes
