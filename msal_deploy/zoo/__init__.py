"""The networks that can be trained, exported and served: MSAL-Net, and what its paper compares it with."""

from torch import nn

from msal_deploy.network import MSALNet
from msal_deploy.recipe import NetworkRecipe


def build(recipe: NetworkRecipe) -> nn.Module:
    """Return the network of `recipe` with random weights: normalised float[N,3,H,W] -> logits float[N,1,H,W]."""
    return MSALNet(recipe)
