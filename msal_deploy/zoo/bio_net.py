"""BiO-Net (Xiang et al., MICCAI 2020): a U-Net that runs repeatedly; its decoder feeds the next run's encoder."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from msal_deploy.network import conv_norm_relu
from msal_deploy.zoo.blocks import shared_conv, shared_deconv

WIDTHS = (32, 64, 128, 256, 512)


class Encoder(nn.Module):
    """One level of the encoder: two convolutions compute the forward skip, a third and a pooling lead down."""

    def __init__(self, inputs: int, outputs: int, runs: int) -> None:
        super().__init__()
        self.first = shared_conv(2 * inputs, inputs, runs)
        self.second = shared_conv(inputs, inputs, runs)
        self.down = shared_conv(inputs, outputs, runs)

    def forward(self, x: Tensor, backward: Tensor, run: int) -> tuple[Tensor, Tensor]:
        x = self.first(torch.cat([x, backward], dim=1), run).relu()  # twice (N, C, H, W) -> (N, C, H, W)
        skip = self.second(x, run).relu()
        return functional.max_pool2d(self.down(skip, run).relu(), 2), skip  # (N, 2C, H/2, W/2), (N, C, H, W)


class Decoder(nn.Module):
    """One level of the decoder: two convolutions compute the backward skip, a transposed one leads up."""

    def __init__(self, inputs: int, outputs: int, runs: int) -> None:
        super().__init__()
        self.first = shared_conv(inputs + outputs, outputs, runs)
        self.second = shared_conv(outputs, outputs, runs)
        self.up = shared_deconv(outputs, runs)

    def forward(self, x: Tensor, skip: Tensor, run: int) -> tuple[Tensor, Tensor]:
        x = self.first(torch.cat([x, skip], dim=1), run).relu()  # (N, 2C, H, W) and (N, C, H, W) -> (N, C, H, W)
        backward = self.second(x, run).relu()
        return self.up(backward, run).relu(), backward  # (N, C, 2H, 2W), (N, C, H, W)


class BiONet(nn.Module):
    """BiO-Net with four levels and three runs: 15 M parameters. Without the paper's INT, which joins all runs' outputs.

    Known from the authors' code: the structure and the channels; the first run uses its own input as backward skip;
    every run starts from the same features and has separate batch norms (everywhere in their Keras version, except at
    the bottom in their PyTorch version). Changed: they apply ReLU before batch norm; we use convolution, norm, ReLU as
    elsewhere in this package, so that norms can be folded into convolutions. An exported graph unrolls the runs, each
    with a copy of the weights that has its norms folded in: 154 MB.
    """

    def __init__(self, runs: int = 3) -> None:
        super().__init__()
        first, deepest = WIDTHS[0], WIDTHS[-1]
        self.runs = runs
        self.stem = nn.Sequential(conv_norm_relu(3, first), *(conv_norm_relu(first, first) for _ in range(2)))
        self.encoders = nn.ModuleList(Encoder(inputs, outputs, runs) for inputs, outputs in pairwise(WIDTHS))
        self.bottom1 = shared_conv(deepest, deepest, runs)
        self.bottom2 = shared_conv(deepest, deepest, runs)
        self.bottom_up = shared_deconv(deepest, runs)
        self.decoders = nn.ModuleList(Decoder(inputs, outputs, runs) for inputs, outputs in pairwise(reversed(WIDTHS)))
        self.head = nn.Sequential(*(conv_norm_relu(first, first) for _ in range(2)), nn.Conv2d(first, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 512, 512)
        start = x = functional.max_pool2d(self.stem(x), 2)  # (N, 32, 256, 256)
        backwards: list[Tensor] = []
        for run in range(self.runs):
            x, backwards = self.run(start, backwards, run)
        return self.head(x)  # (N, 1, 512, 512)

    def run(self, x: Tensor, backwards: list[Tensor], run: int) -> tuple[Tensor, list[Tensor]]:
        """Run down and up once: (N, 32, 256, 256) -> (N, 32, 512, 512) and the backward skips, shallowest first."""
        skips: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            x, skip = encoder(x, backwards[level] if backwards else x, run)
            skips.append(skip)
        x = self.bottom1(x, run).relu()  # (N, 512, 16, 16)
        x = self.bottom2(x, run).relu()  # (N, 512, 16, 16)
        x = self.bottom_up(x, run).relu()  # (N, 512, 32, 32)
        backwards = []
        for decoder in self.decoders:
            x, backward = decoder(x, skips.pop(), run)
            backwards.insert(0, backward)
        return x, backwards
