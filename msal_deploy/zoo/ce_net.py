"""CE-Net (Gu et al., IEEE TMI 2019): ResNet-34, dense atrous convolution, multi-kernel pooling, LinkNet's decoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from msal_deploy.network import DecoderBlock, conv_norm_relu
from msal_deploy.recipe import NetworkRecipe
from msal_deploy.zoo.blocks import shared_conv

# LinkNet's decoder block: MSAL-Net's without its attention and refinement.
PLAIN = NetworkRecipe(channel_attention=False, boundary_refinement=False)


class DenseAtrousConvolution(nn.Module):
    """DAC: cascades with the rates 1; 3; 1,3; 1,3,5, all but the first ending in a 1×1, added to the input (Fig. 3).

    As in the authors' code, branches share convolutions, and ReLU is applied only at the end of a branch. Theirs have
    no batch norm, which can overflow FP16 (see `network.DenseDilatedConvolutions`); ours have one for each use.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rate1 = shared_conv(channels, channels, uses=1)
        self.rate3 = shared_conv(channels, channels, uses=2, dilation=3)
        self.rate5 = shared_conv(channels, channels, uses=1, dilation=5)
        self.point = shared_conv(channels, channels, uses=3, kernel=1)

    def forward(self, x: Tensor) -> Tensor:  # (N, 512, 16, 16) -> the same
        rate1 = self.rate1(x, 0)
        rate3 = self.rate3(x, 0)
        rate13 = self.rate3(rate1, 1)
        rate135 = self.rate5(rate13, 0)
        x = x + rate1.relu()
        for use, branch in enumerate((rate3, rate13, rate135)):
            x = x + self.point(branch, use).relu()
        return x


def max_pool_up(x: Tensor, kernel: int) -> Tensor:
    """Max-pool x ≥ 0 by `kernel`, with the last windows zero-padded: H × W -> ⌈H / kernel⌉ × ⌈W / kernel⌉.

    Equal to ``ceil_mode``, which returns an empty mask in OpenVINO 2026.4 if a window is larger than the grid.
    """
    return functional.max_pool2d(functional.pad(x, (0, kernel - 1, 0, kernel - 1)), kernel)


class ResidualMultiKernelPooling(nn.Module):
    """RMP: max-pool by 2, 3, 5, 6, reduce each to one channel by a shared 1×1, upsample, prepend to the input (Fig. 4).

    The windows do not divide every grid: the paper's 448-pixel images give 14×14, 512-pixel images 16×16. The authors'
    code rounds down: at 16×16, pooling by 6 ignores the last 4 rows and stretches 12 rows to 16, and images below 192
    pixels fail. We round up: the last window is smaller, no row is ignored, and every multiple of 32 works. Both agree
    if the kernel divides the grid.
    """

    KERNELS = (2, 3, 5, 6)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.point = shared_conv(channels, 1, uses=len(self.KERNELS), kernel=1)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C + 4, H, W)
        maps = [
            functional.interpolate(
                self.point(max_pool_up(x, kernel), use),
                size=x.shape[2:],
                mode="bilinear",
                align_corners=False,
            )
            for use, kernel in enumerate(self.KERNELS)
        ]
        return torch.cat([*maps, x], dim=1)


class CENet(nn.Module):
    """CE-Net. Shapes are for a 512×512 image.

    Args:
        resnet: A torchvision ResNet-34 with the initial weights; None for random weights.
    """

    def __init__(self, resnet: models.ResNet | None = None) -> None:
        super().__init__()
        resnet = resnet or models.resnet34(weights=None)
        self.in_block = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.encoder1, self.encoder2 = resnet.layer1, resnet.layer2
        self.encoder3, self.encoder4 = resnet.layer3, resnet.layer4
        self.context = nn.Sequential(DenseAtrousConvolution(512), ResidualMultiKernelPooling(512))
        self.decoder4 = DecoderBlock(516, 256, PLAIN)
        self.decoder3 = DecoderBlock(256, 128, PLAIN)
        self.decoder2 = DecoderBlock(128, 64, PLAIN)
        self.decoder1 = DecoderBlock(64, 64, PLAIN)
        deconv = nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1, bias=False)
        self.head = nn.Sequential(
            nn.Sequential(deconv, nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
            conv_norm_relu(32, 32),
            nn.Conv2d(32, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 512, 512)
        x = self.in_block(x)  # (N, 64, 128, 128)
        skip1 = self.encoder1(x)  # (N, 64, 128, 128)
        skip2 = self.encoder2(skip1)  # (N, 128, 64, 64)
        skip3 = self.encoder3(skip2)  # (N, 256, 32, 32)
        x = self.context(self.encoder4(skip3))  # (N, 516, 16, 16)
        x = self.decoder4(x, skip3)  # (N, 256, 32, 32)
        x = self.decoder3(x, skip2)  # (N, 128, 64, 64)
        x = self.decoder2(x, skip1)  # (N, 64, 128, 128)
        x = self.decoder1(x)  # (N, 64, 256, 256)
        return self.head(x)  # (N, 1, 512, 512)
