"""MDC-Net (Liu et al., Computers in Biology and Medicine 2021): a U-shaped network with multi-scale dilated blocks."""

import torch
from torch import Tensor, nn

from msal_deploy.network import conv_norm_relu
from msal_deploy.zoo.unet import UNet, Up


class MultiScaleBlock(nn.Module):
    """Dilated 3×3 convolutions at the rates 1, 2, 4, each fed by the one before, all connected by a 1×1; residual.

    Receptive fields 3, 7 and 15 at one resolution. The 1×1 at the entry gives the sum its channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        scale = outputs // 2
        self.enter = conv_norm_relu(inputs, outputs, kernel=1)
        self.rate1 = conv_norm_relu(outputs, scale)
        self.rate2 = conv_norm_relu(scale, scale, dilation=2)
        self.rate4 = conv_norm_relu(scale, scale, dilation=4)
        self.connect = conv_norm_relu(3 * scale, outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:  # (N, in, H, W) -> (N, out, H, W)
        x = self.enter(x)
        rate1 = self.rate1(x)
        rate2 = self.rate2(rate1)
        rate4 = self.rate4(rate2)
        return x + self.connect(torch.cat([rate1, rate2, rate4], dim=1))


def multi_scale_up(inputs: int, outputs: int) -> Up:
    """A level of the decoder with a multi-scale block."""
    return Up(inputs, outputs, MultiScaleBlock)


class MDCNet(UNet):
    """U-Net with a multi-scale dilated block in place of each pair of convolutions.

    Known, from what it is called: a multi-scale connected segmentation network with distance map and contour
    information. The paper's text was not at hand, so this is a reading of that line and no reproduction. Chosen: the
    block above; U-Net's levels and channels; the mask alone, since the distance map and the contour have no place in a
    mask's engine and need targets of their own.
    """

    def __init__(self) -> None:
        super().__init__(block=MultiScaleBlock, up=multi_scale_up)
