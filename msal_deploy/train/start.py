"""What a run starts from and learns from: the weights of a checkpoint, and the probabilities of a teacher."""

import msgspec
from torch import nn

from msal_deploy.bundle import CHECKPOINT
from msal_deploy.checkpoint import Checkpoint
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.recipe import NetworkRecipe, Recipe
from msal_deploy.runtimes import Engine
from msal_deploy.train.state import State
from msal_deploy.zoo import build_network


def check_start(start: Checkpoint, recipe: Recipe) -> None:
    """Raise `BadInput` if the checkpoint's network cannot become the recipe's, or its weights do not fit its own."""
    own, wanted = start.recipe.network, recipe.network
    if _without_decoder(own) != _without_decoder(wanted) or (own.light_decoder and not wanted.light_decoder):
        cause = f"The checkpoint to start from is {own.title}, and the recipe trains {wanted.title}"
        raise BadInput(cause, "use a recipe with the checkpoint's network, or leave out --recipe")
    start.network()


def _without_decoder(network: NetworkRecipe) -> NetworkRecipe:
    return msgspec.structs.replace(network, weights="random", light_decoder=False)


def start_network(start: Checkpoint, recipe: NetworkRecipe) -> nn.Module:
    """Return the network of `recipe` with the weights of `start`; a light head is random if `start` has none."""
    if start.recipe.network.light_decoder == recipe.light_decoder:
        return start.network()
    network = build_network(recipe)
    weights = network.state_dict()
    given = {key: value for key, value in start.network().state_dict().items() if not key.startswith("head.")}
    network.load_state_dict(weights | {key: value for key, value in given.items() if key in weights})
    return network


def origin(start: Checkpoint) -> dict[str, str]:
    """Return the note on where the weights came from: the file's name and hash, if there is a file."""
    return {"started from": f"{start.file.name}, SHA-256 {sha256(start.file)}"} if start.file else {}


def with_teacher(state: State, teacher: Engine | None, *, resume: bool) -> State:
    """Note the teacher in the state, for the notes of the checkpoint.

    Raises:
        BadInput: A resumed run had another teacher, or none, or has none now.
    """
    own = {"teacher": _describe(teacher)} if teacher else {}
    if not resume:
        return msgspec.structs.replace(state, notes=state.notes | own)
    before, now = state.notes.get("teacher", "none"), own.get("teacher", "none")
    if before != now:
        raise BadInput(f"The teacher of the run is {before}, not {now}", "resume with the same --teacher")
    return state


def _describe(teacher: Engine) -> str:
    return f"{teacher.id}, checkpoint SHA-256 {teacher.bundle.manifest.artifacts[CHECKPOINT].sha256}"
