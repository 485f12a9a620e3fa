"""Weights that come with the package, found by name and checked by their hash before they are read."""

from pathlib import Path

from msal_deploy.errors import BadInput, suggest
from msal_deploy.files import sha256

FOLDER = Path(__file__).parent
DEFAULT = "msal-net-r34"

# Name -> SHA-256 of <name>.safetensors beside this file.
SHA256 = {"msal-net-r34": "9075ed2d37d2d3d2732374e3759af2c3865c5bf403c51407ff8c0ecf2b472aa0"}


def find_weights(name_or_path: str) -> Path:
    """Return the file of the weights that are called so, or the path itself where it names a file.

    Raises:
        BadInput: no weights have that name, and no file either; or the shipped file is missing or damaged.
    """
    if name_or_path not in SHA256:
        path = Path(name_or_path)
        if path.suffix or path.exists():
            return path
        raise BadInput(f"No weights are called {name_or_path!r}; {suggest(name_or_path, SHA256)}, or give a file")
    path = FOLDER / f"{name_or_path}.safetensors"
    if not path.is_file():
        raise BadInput(f"The weights {name_or_path} are missing from this installation; install msal-deploy again")
    if sha256(path) != SHA256[name_or_path]:
        raise BadInput(f"{path} is damaged (its SHA-256 differs); install msal-deploy again")
    return path
