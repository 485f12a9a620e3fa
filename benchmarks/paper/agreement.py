"""Exports a row's network and compares the probabilities of its graph with PyTorch's, in both runtimes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from msal_deploy.bundle import Bundle
from msal_deploy.checkpoint import Checkpoint
from msal_deploy.errors import GateFailed, MissingRequirement
from msal_deploy.export import Check, example_images, export
from msal_deploy.runtimes import find_runtime, open_engine
from msal_deploy.spec import Float32Maps

ShapeSet = Literal["quick", "full"]
Shape = tuple[int, int, int]

ENGINES = ("onnxruntime:fp32", "openvino:fp32")
QUICK_SHAPES: tuple[Shape, ...] = ((1, 256, 256), (2, 128, 192), (5, 64, 96))


class EngineAgreement(msgspec.Struct, frozen=True):
    """The largest absolute difference in probability between an engine and PyTorch, at each shape."""

    engine: str
    checks: tuple[Check, ...]


class Agreement(msgspec.Struct, frozen=True):
    """How closely an exported graph agrees with PyTorch.

    Attributes:
        shapes: Which shapes were compared; the key ``parity`` in the JSON.
        opset: ONNX opset of the graph.
        nodes: Number of nodes of the graph.
        tolerance: Largest acceptable absolute difference in probability.
        spread: Standard deviation of PyTorch's probabilities. The comparison is meaningful only if it is much larger
            than the tolerance.
        engines: The differences of each engine; the key ``comparisons`` in the JSON.
    """

    shapes: ShapeSet = msgspec.field(name="parity")
    opset: int
    nodes: int
    tolerance: float
    spread: float
    engines: tuple[EngineAgreement, ...] = msgspec.field(name="comparisons")

    @property
    def max_abs_delta(self) -> float:
        """The largest absolute difference of any engine at any shape."""
        return float(np.max([check.max_abs_delta for engine in self.engines for check in engine.checks]))


def require_engines() -> None:
    """Check that the runtimes of `ENGINES` are installed, so that a training does not end without its comparison.

    Raises:
        MissingRequirement: A runtime is not installed.
    """
    for runtime in map(find_runtime, ENGINES):
        if not runtime.is_installed:
            raise MissingRequirement(f"{runtime.name} is not installed", f"run: pip install {runtime.packages[0]}")


def check_agreement(checkpoint: Checkpoint, folder: Path, shapes: ShapeSet) -> Agreement:
    """Export `checkpoint` to the bundle `folder` and compare its graph with PyTorch in each engine.

    Args:
        checkpoint: Checkpoint to export.
        folder: Bundle to write.
        shapes: ``quick`` compares `QUICK_SHAPES`. ``full`` compares ONNX Runtime at the nine shapes of export, and
            OpenVINO at `QUICK_SHAPES`. At the largest shape, one activation of CNN3 takes 7.5 GiB.

    Raises:
        GateFailed: The graph is invalid, or differs from PyTorch by more than the recipe's tolerance.
    """
    recipe = checkpoint.recipe.export
    report = export(checkpoint, folder, shapes=QUICK_SHAPES if shapes == "quick" else (), progress=shapes == "full")
    bundle = Bundle(folder)
    expected = _probabilities(bundle, "torch:fp32", QUICK_SHAPES)
    engines = (EngineAgreement("onnxruntime:fp32", report.checks), _compare(bundle, "openvino:fp32", expected))
    spread = max(float(probability.std()) for probability in expected.values())
    agreement = Agreement(shapes, recipe.opset, report.nodes, recipe.tolerance, spread, engines)
    _require_tolerance(agreement)
    return agreement


def _probabilities(bundle: Bundle, engine_id: str, shapes: Sequence[Shape]) -> dict[Shape, Float32Maps]:
    with open_engine(bundle, engine_id) as engine:
        return {shape: engine(example_images(*shape, seed=2)) for shape in shapes}


def _compare(bundle: Bundle, engine_id: str, expected: dict[Shape, Float32Maps]) -> EngineAgreement:
    actual = _probabilities(bundle, engine_id, list(expected))
    deltas = {shape: float(np.abs(actual[shape] - expected[shape]).max()) for shape in expected}
    return EngineAgreement(engine_id, tuple(Check(*shape, delta) for shape, delta in deltas.items()))


def _require_tolerance(agreement: Agreement) -> None:
    if not agreement.max_abs_delta <= agreement.tolerance:  # not >, so that NaN fails
        raise GateFailed(
            f"Expected probabilities within {agreement.tolerance:.2g} of PyTorch's, got a difference of "
            f"{agreement.max_abs_delta:.2g}",
            "find the node that causes it with a smaller network",
        )
