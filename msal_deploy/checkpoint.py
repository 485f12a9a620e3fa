"""Checkpoints: safetensors with the recipe in the metadata, and other PyTorch weights, read without running code."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.files import StrPath, atomic_file
from msal_deploy.recipe import NetworkRecipe, Recipe
from msal_deploy.zoo import STARTS_FROM_RESNET, build_network

UNKNOWN_LICENCE = "not stated"


class Checkpoint(msgspec.Struct, frozen=True):
    """Weights with their recipe and licence::

        checkpoint = load_checkpoint("runs/r34/best.safetensors")
        network = checkpoint.network()  # normalised float[N,3,H,W] -> logits float[N,1,H,W]

    Attributes:
        weights: Parameter name -> tensor, on the CPU.
        recipe: The network and how it was trained.
        licence: SPDX identifier of the weights' licence, or ``not stated``.
        notes: Results of the training (epoch, validation Dice, …), as text.
        file: The safetensors file with the same content, if there is one: export copies it, so that its hash is kept.
    """

    weights: dict[str, Tensor]
    recipe: Recipe
    licence: str = UNKNOWN_LICENCE
    notes: dict[str, str] = {}
    file: Path | None = None

    def network(self) -> nn.Module:
        """Return the network with these weights, in evaluation mode.

        Raises:
            BadInput: The weights do not fit the network (the message lists the keys that differ), or are not finite.
        """
        network = build_network(self.recipe.network)
        check_keys(self.weights, network)
        if broken := [key for key, value in self.weights.items() if not value.isfinite().all()]:
            raise BadInput(f"The weights are not finite ({_some(broken)})", "use an earlier checkpoint")
        network.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in self.weights.items()}
        )
        return network.eval()


def untrained(recipe: Recipe) -> Checkpoint:
    """Return a checkpoint of random weights, the same on every call, to time a graph or to try an integration::

        checkpoint = untrained(Recipe.load("fast"))

    Raises:
        BadInput: The network of the recipe does not exist.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = dict(build_network(recipe.network).state_dict())
    return Checkpoint(weights, recipe, notes={"trained": "no"})


def save_checkpoint(path: StrPath, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """Write `checkpoint` as safetensors, atomically.

    Args:
        half: Store the weights of convolutions in FP16, which halves the file.
    """
    metadata = {"format": "msal-deploy 1", "recipe": checkpoint.recipe.to_json(), "licence": checkpoint.licence}
    with atomic_file(path) as temporary:
        # safetensors rejects the strides that channels_last training leaves.
        weights = {key: value.detach().cpu().contiguous() for key, value in checkpoint.weights.items()}
        if half:  # except norms: they are small, and a running variance may exceed FP16's range
            weights = {key: value.half() if value.ndim > 1 else value for key, value in weights.items()}
        save_file(weights, temporary, metadata=metadata | {"notes": msgspec.json.encode(checkpoint.notes).decode()})
        temporary.chmod(0o644)  # safetensors writes 0600, which excludes others who share the folder


def load_checkpoint(path: StrPath, recipe: Recipe | None = None) -> Checkpoint:
    """Read a checkpoint that msal-deploy wrote, or another state dict (``.pt``, ``.pth``)::

        load_checkpoint("runs/r34/best.safetensors")
        load_checkpoint("model.pth", Recipe.load("paper"))

    Args:
        recipe: The network of the weights; required for a state dict.

    Raises:
        BadInput: The file is missing or damaged, a pickle that could run code, or a state dict without a recipe.
    """
    path = Path(path)
    if path.suffix in (".pt", ".pth"):
        if recipe is None:
            raise BadInput(f"{path} is a state dict without a recipe", "name the network with --recipe")
        return Checkpoint(_state_dict(path), recipe)
    return _load_safetensors(path, recipe)


def _load_safetensors(path: Path, recipe: Recipe | None) -> Checkpoint:
    _require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise BadInput(f"{path} is not a complete safetensors file ({error})", "copy or train it again") from error
    own = Recipe.from_json(metadata["recipe"]) if "recipe" in metadata else None
    chosen = recipe or own
    if chosen is None:
        raise BadInput(f"{path} has no recipe in its metadata", "name the network with --recipe")
    try:
        notes = msgspec.json.decode(metadata.get("notes", "{}"), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise BadInput(f"The notes in {path} are not valid ({error})", "copy or train it again") from error
    licence = metadata.get("licence", UNKNOWN_LICENCE)
    return Checkpoint(weights, chosen, licence, notes, path if chosen == own else None)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise BadInput(f"The weight file {path} does not exist", "check the path")


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Read a pickled state dict: at the top level or under ``state_dict`` or ``model``, with or without ``module.``."""
    _require_file(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        if isinstance(error, pickle.UnpicklingError) and "unsupported global" in str(error).lower():
            cause = f"{path} contains more than weights, and unpickling it could run code"
            raise BadInput(cause, "save only its state_dict") from error
        raise BadInput(f"{path} is not a complete PyTorch file ({first_line(error)})", "copy it again") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BadInput(f"{path} is not a state dict (parameter name -> tensor)", "save only its state_dict")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def check_keys(weights: Mapping[str, Tensor], network: nn.Module) -> None:
    """Raise `BadInput`, listing the differences, unless `weights` have the names and shapes of `network`."""
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    differences = {
        "missing": sorted(expected.keys() - given.keys()),
        "unexpected": sorted(given.keys() - expected.keys()),
        "with another shape": sorted(key for key in expected.keys() & given.keys() if expected[key] != given[key]),
    }
    messages = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in differences.items() if keys]
    if messages:
        raise BadInput(
            f"The weights do not fit the network: {', '.join(messages)}", "name the right network with --recipe"
        )


def _some(keys: list[str], limit: int = 4) -> str:
    return ", ".join(keys[:limit]) + (", …" if len(keys) > limit else "")


def first_line(error: BaseException) -> str:
    """Return the first sentence of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]


def pretrained_resnet(recipe: NetworkRecipe) -> models.ResNet | None:
    """Return the ResNet that ``recipe.weights`` names, or None for ``random``.

    Raises:
        MissingRequirement: ImageNet weights cannot be downloaded and are not in torch's cache.
        BadInput: The file does not have the weights of that ResNet, or the network has no ResNet encoder.
    """
    if recipe.weights == "random":
        return None
    if recipe.model not in STARTS_FROM_RESNET:
        raise BadInput(f"{recipe.model} does not have a ResNet encoder to start from", "use --encoder random")
    resnet: models.ResNet = models.get_model(recipe.backbone, weights=None)
    weights = _imagenet(recipe.backbone) if recipe.weights == "imagenet" else _state_dict(Path(recipe.weights))
    classifier = {key: value for key, value in resnet.state_dict().items() if key.startswith("fc.")}
    weights = weights | classifier  # not used, and often removed from such files
    check_keys(weights, resnet)
    resnet.load_state_dict(weights)
    return resnet


def _imagenet(backbone: str) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = models.get_model_weights(backbone).DEFAULT.get_state_dict(
            progress=False, check_hash=True
        )
    except Exception as error:  # no connection, or a damaged file in torch's cache, which may raise anything
        reason = getattr(error, "reason", None) or first_line(error)
        raise MissingRequirement(
            f"ImageNet weights of {backbone} are not available ({reason})",
            "use a local file with --encoder FILE, or random weights with --encoder random",
        ) from error
    return weights
