"""Turn a nuclei-segmentation checkpoint into a fast inference engine, with its Dice score verified against PyTorch.

>>> import numpy as np
>>> from msal_deploy import Bundle, open_engine
>>> with open_engine(Bundle("bundle"), "openvino:int8") as engine:
...     probability = engine(np.zeros((1, 64, 64, 3), np.uint8))
>>> probability.shape
(1, 1, 64, 64)

The names below are imported on first use, so that ``import msal_deploy`` is instant and needs no other package. The
stages have their own modules, each with a function of the same name::

    from msal_deploy.train import train
    from msal_deploy.export import export
    from msal_deploy.precision import add_precisions
    from msal_deploy.build_trt import build_trt
    from msal_deploy.validate import validate
    from msal_deploy.bench import bench
    from msal_deploy.package import write_package
    from msal_deploy.report import write_report
    from msal_deploy.doctor import doctor
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msal_deploy.bundle import Bundle
    from msal_deploy.checkpoint import load_checkpoint
    from msal_deploy.data import corner_patches, open_dataset, patches_of, protocol_patches
    from msal_deploy.errors import BadInput, DeployError, GateFailed, MissingExtra, MissingRequirement
    from msal_deploy.prediction import Nuclei, predict, predict_all
    from msal_deploy.recipe import Recipe
    from msal_deploy.runtimes import Engine, available_engines, open_engine
    from msal_deploy.spec import ModelSpec
    from msal_deploy.targets import Target, find_target
    from msal_deploy.trt.plan_metadata import PlanMetadata

__version__ = "0.1.0"

__all__ = [
    "BadInput",
    "Bundle",
    "DeployError",
    "Engine",
    "GateFailed",
    "MissingExtra",
    "MissingRequirement",
    "ModelSpec",
    "Nuclei",
    "PlanMetadata",
    "Recipe",
    "Target",
    "__version__",
    "available_engines",
    "corner_patches",
    "find_target",
    "load_checkpoint",
    "open_dataset",
    "open_engine",
    "patches_of",
    "predict",
    "predict_all",
    "protocol_patches",
]

_MODULES = {
    "BadInput": "errors",
    "Bundle": "bundle",
    "DeployError": "errors",
    "Engine": "runtimes",
    "GateFailed": "errors",
    "MissingExtra": "errors",
    "MissingRequirement": "errors",
    "ModelSpec": "spec",
    "Nuclei": "prediction",
    "PlanMetadata": "trt.plan_metadata",
    "Recipe": "recipe",
    "Target": "targets",
    "available_engines": "runtimes",
    "corner_patches": "data",
    "find_target": "targets",
    "load_checkpoint": "checkpoint",
    "open_dataset": "data",
    "open_engine": "runtimes",
    "patches_of": "data",
    "predict": "prediction",
    "predict_all": "prediction",
    "protocol_patches": "data",
}

if not TYPE_CHECKING:  # type checkers read the imports above, and report any other name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from msal_deploy.errors import translate_missing_extra

        with translate_missing_extra():
            value = getattr(importlib.import_module(f"msal_deploy.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
