"""Checkpoints: safetensors with the recipe in the metadata; and the weights of others, read without running code."""

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
from msal_deploy.files import atomic_file
from msal_deploy.recipe import NetworkRecipe, Recipe
from msal_deploy.zoo import STARTS_FROM_RESNET, build_network

UNKNOWN_LICENCE = "not stated"


class Checkpoint(msgspec.Struct, frozen=True):
    """Weights and what is known about them.

    Attributes:
        weights: parameter name -> tensor, on the CPU.
        recipe: the network and how it was trained.
        licence: SPDX identifier of the weights' licence, or ``not stated``.
        notes: what training wrote beside the weights (epoch, validation Dice, …), as text.
        file: the safetensors file that says exactly this, so that it can be copied whole and keeps its hash.
    """

    weights: dict[str, Tensor]
    recipe: Recipe
    licence: str = UNKNOWN_LICENCE
    notes: dict[str, str] = {}
    file: Path | None = None

    def network(self) -> nn.Module:
        """Return the network with these weights, in evaluation mode.

        Raises:
            BadInput: the weights are another network's (the sentence lists the keys that differ), or not finite.
        """
        network = build_network(self.recipe.network)
        check_keys(self.weights, network)
        if broken := [key for key, value in self.weights.items() if not value.isfinite().all()]:
            raise BadInput(f"The weights hold NaN or infinity ({_some(broken)}); take an earlier checkpoint")
        network.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in self.weights.items()}
        )
        return network.eval()


def untrained(recipe: Recipe) -> Checkpoint:
    """Return a checkpoint of random weights, always the same ones, to time a graph or try an integration with.

    Raises:
        BadInput: the recipe names a network that does not exist.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = dict(build_network(recipe.network).state_dict())
    return Checkpoint(weights, recipe, notes={"trained": "no"})


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """Write `checkpoint` as safetensors, atomically; with `half`, the convolutions' weights in FP16, for shipping."""
    metadata = {"format": "msal-deploy 1", "recipe": checkpoint.recipe.to_json(), "licence": checkpoint.licence}
    with atomic_file(path) as temporary:
        # Contiguous: safetensors refuses the strides that channels_last training leaves behind.
        weights = {key: value.detach().cpu().contiguous() for key, value in checkpoint.weights.items()}
        if half:  # not the norms: they are small, and a running variance may lie beyond FP16's range
            weights = {key: value.half() if value.ndim > 1 else value for key, value in weights.items()}
        save_file(weights, temporary, metadata=metadata | {"notes": msgspec.json.encode(checkpoint.notes).decode()})
        temporary.chmod(0o644)  # safetensors writes 0600, which locks out whoever shares the folder


def load_checkpoint(path: Path, recipe: Recipe | None = None) -> Checkpoint:
    """Read a checkpoint of ours, or the state dict of others (``.pt``, ``.pth``), which needs `recipe`.

    Raises:
        BadInput: no such file, a damaged one, a pickle that wants to run code, or a state dict without a recipe.
    """
    if path.suffix in (".pt", ".pth"):
        if recipe is None:
            raise BadInput(f"{path} does not say which network it is; name its recipe with --recipe")
        return Checkpoint(_state_dict(path), recipe)
    return _load_safetensors(path, recipe)


def _load_safetensors(path: Path, recipe: Recipe | None) -> Checkpoint:
    _require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise BadInput(f"{path} is no whole safetensors file ({error}); copy or train it again") from error
    own = Recipe.from_json(metadata["recipe"]) if "recipe" in metadata else None
    chosen = recipe or own
    if chosen is None:
        raise BadInput(f"{path} has no recipe in its metadata; name its recipe with --recipe")
    try:
        notes = msgspec.json.decode(metadata.get("notes", "{}"), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} has damaged notes in its metadata ({error}); copy or train it again") from error
    licence = metadata.get("licence", UNKNOWN_LICENCE)
    return Checkpoint(weights, chosen, licence, notes, path if chosen == own else None)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise BadInput(f"There is no weight file {path}")


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Read a pickled state dict; bare, or under ``state_dict`` or ``model``, with or without DDP's ``module.``."""
    _require_file(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle may raise
        if isinstance(error, pickle.UnpicklingError) and "unsupported global" in str(error).lower():
            raise BadInput(
                f"{path} holds more than weights, and unpickling it could run code; save its state_dict alone"
            ) from error
        raise BadInput(f"{path} is no whole PyTorch file ({first_line(error)}); copy it again") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BadInput(f"{path} holds no state dict (parameter name -> tensor)")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def check_keys(weights: Mapping[str, Tensor], network: nn.Module) -> None:
    """Raise `BadInput`, listing what differs, unless `weights` are exactly those that `network` has."""
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in weights.items()}
    differences = {
        "missing": sorted(ours.keys() - theirs.keys()),
        "unexpected": sorted(theirs.keys() - ours.keys()),
        "of another shape": sorted(key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]),
    }
    found = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in differences.items() if keys]
    if found:
        raise BadInput(f"These weights are another network's: {'; '.join(found)}; name the right one with --recipe")


def _some(keys: list[str], limit: int = 4) -> str:
    return ", ".join(keys[:limit]) + (", …" if len(keys) > limit else "")


def first_line(error: BaseException) -> str:
    """Return the first sentence of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]


def pretrained_resnet(recipe: NetworkRecipe) -> models.ResNet | None:
    """Return the ResNet whose weights ``recipe.weights`` names, or None for ``random``.

    Raises:
        MissingRequirement: ImageNet weights were asked for and can neither be downloaded nor found in torch's cache.
        BadInput: the file holds no weights of that ResNet, or the network has no such encoder.
    """
    if recipe.weights == "random":
        return None
    if recipe.model not in STARTS_FROM_RESNET:
        raise BadInput(f"{recipe.model} has no ResNet that could start from {recipe.weights}; use --encoder random")
    resnet: models.ResNet = models.get_model(recipe.backbone, weights=None)
    weights = _imagenet(recipe.backbone) if recipe.weights == "imagenet" else _state_dict(Path(recipe.weights))
    classifier = {key: value for key, value in resnet.state_dict().items() if key.startswith("fc.")}
    weights = weights | classifier  # unused here, and people cut it off
    check_keys(weights, resnet)
    resnet.load_state_dict(weights)
    return resnet


def _imagenet(backbone: str) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = models.get_model_weights(backbone).DEFAULT.get_state_dict(
            progress=False, check_hash=True
        )
    except Exception as error:  # no network, or a damaged file in torch's cache, which fails in many ways
        reason = getattr(error, "reason", None) or first_line(error)
        raise MissingRequirement(
            f"ImageNet weights of {backbone} cannot be downloaded or read ({reason}); "
            "give a local file with --encoder FILE, or start from scratch with --encoder random"
        ) from error
    return weights
