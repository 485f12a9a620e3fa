"""Convolutions whose weights are shared between several uses, as in CE-Net and BiO-Net."""

from torch import Tensor, nn


class SharedConv(nn.Module):
    """One convolution with a batch norm for each of its uses. Called with the input and the index of the use.

    The running statistics of a shared norm would fit none of its inputs.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, uses: int) -> None:
        super().__init__()
        self.conv = conv
        self.norms = nn.ModuleList(nn.BatchNorm2d(conv.out_channels) for _ in range(uses))

    def forward(self, x: Tensor, use: int) -> Tensor:
        return self.norms[use](self.conv(x))


def shared_conv(inputs: int, outputs: int, uses: int, kernel: int = 3, dilation: int = 1) -> SharedConv:
    """Return a shared convolution that preserves height and width."""
    padding = dilation * (kernel // 2)
    return SharedConv(nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False), uses)


def shared_deconv(channels: int, uses: int) -> SharedConv:
    """Return a shared 3×3 transposed convolution that doubles height and width."""
    return SharedConv(
        nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1, bias=False), uses
    )
