"""Runtimes: one module for each, opened with `open_engine`.

===========  ==========================================================
`catalogue`  `CATALOGUE`: every runtime; `open_engine`, `available_engines`
`needs`      `missing_needs`: engines that cannot run here, and why
`base`       `Engine`, which every runtime implements
`tiling`     `segment`: an image of any size, in overlapping tiles
===========  ==========================================================
"""

from msal_deploy.runtimes.base import Engine
from msal_deploy.runtimes.catalogue import (
    CATALOGUE,
    Runtime,
    available_engines,
    find_runtime,
    open_engine,
    runtime_packages,
)
from msal_deploy.runtimes.needs import all_engines, check_plan_shape, missing_need, missing_needs, require
from msal_deploy.runtimes.tiling import segment

__all__ = [
    "CATALOGUE",
    "Engine",
    "Runtime",
    "all_engines",
    "available_engines",
    "check_plan_shape",
    "find_runtime",
    "missing_need",
    "missing_needs",
    "open_engine",
    "require",
    "runtime_packages",
    "segment",
]
