"""Networks for training and export: MSAL-Net, and those that its paper compares it with (Tables 1 and 2)."""

from msal_deploy.zoo.build import MODELS, STARTS_FROM_RESNET, build_network

__all__ = ["MODELS", "STARTS_FROM_RESNET", "build_network"]
