"""MDC-Net (Liu et al., Computers in Biology and Medicine 2021): a U-shaped network with multi-scale dilated blocks."""

import torch
from torch import Tensor, nn

from msal_deploy.network import conv_norm_relu
from msal_deploy.zoo.unet import UNet, Up


class MultiScaleBlock(nn.Module):
    """A residual cascade of 3×3 convolutions at the rates 1, 2, 4, whose outputs are joined by a 1×1.

    Receptive fields 3, 7 and 15 at one resolution. The first 1×1 sets the number of channels for the residual sum.
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
    """Return one level of the decoder with a multi-scale block."""
    return Up(inputs, outputs, MultiScaleBlock)


class MDCNet(UNet):
    """U-Net with a multi-scale dilated block instead of each pair of convolutions.

    Known from the title: a multi-scale connected segmentation network with distance map and contour information. The
    paper's text was not available, so this is an interpretation, not a reproduction. Our choices: the block above;
    U-Net's levels and channels; only the mask as output, since the distance map and the contour need separate targets.
    """

    def __init__(self) -> None:
        super().__init__(block=MultiScaleBlock, up=multi_scale_up)
