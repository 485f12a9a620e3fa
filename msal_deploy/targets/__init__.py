"""Targets: GPU classes, one TOML file each, with the versions that support them and their preferred precisions."""

from msal_deploy.targets.target import (
    Container,
    Peak,
    Precision,
    Target,
    find_target,
    target_names,
    target_of_sm,
    targets,
)

__all__ = ["Container", "Peak", "Precision", "Target", "find_target", "target_names", "target_of_sm", "targets"]
