"""CNN3 (Kumar et al., IEEE TMI 2017): a patch classifier, here as one dense network over the whole image."""

import torch
from torch import Tensor, nn


def conv_norm_relu_valid(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution without padding, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class DenseMaxPool2(nn.Module):
    """2×2 max-pooling at every place: the largest of four values that are `dilation` apart.

    As two maxima of shifted images: TensorRT's MaxPool has no dilation.
    """

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H - dilation, W - dilation)
        x = torch.maximum(x[:, :, : -self.dilation], x[:, :, self.dilation :])
        return torch.maximum(x[:, :, :, : -self.dilation], x[:, :, :, self.dilation :])


class CNN3(nn.Module):
    """CNN3, which says of the middle of a 51×51 patch whether it is nucleus, as logits for every pixel at once.

    In place of a patch a pixel, the strides of the three poolings become dilations of all that follows (à trous; Giusti
    et al., ICIP 2013). What a pixel gets is exactly what the network would say of the patch around it, mirrored at the
    image's edge as in the authors' code, and neighbours share their work: 0.82 TFLOP for a 512×512 image, where its
    262,144 patches one by one would take 10.6. Two thirds of that are the second hidden layer, 1024 × 1024 at every
    pixel, whose activations take 1 GiB in float32.

    Known, from the authors' code: 25, 50 and 80 filters of 4×4, 5×5 and 6×6, 2×2 max-pooling after each, two hidden
    layers of 1024, ReLU. The last pooling rounds down, so of the 51 rows and columns the last 4 never count. Changed:
    batch norm in place of dropout, which that code calls mostly redundant with it; and one logit, nucleus or not, in
    place of the three classes inside, boundary and outside: the boundary is there to split touching nuclei, and needs
    targets of its own.
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
