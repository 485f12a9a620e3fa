"""Checkpoints: safetensors with the recipe in the metadata, and other PyTorch weights, read without running code."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.files import StrPath, atomic_file
from msal_deploy.recipe import NetworkRecipe, Recipe
from msal_deploy.state_dict import fit, some
from msal_deploy.weight_files import WeightFile, first_line, read_metadata, read_weights
from msal_deploy.zoo import STARTS_FROM_RESNET, build_network

UNKNOWN_LICENCE = "not stated"
FORMAT = "msal-deploy 1"  # in the metadata of our own files, whose names need no fitting


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
        remarks: What was taken from a file of another program and what was left out, in sentences for the user.
    """

    weights: dict[str, Tensor]
    recipe: Recipe
    licence: str = UNKNOWN_LICENCE
    notes: dict[str, str] = {}
    file: Path | None = None
    remarks: tuple[str, ...] = ()

    def network(self) -> nn.Module:
        """Return the network with these weights, in evaluation mode.

        Raises:
            BadInput: The weights do not fit the network (the message lists the keys that differ), or are not finite.
        """
        network = build_network(self.recipe.network)
        check_keys(self.weights, network)
        weights = {key: value.float() if value.is_floating_point() else value for key, value in self.weights.items()}
        if broken := [key for key, value in weights.items() if not value.isfinite().all()]:
            raise BadInput(f"The weights are not finite ({some(broken)})", "use an earlier checkpoint")
        network.load_state_dict(weights)
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
    metadata = {"format": FORMAT, "recipe": checkpoint.recipe.to_json(), "licence": checkpoint.licence}
    with atomic_file(path) as temporary:
        # safetensors rejects the strides that channels_last training leaves, and tensors that share memory.
        weights = {
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for key, value in checkpoint.weights.items()
        }
        if half:  # except norms: they are small, and a running variance may exceed FP16's range
            weights = {key: value.half() if value.ndim > 1 else value for key, value in weights.items()}
        save_file(weights, temporary, metadata=metadata | {"notes": msgspec.json.encode(checkpoint.notes).decode()})
        temporary.chmod(0o644)  # safetensors writes 0600, which excludes others who share the folder


def load_checkpoint(path: StrPath, recipe: Recipe | None = None) -> Checkpoint:
    """Read a checkpoint that msal-deploy wrote, or the weights of another program, whatever the file's name::

        load_checkpoint("runs/r34/best.safetensors")
        load_checkpoint("lightning.ckpt", Recipe.load("paper"))

    The weights of another program may have any prefix and be anywhere in the file: see `msal_deploy.state_dict`.

    Args:
        recipe: The network of the weights; required unless the file says it.

    Raises:
        BadInput: The file is missing or damaged, could run code, does not say its network and no recipe is given, or
            does not hold the weights of that network.
    """
    path = Path(path)
    file = read_weights(path)
    own = _own_recipe(file.metadata)
    chosen = recipe or own
    if chosen is None:
        raise BadInput(f"{path} does not say which network it holds", "name it with --recipe")
    licence = file.metadata.get("licence", UNKNOWN_LICENCE)
    if file.metadata.get("format") == FORMAT:
        return Checkpoint(file.content, chosen, licence, _notes(file, path), path if chosen == own else None)
    with torch.device("meta"):
        network = build_network(chosen.network).state_dict()
    fitted = fit(file.content, network, str(path))
    return Checkpoint(fitted.weights, chosen, licence, _notes(file, path), remarks=fitted.remarks)


def own_recipe(path: StrPath) -> Recipe | None:
    """Return the recipe that a checkpoint names itself, or None for the weights of another program; reads no weights.

    Raises:
        BadInput: The file is missing or damaged, or its recipe is not one.
    """
    return _own_recipe(read_metadata(Path(path)))


def _own_recipe(metadata: Mapping[str, str]) -> Recipe | None:
    return Recipe.from_json(metadata["recipe"]) if "recipe" in metadata else None


def _notes(file: WeightFile, path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(file.metadata.get("notes", "{}"), type=dict[str, str])
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadInput(f"The notes in {path} are not valid ({error})", "copy or train it again") from error


def check_keys(weights: Mapping[str, Tensor], network: nn.Module) -> None:
    """Raise `BadInput`, listing the differences, unless `weights` have the names and shapes of `network`."""
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    differences = {
        "missing": sorted(expected.keys() - given.keys()),
        "unexpected": sorted(given.keys() - expected.keys()),
        "with another shape": sorted(key for key in expected.keys() & given.keys() if expected[key] != given[key]),
    }
    messages = [f"{len(keys)} {kind} ({some(keys)})" for kind, keys in differences.items() if keys]
    if messages:
        raise BadInput(
            f"The weights do not fit the network: {', '.join(messages)}", "name the right network with --recipe"
        )


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
    wanted = {key: value for key, value in resnet.state_dict().items() if not key.startswith("fc.")}
    content = _imagenet(recipe.backbone) if recipe.weights == "imagenet" else read_weights(Path(recipe.weights)).content
    title = "torch's cache" if recipe.weights == "imagenet" else recipe.weights
    fitted = fit(content, wanted, title, unused="fc").weights  # the classifier is not used, and often removed
    resnet.load_state_dict(fitted, strict=False)
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
