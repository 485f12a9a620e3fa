"""What a network costs: parameters, and floating-point operations for one image."""

import copy

import msgspec
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(msgspec.Struct, frozen=True):
    """The cost of one image.

    Attributes:
        parameters: learned numbers; batch norms' running statistics are none.
        gflop: 10⁹ floating-point operations of the convolutions and matrix products, as torch's counter has them: a
            multiplication and an addition are two. Norms, activations, pooling and resizing are not counted.
    """

    parameters: int
    gflop: float


def cost(network: nn.Module, height: int = 512, width: int = 512) -> Cost:
    """Count on torch's meta device, where nothing is computed; `network` takes float[N,3,H,W] and stays as it is."""
    shadow = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, 3, height, width, device="meta"))
    return Cost(sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() / 1e9)
