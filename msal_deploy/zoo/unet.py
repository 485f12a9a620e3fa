"""U-Net (Ronneberger et al., MICCAI 2015) in its original size, and the blocks that its variants share."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from msal_deploy.network import conv_norm_relu

Layer = Callable[[int, int], nn.Module]  # channels in, channels out -> a module
WIDTHS = (64, 128, 256, 512, 1024)


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3×3 convolutions, each with batch norm and ReLU: the block of every U-Net level."""
    return nn.Sequential(conv_norm_relu(inputs, outputs), conv_norm_relu(outputs, outputs))


def up_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Return the 2×2 transposed convolution that doubles height and width; U-Net has no batch norm after it."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Up(nn.Module):
    """One level of the decoder: double the size, prepend the skip, apply `block`."""

    def __init__(self, inputs: int, outputs: int, block: Layer = double_conv) -> None:
        super().__init__()
        self.up = up_conv(inputs, outputs)
        self.block = block(2 * outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # (N, in, H, W), (N, out, 2H, 2W) -> (N, out, 2H, 2W)
        return self.block(torch.cat([skip, self.up(x)], dim=1))


class UNet(nn.Module):
    """U-Net: 64 to 1024 channels, four poolings, 31 M parameters.

    Two differences from the paper: convolutions are padded, so that the mask has the size of the image, and each has a
    batch norm, which was published after U-Net.

    Args:
        widths: Channels at each level; the size is halved between levels.
        block: Convolutions of one level.
        up: One level of the decoder, called with the features from below and the skip.
        bottom: Module after the deepest level.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        block: Layer = double_conv,
        up: Layer = Up,
        bottom: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.downs = nn.ModuleList(block(inputs, outputs) for inputs, outputs in pairwise((3, *widths)))
        self.bottom = bottom or nn.Identity()
        self.ups = nn.ModuleList(up(inputs, outputs) for inputs, outputs in pairwise(reversed(widths)))
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 512, 512)
        skips: list[Tensor] = []
        for level, down in enumerate(self.downs):
            x = down(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)  # (N, 64, 512, 512), (N, 128, 256, 256), … (N, 1024, 32, 32)
        x = self.bottom(skips.pop())
        for up in self.ups:
            x = up(x, skips.pop())  # (N, 512, 64, 64), … (N, 64, 512, 512)
        return self.head(x)  # (N, 1, 512, 512)
