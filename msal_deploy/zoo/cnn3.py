"""CNN3 (Kumar et al., IEEE TMI 2017): a patch classifier, implemented as one dense network over the whole image."""

import torch
from torch import Tensor, nn


def conv_norm_relu_valid(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Return a convolution without padding, a batch norm and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class DenseMaxPool2(nn.Module):
    """2×2 max-pooling at every position: the maximum of four values that are `dilation` apart.

    Implemented as two maxima of shifted images, because TensorRT's MaxPool does not support dilation.
    """

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H - dilation, W - dilation)
        x = torch.maximum(x[:, :, : -self.dilation], x[:, :, self.dilation :])
        return torch.maximum(x[:, :, :, : -self.dilation], x[:, :, :, self.dilation :])


class CNN3(nn.Module):
    """CNN3 classifies the centre of a 51×51 patch as nucleus or not; this version computes all pixels at once.

    The strides of the three poolings become dilations of all later layers (à trous; Giusti et al., ICIP 2013). Each
    pixel's logit equals that of the patch around it, with the image mirrored at its edges as in the authors' code.
    Neighbours share computation: 0.82 TFLOP for a 512×512 image instead of 10.6 for its 262,144 separate patches. Two
    thirds of that is the second hidden layer, 1024 × 1024 at every pixel, whose activations take 1 GiB in float32.

    Known from the authors' code: 25, 50 and 80 filters of 4×4, 5×5 and 6×6, 2×2 max-pooling after each, two hidden
    layers of 1024, ReLU. The last pooling rounds down, so the last 4 of the 51 rows and columns have no effect.
    Changed: batch norm instead of dropout, which that code calls mostly redundant with it; and one logit, nucleus or
    not, instead of the classes inside, boundary and outside: the boundary serves to split touching nuclei and needs
    separate targets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mirror = nn.ReflectionPad2d((25, 21, 25, 21))  # 47 rows and columns count: 25 before the pixel, 21 after
        self.features = nn.Sequential(
            conv_norm_relu_valid(3, 25, 4),  # in a patch (25, 48, 48)
            DenseMaxPool2(1),  # (25, 24, 24)
            conv_norm_relu_valid(25, 50, 5, dilation=2),  # (50, 20, 20)
            DenseMaxPool2(2),  # (50, 10, 10)
            conv_norm_relu_valid(50, 80, 6, dilation=4),  # (80, 5, 5)
            DenseMaxPool2(4),  # (80, 2, 2)
        )
        self.classify = nn.Sequential(
            conv_norm_relu_valid(80, 1024, 2, dilation=8),  # 1024
            conv_norm_relu_valid(1024, 1024, 1),  # 1024
            nn.Conv2d(1024, 1, 1),  # 1
        )

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 512, 512)
        x = self.features(self.mirror(x))  # (N, 3, 558, 558) -> (N, 80, 520, 520)
        return self.classify(x)  # (N, 1, 512, 512)
