"""The costs of a row's network: parameters, floating-point operations, and latency of the exported graph."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import torch
from agreement import ENGINES, Agreement, ShapeSet, check_agreement
from rows import Row
from torch import nn

from msal_deploy.bench import bench
from msal_deploy.bundle import Bundle
from msal_deploy.checkpoint import Checkpoint
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.export import example_images
from msal_deploy.files import write_json
from msal_deploy.network import DeployedNetwork
from msal_deploy.recipe import NetworkRecipe, Recipe
from msal_deploy.spec import ModelSpec
from msal_deploy.zoo import build_network
from msal_deploy.zoo.cost import cost

SEED = 0
MIN_SPREAD = 0.001  # smallest standard deviation of PyTorch's probabilities for a meaningful comparison


class RowCost(msgspec.Struct, frozen=True):
    """The costs of one row.

    Attributes:
        network: The measured network. If the row's network has changed since, the row counts as not run.
        parameters: Number of parameters.
        gflop: 10⁹ floating-point operations for one image; a multiply-accumulate counts as two.
        agreement: The comparison with PyTorch; the key ``proof`` in the JSON.
        latency: The result of `msal_deploy.bench` for each engine.
        environment: The machine, which may differ between rows.
    """

    network: NetworkRecipe
    parameters: int
    gflop: float
    agreement: Agreement = msgspec.field(name="proof")
    latency: tuple[dict[str, Any], ...]
    environment: dict[str, Any]

    def milliseconds(self, engine: str) -> float:
        """Return the median latency of an engine in milliseconds."""
        return float(self._result(engine)["latency_ms"]["p50"])

    def stable(self, engine: str) -> bool:
        """Return whether the latency of an engine was stable between time windows."""
        return bool(self._result(engine)["stable"])

    def _result(self, engine: str) -> dict[str, Any]:
        return next(result for result in self.latency if result["engine"] == engine)


class Costs(msgspec.Struct, frozen=True):
    """The costs of all measured rows, at the same image size and length of time window.

    Attributes:
        size: Side of the image in pixels.
        seconds: Length of a time window.
        weights: Source of the weights.
        rows: Row key -> costs.
    """

    size: int = 512
    seconds: float = 3.0
    weights: str = f"random (seed {SEED}); batch norms have seen one batch of synthetic images"
    rows: dict[str, RowCost] = {}

    def of(self, row: Row) -> RowCost | None:
        """Return the costs of a row, or None if they were not measured."""
        cost = self.rows.get(row.key)
        return cost if cost and cost.network == row.network else None


def load_costs(path: Path) -> Costs:
    """Read a file of `save_costs`.

    Raises:
        BadInput: The file does not exist or has another format.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Costs)
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist", "create it with: python benchmarks/paper/tables.py costs") from error
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is not a file of costs ({error})", "use the file of costs --json") from error


def save_costs(path: Path, costs: Costs) -> None:
    """Write `costs` atomically, so that an interruption keeps the previous rows."""
    write_json(path, msgspec.to_builtins(costs))


def load_or_start(path: Path, size: int, seconds: float) -> Costs:
    """Return the costs in `path`, or no costs if it does not exist.

    Raises:
        BadInput: The file has another image size or length of time window.
    """
    costs = load_costs(path) if path.exists() else Costs(size, seconds)
    if (costs.size, costs.seconds) != (size, seconds):
        raise BadInput(
            f"Expected costs for {size} px and windows of {seconds:g} s, got {costs.size} px and {costs.seconds:g} s "
            f"in {path}",
            "use the same options or another file",
        )
    return costs


def measure(row: Row, size: int, seconds: float, shapes: ShapeSet) -> RowCost:
    """Build, export, compare and time the network of a row.

    Raises:
        GateFailed: The graph does not agree with PyTorch, or its probabilities are nearly constant.
    """
    torch.manual_seed(SEED)
    network = build_network(row.network)
    randomize_batch_norms(network)
    price = cost(network, size, size)
    checkpoint = Checkpoint(dict(network.state_dict()), Recipe(name="costs", network=row.network), "CC0-1.0")
    with TemporaryDirectory(prefix="msal-deploy-") as temporary:
        agreement = check_agreement(checkpoint, Path(temporary) / "bundle", shapes)
        if agreement.spread < MIN_SPREAD:
            raise GateFailed(
                f"The probabilities of {row.key} are nearly constant, so agreement says nothing", "change SEED"
            )
        bundle = Bundle(Path(temporary) / "bundle")
        timings = bench(bundle, ENGINES, batches=(1,), size=(size, size), seconds=seconds, progress=True).to_json()
    latency = tuple(timings["results"])
    return RowCost(row.network, price.parameters, price.gflop, agreement, latency, timings["environment"])


def randomize_batch_norms(network: nn.Module) -> None:
    """Give batch norms random weights and measured statistics, so that errors in their folding change the output.

    The positive biases keep most ReLUs active. Without them, a random network of 70 convolutions amplifies rounding
    errors: its float32 and float64 outputs differ by 3e-3.
    """
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias, mean=0.5, std=0.2)
    with torch.no_grad():
        DeployedNetwork(network, ModelSpec()).train()(torch.from_numpy(example_images(2, 64, 64, seed=1)))
    network.eval()
