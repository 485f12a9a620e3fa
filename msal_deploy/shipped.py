"""The bundle of the shipped weights, exported once into the user's cache directory."""

from pathlib import Path

import msal_deploy
from msal_deploy.bundle import Bundle, is_bundle
from msal_deploy.errors import MissingExtra
from msal_deploy.files import cache_directory, output_lock
from msal_deploy.weights import DEFAULT, SHA256


def shipped_bundle() -> Bundle:
    """Return the FP32 bundle of the shipped weights. The first call exports it, which takes half a minute.

    Raises:
        MissingExtra: PyTorch, which exports it, is not installed.
    """
    folder = cache_directory() / f"{DEFAULT}-{SHA256[DEFAULT][:12]}-{msal_deploy.__version__}"
    with output_lock(folder, waiting=lambda: None):  # two runs may start at the same time
        if not is_bundle(folder):
            _export(folder)
    return Bundle(folder)


def _export(folder: Path) -> None:
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra("torch", "train") from error
    from msal_deploy.checkpoint import load_checkpoint
    from msal_deploy.export import export
    from msal_deploy.weights import find_weights

    export(load_checkpoint(find_weights(DEFAULT)), folder, shapes=[(1, 256, 256), (1, 512, 512)])
