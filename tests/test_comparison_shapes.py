"""The shapes at which export compares torch with ONNX Runtime fit into memory."""

import pytest
import torch

from msal_deploy import export


class Wide(torch.nn.Module):
    """Keeps many channels at full resolution."""

    def __init__(self, channels):
        super().__init__()
        self.widen = torch.nn.Conv2d(3, channels, 1)

    def forward(self, images):
        return self.widen(images.permute(0, 3, 1, 2) / 255)


class Skipping(Wide):
    """Joins two activations, as a U-Net does, before it narrows them."""

    def __init__(self, channels):
        super().__init__(channels)
        self.narrow = torch.nn.Conv2d(2 * channels, 1, 1)

    def forward(self, images):
        wide = super().forward(images)
        return self.narrow(torch.cat([wide, wide], dim=1))


@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (Wide(64), [(batch, *size) for size in export.SIZES for batch in export.BATCHES]),
        (
            Wide(1024),  # 4096 bytes for each pixel: 131,072 pixels in all images of a call
            [(1, 256, 256), (2, 256, 256), (5, 128, 128), (1, 384, 256), (2, 192, 128), (5, 192, 128)],
        ),
        (
            Skipping(64),  # 2 · 64 channels are 512 bytes for each pixel: 1,048,576 pixels; 5 · 512 · 512 are more
            [
                *[(1, 256, 256), (2, 256, 256), (5, 256, 256), (1, 512, 512), (2, 512, 512)],
                *[(1, 768, 512), (2, 768, 512), (5, 384, 256)],
            ],
        ),
    ],
)
def test_shapes_to_compare_are_smaller_for_networks_with_huge_activations(network, shapes):
    assert export.comparison_shapes(network) == shapes


def test_what_goes_into_a_layer_counts_as_an_activation():
    assert export._bytes_per_pixel(Wide(8)) == 32  # 8 channels of 4 bytes
    assert export._bytes_per_pixel(Skipping(8)) == 64  # 16 channels of 4 bytes, which only the last layer sees
