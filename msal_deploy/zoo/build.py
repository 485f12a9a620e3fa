"""Build a network by its name.

Each network takes normalised RGB float[N,3,H,W], H and W multiples of 32, and returns logits float[N,1,H,W]. Its module
is imported when the network is built, so that only U-Net over a ResNet and LinkNet need segmentation-models-pytorch.
"""

from collections.abc import Callable
from typing import get_args

from torch import nn
from torchvision.models import ResNet

from msal_deploy.errors import BadInput, suggest
from msal_deploy.recipe import Model, NetworkRecipe

MODELS: tuple[str, ...] = get_args(Model)


# Networks whose encoder is a torchvision ResNet and can start from its weights.
STARTS_FROM_RESNET = ("msal-net", "unet-resnet", "ce-net")


def build_network(recipe: NetworkRecipe, resnet: ResNet | None = None) -> nn.Module:
    """Return the network of `recipe`: normalised float[N,3,H,W] -> logits float[N,1,H,W]::

        network = build_network(NetworkRecipe(model="ce-net"))

    Args:
        resnet: Initial weights of the encoder for a network in `STARTS_FROM_RESNET`; None for random weights.

    Raises:
        BadInput: The network does not exist.
        ModuleNotFoundError: The network needs a package that is not installed (extra ``zoo``).
    """
    if recipe.model not in _BUILDERS:
        raise BadInput(f"{recipe.model!r} is not a network", suggest(recipe.model, MODELS))
    return _BUILDERS[recipe.model](recipe, resnet)


def _msal_net(recipe: NetworkRecipe, resnet: ResNet | None) -> nn.Module:
    from msal_deploy.network import MSALNet

    return MSALNet(recipe, resnet)


def _unet_resnet(recipe: NetworkRecipe, resnet: ResNet | None) -> nn.Module:
    """U-Net over a ResNet ("Unet + Res-18" in the paper's Table 1)."""
    from segmentation_models_pytorch import Unet

    network = Unet(recipe.backbone, encoder_weights=None)
    if resnet is not None:
        network.encoder.load_state_dict(resnet.state_dict())  # it ignores the classifier
    return network


def _linknet(_: NetworkRecipe, __: ResNet | None) -> nn.Module:
    """LinkNet (Chaurasia and Culurciello, VCIP 2017), over ResNet-18 as in its paper."""
    from segmentation_models_pytorch import Linknet

    return Linknet("resnet18", encoder_weights=None)


def _unet(_: NetworkRecipe, __: ResNet | None) -> nn.Module:
    from msal_deploy.zoo.unet import UNet

    return UNet()


def _attention_unet(_: NetworkRecipe, __: ResNet | None) -> nn.Module:
    from msal_deploy.zoo.attention_unet import AttentionUNet

    return AttentionUNet()


def _ce_net(_: NetworkRecipe, resnet: ResNet | None) -> nn.Module:
    from msal_deploy.zoo.ce_net import CENet

    return CENet(resnet)


def _bio_net(_: NetworkRecipe, __: ResNet | None) -> nn.Module:
    from msal_deploy.zoo.bio_net import BiONet

    return BiONet()


def _asspu_net(_: NetworkRecipe, __: ResNet | None) -> nn.Module:
    from msal_deploy.zoo.asspu_net import ASSPUNet

    return ASSPUNet()


def _mdc_net(_: NetworkRecipe, __: ResNet | None) -> nn.Module:
    from msal_deploy.zoo.mdc_net import MDCNet

    return MDCNet()


def _cnn3(_: NetworkRecipe, __: ResNet | None) -> nn.Module:
    from msal_deploy.zoo.cnn3 import CNN3

    return CNN3()


_BUILDERS: dict[str, Callable[[NetworkRecipe, ResNet | None], nn.Module]] = {
    "msal-net": _msal_net,
    "unet-resnet": _unet_resnet,
    "linknet": _linknet,
    "unet": _unet,
    "ce-net": _ce_net,
    "attention-unet": _attention_unet,
    "bio-net": _bio_net,
    "asspu-net": _asspu_net,
    "mdc-net": _mdc_net,
    "cnn3": _cnn3,
}
