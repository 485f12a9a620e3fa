"""Runtimes: one file each, behind `open_engine`."""

from msal_deploy.runtimes.base import RUNTIMES, Engine, open_engine, runs_here

__all__ = ["RUNTIMES", "Engine", "open_engine", "runs_here"]
