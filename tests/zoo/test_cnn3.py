"""The dense network against the patch classifier that it stands for."""

import torch
from torch import nn
from torch.nn import functional

from msal_deploy.zoo.cnn3 import CNN3


def classify_patch(network: CNN3, patch: torch.Tensor) -> torch.Tensor:
    """Run the layers of `network` with strided pooling and no dilation: float[1,3,51,51] -> float[1,1,1,1]."""
    for block in (*network.features, *network.classify):
        if isinstance(block, nn.Sequential):
            patch = block[1:](functional.conv2d(patch, block[0].weight))
        elif isinstance(block, nn.Conv2d):
            patch = block(patch)
        else:
            patch = functional.max_pool2d(patch, 2)
    return patch


def test_a_pixel_gets_what_its_patch_gets():
    torch.manual_seed(0)
    network = CNN3()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        network.train()(image)
        dense = network.eval()(image)
        padded = functional.pad(image, (25, 25, 25, 25), mode="reflect")
        for y, x in ((0, 0), (17, 40), (31, 32), (63, 63)):
            patch = padded[:, :, y : y + 51, x : x + 51]
            torch.testing.assert_close(classify_patch(network, patch)[0, 0], dense[0, 0, y, x].view(1, 1))
