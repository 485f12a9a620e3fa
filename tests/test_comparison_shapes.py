"""The shapes at which export compares torch with ONNX Runtime fit into memory."""

import pytest
import torch

from msal_deploy import export


@pytest.mark.parametrize(
    ("channels", "shapes"),
    [
        (64, [(batch, *size) for size in export.SIZES for batch in export.BATCHES]),
        (
            1024,  # 4096 bytes for each pixel: 131,072 pixels in all images of a call
            [(1, 256, 256), (2, 256, 256), (5, 128, 128), (1, 384, 256), (2, 192, 128), (5, 192, 128)],
        ),
    ],
)
def test_shapes_to_compare_are_smaller_for_networks_with_huge_activations(channels, shapes):
    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.widen = torch.nn.Conv2d(3, channels, 1)

        def forward(self, images):
            return self.widen(images.permute(0, 3, 1, 2) / 255)

    assert export.comparison_shapes(Wide()) == shapes
