"""The networks that can be trained, exported and served: MSAL-Net and those that its paper compares it with."""

from msal_deploy.zoo.build import MODELS, STARTS_FROM_RESNET, build_network

__all__ = ["MODELS", "STARTS_FROM_RESNET", "build_network"]
