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
    """DAC: cascades with the rates 1; 3; 1,3; 1,3,5, all but the first closed by a 1×1, added to the input (Fig. 3).

    As in the authors' code the convolutions are shared between the branches, and a ReLU comes only at a branch's end.
    Theirs have no batch norm, which can overflow FP16 (see `network.DenseDilatedConvolutions`); here each use has one.
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
    """Max-pool x ≥ 0 by `kernel`, the last windows filled up with zeros: H × W -> ⌈H / kernel⌉ × ⌈W / kernel⌉.

    The same as ``ceil_mode``, with which OpenVINO 2026.4 returns an empty mask where a window is larger than the grid.
    """
    return functional.max_pool2d(functional.pad(x, (0, kernel - 1, 0, kernel - 1)), kernel)


class ResidualMultiKernelPooling(nn.Module):
    """RMP: max-pool by 2, 3, 5, 6, one channel of each by a shared 1×1, upsample, put before the input (Fig. 4).

    The windows do not tile every grid: the paper's 448-pixel images give 14×14 here, 512 give 16×16. The authors' code
    rounds down, which at 16×16 leaves the last 4 rows out of the pooling by 6, stretches 12 over 16 rows, and fails
    below 192 pixels. Here it is rounded up: the last window is smaller, nothing is left out, every multiple of 32
    works. Both agree wherever a kernel divides the grid.
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
        resnet: a torchvision ResNet-34 whose weights to start from; random ones where there is none.
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
