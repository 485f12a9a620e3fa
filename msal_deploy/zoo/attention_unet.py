"""Attention U-Net (Oktay et al., MIDL 2018): U-Net with attention gates on its skips."""

from torch import Tensor, nn
from torch.nn import functional

from msal_deploy.zoo.unet import WIDTHS, UNet, Up


def conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Return a convolution without padding and a batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, bias=False), nn.BatchNorm2d(outputs))


class AttentionGate(nn.Module):
    """Additive attention (the paper's Fig. 2): weight each position of the skip using the features of the level below.

    Skip and gating signal are added on the coarser grid. The weights, one per position, are upsampled bilinearly.
    """

    def __init__(self, below: int, skip: int) -> None:
        super().__init__()
        self.of_skip = conv_norm(skip, skip // 2, kernel=2, stride=2)
        self.of_below = conv_norm(below, skip // 2)
        self.weight = conv_norm(skip // 2, 1)
        self.out = conv_norm(skip, skip)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:  # (N, 2C, H, W), (N, C, 2H, 2W) -> (N, C, 2H, 2W)
        weight = self.weight((self.of_skip(skip) + self.of_below(below)).relu()).sigmoid()  # (N, 1, H, W)
        weight = functional.interpolate(weight, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(skip * weight)


class GatedUp(Up):
    """One level of U-Net's decoder, with a gate on its skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gate = AttentionGate(inputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # (N, in, H, W), (N, out, 2H, 2W) -> (N, out, 2H, 2W)
        return super().forward(x, self.gate(x, skip))


def gated_below_the_first(inputs: int, outputs: int) -> Up:
    """Return a decoder level, with a gate except on the topmost skip, as in the paper."""
    return Up(inputs, outputs) if outputs == WIDTHS[0] else GatedUp(inputs, outputs)


class AttentionUNet(UNet):
    """Attention U-Net in two dimensions with U-Net's channels, without the paper's deep supervision.

    Known: the gates of Fig. 2, their grid, and that the first skip has no gate. Our choices: half the skip's channels
    inside a gate; batch norm after every convolution of a gate; 64 to 1024 channels as in U-Net, since the MSAL-Net
    paper does not state a size.
    """

    def __init__(self) -> None:
        super().__init__(up=gated_below_the_first)
