"""Runtimes: one file each, behind `open_engine`."""

from msal_deploy.runtimes.base import RUNTIMES, Engine, is_available, open_engine

__all__ = ["RUNTIMES", "Engine", "is_available", "open_engine"]
