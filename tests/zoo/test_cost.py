"""Parameters and FLOP against numbers worked out by hand."""

import pytest
from torch import nn

from msal_deploy.zoo.cost import Cost, cost


def test_a_multiplication_and_an_addition_are_two():
    conv = nn.Conv2d(3, 8, 3, padding=1)
    assert cost(conv, 64, 32) == Cost(3 * 8 * 9 + 8, pytest.approx(2 * 3 * 8 * 9 * 64 * 32 / 1e9))


def test_a_transposed_convolution_works_at_its_inputs_places():
    deconv = nn.ConvTranspose2d(3, 8, 2, stride=2)
    assert cost(deconv, 64, 32).gflop == pytest.approx(2 * 3 * 8 * 4 * 64 * 32 / 1e9)


def test_the_network_stays_as_it_is():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    cost(network)
    assert network.training
    assert network[0].weight.device.type == "cpu"
