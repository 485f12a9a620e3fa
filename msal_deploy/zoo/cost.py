"""Parameters of a network, and its floating-point operations for one image."""

import copy

import msgspec
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(msgspec.Struct, frozen=True):
    """The cost of one image.

    Attributes:
        parameters: Learned parameters, without the running statistics of batch norms.
        gflop: 10⁹ floating-point operations of convolutions and matrix products by torch's counter: a multiplication
            and an addition count as two. Norms, activations, pooling and resizing are not counted.
    """

    parameters: int
    gflop: float


def cost(network: nn.Module, height: int = 512, width: int = 512) -> Cost:
    """Return the cost of a network that takes float[N,3,H,W], counted on torch's meta device, without computing::

    cost(build_network(NetworkRecipe())).gflop  # 68.7
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, 3, height, width, device="meta"))
    return Cost(sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() / 1e9)
