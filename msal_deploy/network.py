"""MSAL-Net: ResNet encoder, dense dilated convolutions, decoder with channel attention and boundary refinement.

Source: the MSAL-Net paper (Methodology; Figs. 2 to 5). Comments state our choices where its text leaves them open.
Shapes are for a 512×512 image and ResNet-34. C4 is 512 for ResNet-18 and -34, and 2048 for ResNet-50 and -101.
"""

import torch
from torch import Tensor, nn
from torchvision import models

from msal_deploy.recipe import NetworkRecipe
from msal_deploy.spec import ModelSpec


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU: the paper's convolutional block (Fig. 3)."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def deconv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    """Transposed convolution that doubles height and width, batch norm, ReLU (Fig. 3)."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class DenseDilatedConvolutions(nn.Module):
    """DDC: a cascade with the rates 1; 3; 1,3; 1,3,5 (receptive fields 3, 7, 9, 19), added to its input (Fig. 4).

    Every convolution has a batch norm. Without it, activations of the cascade reached 2·10⁶ in training, which
    overflows FP16. Two branches share the rate-3 convolution, as in CE-Net's block. Each use has its own norm, because
    the running statistics of a shared norm would fit neither input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rate1 = conv_norm_relu(channels, channels)
        self.rate3 = nn.Conv2d(channels, channels, 3, padding=3, dilation=3, bias=False)
        self.norm3 = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.norm13 = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.rate5 = conv_norm_relu(channels, channels, dilation=5)
        self.points = nn.ModuleList(conv_norm_relu(channels, channels, kernel=1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:  # (N, C4, 16, 16) -> the same
        rate1 = self.rate1(x)
        rate3 = self.norm3(self.rate3(x))
        rate13 = self.norm13(self.rate3(rate1))
        rate135 = self.rate5(rate13)
        for point, branch in zip(self.points, (rate1, rate3, rate13, rate135), strict=True):
            x = x + point(branch)
        return x


class EfficientChannelAttention(nn.Module):
    """ECA: scale each channel by a sigmoid of the pooled values of it and its neighbours (Fig. 5a; Wang, CVPR 2020)."""

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)  # exported as GlobalAveragePool, which every opset and TensorRT supports
        # ECA's 1D convolution over the channels, written in 2D, because TensorRT 8.6 does not support 1D convolutions.
        self.mix = nn.Conv2d(1, 1, (kernel, 1), padding=(kernel // 2, 0), bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> the same
        pooled = self.pool(x).transpose(1, 2)  # (N, 1, C, 1)
        return x * self.mix(pooled).transpose(1, 2).sigmoid()  # (N, C, 1, 1) scales (N, C, H, W)


class BoundaryRefinement(nn.Module):
    """BR: a residual pair of 3×3 convolutions (Fig. 5b; Peng et al., CVPR 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_norm_relu(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> the same
        return x + self.second(self.first(x))


class DecoderBlock(nn.Module):
    """LinkNet's decoder block, then the skip by addition, then ECA and BR if they are enabled.

    The skip is added before the attention, because the paper uses attention to suppress noise from the skips.
    """

    def __init__(self, inputs: int, outputs: int, recipe: NetworkRecipe, *, refine: bool = True) -> None:
        super().__init__()
        middle = inputs // 4
        self.up = nn.Sequential(
            conv_norm_relu(inputs, middle, kernel=1),
            deconv_norm_relu(middle, middle),
            conv_norm_relu(middle, outputs, kernel=1),
        )
        self.attention = EfficientChannelAttention() if recipe.channel_attention else nn.Identity()
        self.refinement = BoundaryRefinement(outputs) if recipe.boundary_refinement and refine else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:  # (N, in, H, W) -> (N, out, 2H, 2W)
        x = self.up(x)
        if skip is not None:
            x = x + skip
        return self.refinement(self.attention(x))


def full_head() -> nn.Sequential:
    """Return the paper's head: (N, 64, H, W) -> logits (N, 1, 2H, 2W), two convolutions at full resolution."""
    return nn.Sequential(deconv_norm_relu(64, 32), conv_norm_relu(32, 32), nn.Conv2d(32, 1, 3, padding=1))


def light_head() -> nn.Sequential:
    """Return a head that computes at half resolution: (N, 64, H, W) -> logits (N, 1, 2H, 2W).

    Its last convolution has one channel for each of the 2×2 pixels (sub-pixel convolution; Shi et al., CVPR 2016).
    """
    return nn.Sequential(conv_norm_relu(64, 32), nn.Conv2d(32, 4, 3, padding=1), nn.PixelShuffle(2))


class MSALNet(nn.Module):
    """MSAL-Net. Takes normalised RGB float[N,3,H,W], H and W multiples of 32; returns logits float[N,1,H,W]::

        network = MSALNet(NetworkRecipe(backbone="resnet34"))
        logits = network(torch.zeros(1, 3, 512, 512))

    Args:
        recipe: The backbone, and which of the three blocks are enabled.
        resnet: A torchvision ResNet of that backbone with the initial weights; None for random weights.
    """

    def __init__(self, recipe: NetworkRecipe, resnet: models.ResNet | None = None) -> None:
        super().__init__()
        resnet = resnet or models.get_model(recipe.backbone, weights=None)
        c1, c2, c3, c4 = (64, 128, 256, 512) if recipe.backbone in ("resnet18", "resnet34") else (256, 512, 1024, 2048)
        self.in_block = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.encoder1, self.encoder2 = resnet.layer1, resnet.layer2
        self.encoder3, self.encoder4 = resnet.layer3, resnet.layer4
        self.dense_dilated = DenseDilatedConvolutions(c4) if recipe.dense_dilated else nn.Identity()
        self.decoder4 = DecoderBlock(c4, c3, recipe)
        self.decoder3 = DecoderBlock(c3, c2, recipe)
        self.decoder2 = DecoderBlock(c2, c1, recipe)
        self.decoder1 = DecoderBlock(c1, 64, recipe, refine=not recipe.light_decoder)
        self.head = light_head() if recipe.light_decoder else full_head()

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 512, 512)
        x = self.in_block(x)  # (N, 64, 128, 128)
        skip1 = self.encoder1(x)  # (N, 64, 128, 128)
        skip2 = self.encoder2(skip1)  # (N, 128, 64, 64)
        skip3 = self.encoder3(skip2)  # (N, 256, 32, 32)
        x = self.encoder4(skip3)  # (N, 512, 16, 16)
        x = self.dense_dilated(x)  # (N, 512, 16, 16)
        x = self.decoder4(x, skip3)  # (N, 256, 32, 32)
        x = self.decoder3(x, skip2)  # (N, 128, 64, 64)
        x = self.decoder2(x, skip1)  # (N, 64, 128, 128)
        x = self.decoder1(x)  # (N, 64, 256, 256)
        return self.head(x)  # (N, 1, 512, 512)


class Normalise(nn.Module):
    """(x − mean) / std per channel: float[N,3,H,W] of intensities 0…255 -> the same shape."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class DeployedNetwork(nn.Module):
    """A network with the input and output of the specification: uint8[N,H,W,3] RGB -> float32[N,1,H,W] probability."""

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        # Cast before the transpose: TensorRT cannot transpose uint8.
        x = image.to(self.normalise.mean.dtype).permute(0, 3, 1, 2)
        logits = self.network(self.normalise(x))
        # Only if needed: tracing would write a Cast without effect.
        return (logits if logits.dtype == torch.float32 else logits.float()).sigmoid()
