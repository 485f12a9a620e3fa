"""Exporting a row's network, and the proof that its graph computes what torch does, in both runtimes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from msal_deploy.bundle import Bundle
from msal_deploy.checkpoint import Checkpoint
from msal_deploy.errors import GateFailed
from msal_deploy.export import Check, example_images, export
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import Float32Maps

Parity = Literal["quick", "full"]
Shape = tuple[int, int, int]

ENGINES = ("onnxruntime:fp32", "openvino:fp32")
QUICK_SHAPES: tuple[Shape, ...] = ((1, 256, 256), (2, 128, 192), (5, 64, 96))


class Comparison(msgspec.Struct, frozen=True):
    """One engine against torch: the largest |Δ probability| at each shape."""

    engine: str
    checks: tuple[Check, ...]


class Proof(msgspec.Struct, frozen=True):
    """What was compared, and that it agreed within `tolerance`.

    Attributes:
        nodes: of the graph.
        spread: standard deviation of torch's probabilities: what |Δ probability| is to be seen beside.
    """

    parity: Parity
    opset: int
    nodes: int
    tolerance: float
    spread: float
    comparisons: tuple[Comparison, ...]

    @property
    def worst(self) -> float:
        """The largest |Δ probability| of any engine at any shape."""
        return float(np.max([check.max_abs_delta for one in self.comparisons for check in one.checks]))


def prove(checkpoint: Checkpoint, folder: Path, parity: Parity) -> Proof:
    """Write the bundle `folder` and compare its graph with torch in every engine.

    ``full`` compares ONNX Runtime at export's own nine shapes; for CNN3 that needs more memory than most machines
    have, since one of its activations takes 7.5 GiB at the largest. ``quick`` takes `QUICK_SHAPES`, as OpenVINO does.

    Raises:
        GateFailed: the graph is invalid, or differs from torch by more than the recipe's tolerance.
    """
    recipe = checkpoint.recipe.export
    report = export(checkpoint, folder, shapes=QUICK_SHAPES if parity == "quick" else (), progress=parity == "full")
    expected = _probabilities(Bundle(folder), "torch:fp32", QUICK_SHAPES)
    compared = (Comparison("onnxruntime:fp32", report.checks), _compare(Bundle(folder), "openvino:fp32", expected))
    spread = max(float(probability.std()) for probability in expected.values())
    proof = Proof(parity, recipe.opset, report.nodes, recipe.tolerance, spread, compared)
    _require(proof)
    return proof


def _probabilities(bundle: Bundle, engine_id: str, shapes: Sequence[Shape]) -> dict[Shape, Float32Maps]:
    with open_engine(bundle, engine_id) as engine:
        return {shape: engine(example_images(*shape, seed=2)) for shape in shapes}


def _compare(bundle: Bundle, engine_id: str, expected: dict[Shape, Float32Maps]) -> Comparison:
    got = _probabilities(bundle, engine_id, list(expected))
    deltas = {shape: float(np.abs(got[shape] - expected[shape]).max()) for shape in expected}
    return Comparison(engine_id, tuple(Check(*shape, delta) for shape, delta in deltas.items()))


def _require(proof: Proof) -> None:
    if not proof.worst <= proof.tolerance:  # also where it is NaN
        raise GateFailed(
            f"The graph's probabilities differ from torch's by up to {proof.worst:.2g}, more than the tolerance of "
            f"{proof.tolerance:.2g}; find the node that does with a smaller network"
        )
