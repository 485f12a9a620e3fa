"""Runtimes: one module for each, opened with `open_engine`.

===========  ==========================================================
`catalogue`  `CATALOGUE`: every runtime; `open_engine`, `available_engines`
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
from msal_deploy.runtimes.tiling import segment

__all__ = [
    "CATALOGUE",
    "Engine",
    "Runtime",
    "available_engines",
    "find_runtime",
    "open_engine",
    "runtime_packages",
    "segment",
]
