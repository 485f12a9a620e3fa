"""What the network of a row costs: parameters, floating-point operations, and latency of the exported graph."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import torch
from parity import ENGINES, Parity, Proof, prove
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
MIN_SPREAD = 0.001  # standard deviation of torch's probabilities, below which a comparison says nothing


class RowCost(msgspec.Struct, frozen=True):
    """The cost of one row.

    Attributes:
        network: what was built; a row whose network has changed since counts as not run.
        latency: a result of `msal_deploy.bench` for each engine.
        environment: the machine, which may be another for another row.
    """

    network: NetworkRecipe
    parameters: int
    gflop: float
    proof: Proof
    latency: tuple[dict[str, Any], ...]
    environment: dict[str, Any]

    def milliseconds(self, engine: str) -> float:
        """Return the median latency of an engine."""
        return float(self._result(engine)["latency_ms"]["p50"])

    def stable(self, engine: str) -> bool:
        """Whether the time windows agreed."""
        return bool(self._result(engine)["stable"])

    def _result(self, engine: str) -> dict[str, Any]:
        return next(result for result in self.latency if result["engine"] == engine)


class Costs(msgspec.Struct, frozen=True):
    """The costs of all rows measured so far, at one image size and with one length of time window.

    Attributes:
        weights: a sentence on where the weights come from.
    """

    size: int = 512
    seconds: float = 3.0
    weights: str = f"random (seed {SEED}); batch norms have seen one batch of synthetic images"
    rows: dict[str, RowCost] = {}

    def of(self, row: Row) -> RowCost | None:
        """Return the costs of a row, or None where it has not been run."""
        found = self.rows.get(row.key)
        return found if found and found.network == row.network else None


def load_costs(path: Path) -> Costs:
    """Read what `save_costs` wrote.

    Raises:
        BadInput: no such file, or it is none of these.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Costs)
    except FileNotFoundError as error:
        raise BadInput(f"There is no file {path}; make it with: python benchmarks/paper/tables.py costs") from error
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} holds no costs ({error}); give the file that costs --json wrote") from error


def save_costs(path: Path, costs: Costs) -> None:
    """Write `costs`, atomically: a kill leaves the rows before."""
    write_json(path, msgspec.to_builtins(costs))


def started(path: Path, size: int, seconds: float) -> Costs:
    """Return what `path` holds so far.

    Raises:
        BadInput: its rows were measured otherwise, and could not stand in one table with new ones.
    """
    costs = load_costs(path) if path.exists() else Costs(size, seconds)
    if (costs.size, costs.seconds) != (size, seconds):
        raise BadInput(
            f"{path} was measured at {costs.size} px in windows of {costs.seconds:g} s; ask for those, or another file"
        )
    return costs


def measure(row: Row, size: int, seconds: float, parity: Parity) -> RowCost:
    """Build, export, compare and time the network of a row.

    Raises:
        GateFailed: the graph does not compute what torch does, or gives the same probability everywhere.
    """
    torch.manual_seed(SEED)
    network = build_network(row.network)
    wake(network)
    price = cost(network, size, size)
    checkpoint = Checkpoint(dict(network.state_dict()), Recipe(name="costs", network=row.network), "CC0-1.0")
    with TemporaryDirectory(prefix="msal-deploy-") as temporary:
        proof = prove(checkpoint, Path(temporary) / "bundle", parity)
        if proof.spread < MIN_SPREAD:
            raise GateFailed(f"{row.key} gives the same probability everywhere, so nothing was compared; change SEED")
        bundle = Bundle(Path(temporary) / "bundle")
        timings = bench(bundle, ENGINES, batches=(1,), size=(size, size), seconds=seconds, progress=True).to_json()
    return RowCost(row.network, price.parameters, price.gflop, proof, tuple(timings["results"]), timings["environment"])


def wake(network: nn.Module) -> None:
    """Give batch norms weights and statistics as after training: untouched ones would hide faults in their folding.

    Their positive biases keep most ReLUs open; without them a random network of 70 convolutions is chaotic, and torch
    in float32 and float64 already differ by 3e-3.
    """
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias, mean=0.5, std=0.2)
    with torch.no_grad():
        DeployedNetwork(network, ModelSpec()).train()(torch.from_numpy(example_images(2, 64, 64, seed=1)))
    network.eval()
