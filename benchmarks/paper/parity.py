"""Exporting a row's network, and the proof that its graph computes what torch does, in both runtimes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from msal_deploy.bundle import CHECKPOINT, MANIFEST, Bundle, Manifest, artifact, write_manifest
from msal_deploy.checkpoint import Checkpoint, save_checkpoint
from msal_deploy.errors import GateFailed
from msal_deploy.export import GRAPH, Check, check_graph, example_images, export, write_graph
from msal_deploy.files import atomic_directory
from msal_deploy.network import DeployedNetwork
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import Float32Maps, ModelSpec

Parity = Literal["quick", "full"]
Shape = tuple[int, int, int]

ENGINES = ("onnxruntime:fp32", "openvino:fp32")
QUICK_SHAPES: tuple[Shape, ...] = ((1, 256, 256), (2, 128, 192), (5, 64, 96))
LEAST_SPREAD = 0.001  # standard deviation of torch's probabilities, below which a comparison says nothing


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

    ``full`` is `msal_deploy.export.export` as a user runs it, with its nine shapes in ONNX Runtime, and the quick
    shapes in OpenVINO; it takes minutes and more than 20 GiB for the largest networks. ``quick`` traces and checks the
    same graph by the same functions and compares both engines at small shapes.

    Raises:
        GateFailed: the graph is invalid, differs from torch by more than the recipe's tolerance, or gives the same
            probability everywhere.
    """
    recipe = checkpoint.recipe.export
    done: tuple[Comparison, ...] = ()
    if parity == "full":
        report = export(checkpoint, folder, progress=True)
        nodes, done = report.nodes, (Comparison("onnxruntime:fp32", report.checks),)
    else:
        nodes = _write_bundle(checkpoint, folder)
    expected = _probabilities(Bundle(folder), "torch:fp32", QUICK_SHAPES)
    left = [engine for engine in ENGINES if engine not in {one.engine for one in done}]
    compared = [_compare(Bundle(folder), engine, expected) for engine in left]
    spread = max(float(probability.std()) for probability in expected.values())
    proof = Proof(parity, recipe.opset, nodes, recipe.tolerance, spread, (*done, *compared))
    _require(proof)
    return proof


def _write_bundle(checkpoint: Checkpoint, folder: Path) -> int:
    """Write a bundle without golden tensors, and return the number of the graph's nodes."""
    spec = ModelSpec()
    network = DeployedNetwork(checkpoint.network(), spec).eval()
    with atomic_directory(folder, replaces=MANIFEST) as temporary:
        save_checkpoint(temporary / CHECKPOINT, checkpoint)
        write_graph(network, spec, temporary / GRAPH, checkpoint.recipe.export.opset)
        nodes = len(check_graph(temporary / GRAPH).node)
        artifacts = {CHECKPOINT: artifact(temporary, CHECKPOINT), GRAPH: artifact(temporary, GRAPH, CHECKPOINT)}
        write_manifest(temporary, Manifest(spec, checkpoint.recipe, checkpoint.licence, {}, artifacts))
    return nodes


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
    if proof.spread < LEAST_SPREAD:
        raise GateFailed("The network gives the same probability everywhere, so nothing was compared; train it longer")
