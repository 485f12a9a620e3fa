"""Weights that are part of the package, found by name and verified by their SHA-256."""

from pathlib import Path

from msal_deploy.errors import BadInput, suggest
from msal_deploy.files import StrPath, sha256

FOLDER = Path(__file__).parent
DEFAULT = "msal-net-r34"
LIGHT = "msal-net-light"  # 1.8 times as fast as msal-net-r34 in INT8 on a CPU

# Name -> SHA-256 of <name>.safetensors in this folder.
SHA256 = {
    "msal-net-r34": "27b7d36f4ee6b88af27f53dabf2b2ccc8cbe14324b0e7ec34adb5be96d2385f5",
    "msal-net-r18": "1913ccb2836eab263e90dae7cacefb6398febd8f8a529d6489e9c7a40da96883",
    "msal-net-light": "6d80143d321ab967a82a1c6dc5eb87a302cf5803087df4ad9bb404615b964a65",
}


def find_weights(name_or_path: StrPath) -> Path:
    """Return the file of the weights with this name, or the path itself if it is a file.

    >>> find_weights("msal-net-r34").name
    'msal-net-r34.safetensors'
    >>> find_weights("runs/best.safetensors").name
    'best.safetensors'

    Raises:
        BadInput: Neither weights nor a file have that name, or the file of the package is missing or damaged.
    """
    name = str(name_or_path)
    if name not in SHA256:
        path = Path(name)
        if path.suffix or path.exists():
            return path
        raise BadInput(f"{name!r} is not the name of weights or a file", suggest(name, SHA256))
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise BadInput(f"{path} is missing", "install msal-deploy again")
    if sha256(path) != SHA256[name]:
        raise BadInput(f"{path} is damaged (SHA-256 differs)", "install msal-deploy again")
    return path
