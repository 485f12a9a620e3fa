"""ASPPU-Net (Wan et al., Neurocomputing 2020), which the MSAL-Net paper writes "ASSPU-Net": U-Net with an ASPP."""

import torch
from torch import Tensor, nn

from msal_deploy.network import conv_norm_relu
from msal_deploy.zoo.unet import WIDTHS, UNet

RATES = (6, 12, 18)


class AtrousSpatialPyramidPooling(nn.Module):
    """ASPP (Chen et al., DeepLabv3, 2017): a 1×1 and three dilated 3×3 convolutions side by side, then a 1×1.

    DeepLab's fifth branch, the mean over the image, is omitted: the result for a nucleus would depend on the tile size.
    """

    def __init__(self, channels: int, branch: int = 256) -> None:
        super().__init__()
        dilated = [conv_norm_relu(channels, branch, dilation=rate) for rate in RATES]
        self.branches = nn.ModuleList([conv_norm_relu(channels, branch, kernel=1), *dilated])
        self.mix = conv_norm_relu(4 * branch, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> the same
        return self.mix(torch.cat([branch(x) for branch in self.branches], dim=1))


class ASSPUNet(UNet):
    """U-Net's four upper levels, with an ASPP instead of the fifth.

    Known from the abstract: a U-Net with a modified ASPP, which captures nuclei at several scales and their context
    "without reducing the spatial resolution of feature map". The paper's concave-point splitting of touching nuclei is
    a separate step after the network. Our choices: the ASPP replaces the fourth pooling and the 1024 channels below it,
    at 1/8 of the image size; DeepLab's rates 6, 12, 18 with 256 channels per branch; U-Net's channels elsewhere.
    """

    def __init__(self) -> None:
        super().__init__(WIDTHS[:-1], bottom=AtrousSpatialPyramidPooling(WIDTHS[-2]))
