"""Triton: a model repository, with everything needed to serve and test it.

::

    models/msal-net/config.pbtxt   the model configuration, written from ModelSpec
    models/msal-net/1/             the plans or the graph; for the CPU also model.py, which runs it with OpenVINO
    models/msal-net/warmup/        a golden tile, which each instance computes before it serves requests
    compose.yaml                   the matching Triton image; Dockerfile to add OpenVINO to it
    serve.py                       serves the repository without Docker, on the CPU
    client.py                      an example client that needs only tritonclient
    README.md                      the commands
"""

from __future__ import annotations

import shutil
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import PackageLoader

from msal_deploy.bundle import Bundle
from msal_deploy.package.quoting import environment
from msal_deploy.package.triton_backends import Serving, choose_serving
from msal_deploy.package.triton_config import WARM_UP, model_config

if TYPE_CHECKING:
    from msal_deploy.package.options import PackageOptions

FILES = "triton_files"
VERSION = "1"
HTTP, GRPC = 8000, 8001  # Triton's default ports


def write(bundle: Bundle, folder: Path, options: PackageOptions) -> str:
    """Write the model repository of `bundle` into `folder`, and return the next step.

    Raises:
        BadInput: The backend is unknown, or the bundle has no plan for it.
        MissingExtra: tritonclient is not installed.
    """
    serving = choose_serving(bundle, options)
    model = folder / "models" / bundle.manifest.recipe.network.model
    size = _write_warm_up(bundle, model / "warmup", serving.warm_up)
    (model / "config.pbtxt").write_text(model_config(bundle, serving, options.precision, size), encoding="utf-8")
    _copy_model(serving, model / VERSION)
    _copy("client.py", folder)
    texts = ["README.md", "compose.yaml"]
    if serving.backend == "openvino":
        _copy("serve.py", folder)
        texts.append("Dockerfile")
    for name in texts:
        (folder / name).write_text(_render(name, bundle, serving, options.precision), encoding="utf-8")
    return "Serve it with: docker compose up --detach --wait (its README.md says how to test it)"


def _write_warm_up(bundle: Bundle, folder: Path, size: tuple[int, int] | None) -> tuple[int, int]:
    """Write the first golden tile, repeated or cropped to `size` if given, and return its height and width."""
    image = bundle.golden()[0][0]
    height, width = size or image.shape[:2]
    missing = [(0, max(0, wanted - extent)) for wanted, extent in zip((height, width), image.shape[:2], strict=True)]
    folder.mkdir(parents=True)
    tile = np.pad(image, [*missing, (0, 0)], mode="wrap")[:height, :width]
    (folder / WARM_UP).write_bytes(tile.tobytes())
    return height, width


def _copy_model(serving: Serving, folder: Path) -> None:
    folder.mkdir()
    for name, path in serving.files.items():
        shutil.copyfile(path, folder / name)
    if serving.backend == "openvino":
        _copy("model.py", folder)


def _copy(name: str, folder: Path) -> None:
    source = resources.files("msal_deploy.package").joinpath(FILES, name)
    (folder / name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")


def _render(name: str, bundle: Bundle, serving: Serving, precision: str) -> str:
    templates = environment(PackageLoader("msal_deploy.package", FILES))
    return templates.get_template(f"{name}.j2").render(
        s=serving,
        spec=bundle.spec,
        licence=bundle.manifest.licence,
        model=bundle.manifest.recipe.network.model,
        precision=precision,
        openvino=version("openvino"),
        http=HTTP,
        grpc=GRPC,
    )
