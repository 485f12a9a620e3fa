"""Attention U-Net (Oktay et al., MIDL 2018): U-Net whose skips pass a gate that the level below controls."""

from torch import Tensor, nn
from torch.nn import functional

from msal_deploy.zoo.unet import WIDTHS, UNet, Up


def conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution without padding, batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, bias=False), nn.BatchNorm2d(outputs))


class AttentionGate(nn.Module):
    """Additive attention (the paper's Fig. 2): weigh each place of the skip by what the level below makes of it.

    Skip and gating signal meet on the coarser grid; the weights, one a place, are upsampled bilinearly.
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
    """A level of U-Net's decoder with a gate on its skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gate = AttentionGate(inputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # (N, in, H, W), (N, out, 2H, 2W) -> (N, out, 2H, 2W)
        return super().forward(x, self.gate(x, skip))


def gated_below_the_first(inputs: int, outputs: int) -> Up:
    """Gate all skips but the uppermost, which the paper leaves as it is."""
    return Up(inputs, outputs) if outputs == WIDTHS[0] else GatedUp(inputs, outputs)


class AttentionUNet(UNet):
    """Attention U-Net in two dimensions, in U-Net's size; without the paper's deep supervision.

    Known: the gates of Fig. 2, the grid they work on, that the first skip has none. Chosen: half the skip's channels
    inside a gate; batch norm behind every convolution of a gate; 64 to 1024 channels as in U-Net, since the MSAL-Net
    paper does not name another size.
    """

    def __init__(self) -> None:
        super().__init__(up=gated_below_the_first)
