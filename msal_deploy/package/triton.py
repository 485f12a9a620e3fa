"""Triton: a model repository, with everything needed to serve and test it.

::

    models/msal-net/config.pbtxt   the model configuration, written from ModelSpec
    models/msal-net/1/             the plans or the graph; for the CPU also model.py, which runs it with OpenVINO;
                                   and model.json, which says what they are
    models/msal-net/warmup/        a golden tile in several sizes, which each instance computes before it is ready
    Dockerfile, compose.yaml       the matching Triton image, and how to run it
    kubernetes.yaml                a deployment and a service
    serve.py                       checks the files, and serves them without Docker, on the CPU
    client.py                      an example client that needs only tritonclient
    README.md                      the commands
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import PackageLoader

from msal_deploy.bundle import Bundle
from msal_deploy.package.quoting import environment
from msal_deploy.package.triton_backends import Serving, choose_serving
from msal_deploy.package.triton_config import QUEUE_TIMEOUT, model_config
from msal_deploy.package.triton_shapes import served_spec, warm_ups, write_warm_ups
from msal_deploy.package.triton_version import FILES, copy_program, write_version
from msal_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from msal_deploy.package.options import PackageOptions

HTTP, GRPC, METRICS = 8000, 8001, 8002  # Triton's default ports
INPUT_LIMIT = "25.07"  # the release from which Triton refuses HTTP requests above 64 MiB
TEXTS = ("README.md", "compose.yaml", "Dockerfile", "kubernetes.yaml")


def write(bundle: Bundle, folder: Path, options: PackageOptions) -> str:
    """Write the model repository of `bundle` into `folder`, and return the next step.

    Raises:
        BadInput: The backend is unknown, the bundle has no plan for it, or a size is not accepted.
        MissingExtra: tritonclient is not installed.
    """
    serving = choose_serving(bundle, options)
    spec = served_spec(bundle.spec, serving)
    image = bundle.golden()[0][0]
    shapes = warm_ups(spec, serving, (image.shape[0], image.shape[1]), options.sizes)
    name = bundle.manifest.recipe.network.model
    model = folder / "models" / name
    about = write_version(bundle, serving, options.precision, model)
    (model / "config.pbtxt").write_text(model_config(name, spec, serving, about, shapes), encoding="utf-8")
    write_warm_ups(image, model / "warmup", shapes)
    for program in ("client.py", "serve.py"):
        copy_program(program, folder)
    for text in TEXTS:
        (folder / text).write_text(_render(text, bundle, spec, serving, options.precision), encoding="utf-8")
    return "Serve it with: docker compose up --detach --wait (its README.md says how to test it)"


def _render(name: str, bundle: Bundle, spec: ModelSpec, serving: Serving, precision: str) -> str:
    templates = environment(PackageLoader("msal_deploy.package", FILES))
    return templates.get_template(f"{name}.j2").render(
        s=serving,
        spec=spec,
        licence=bundle.manifest.licence,
        model=bundle.manifest.recipe.network.model,
        precision=precision,
        openvino=version("openvino"),
        http=HTTP,
        grpc=GRPC,
        metrics=METRICS,
        queue_seconds=QUEUE_TIMEOUT // 1_000_000,
        limits_input=serving.tag >= INPUT_LIMIT,
    )
