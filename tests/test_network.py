"""MSAL-Net has the shapes, sizes and blocks of the paper, and weights that are given to it arrive."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.transforms.v2.functional import normalize

from msal_deploy.checkpoint import pretrained_resnet
from msal_deploy.network import (
    BoundaryRefinement,
    DenseDilatedConvolutions,
    DeployedNetwork,
    EfficientChannelAttention,
    MSALNet,
    Normalise,
)
from msal_deploy.recipe import NetworkRecipe
from msal_deploy.spec import ModelSpec

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def configuration(backbone: str, blocks: str) -> NetworkRecipe:
    return NetworkRecipe(
        backbone=backbone,
        weights="random",
        dense_dilated="DDC" in blocks,
        channel_attention="ECA" in blocks,
        boundary_refinement="BR" in blocks,
    )


# The rows of Table 1 but its first, which is a U-Net.
TABLE_1 = [
    ("resnet34", ""),
    ("resnet18", "DDC"),
    ("resnet34", "DDC"),
    ("resnet34", "ECA"),
    ("resnet34", "ECA BR"),
    ("resnet34", "DDC ECA"),
    ("resnet18", "DDC ECA BR"),
    ("resnet34", "DDC ECA BR"),
    ("resnet50", "DDC ECA BR"),
    ("resnet101", "DDC ECA BR"),
]


@pytest.mark.parametrize(("backbone", "blocks"), TABLE_1)
def test_rows_of_table_1_give_one_logit_a_pixel(backbone, blocks):
    with torch.device("meta"):  # shapes without the arithmetic
        network = MSALNet(configuration(backbone, blocks)).eval()
        assert network(torch.empty(2, 3, 512, 512)).shape == (2, 1, 512, 512)


def test_blocks_are_what_the_rows_differ_in():
    with torch.device("meta"):
        sizes = {row: sum(p.numel() for p in MSALNet(configuration(*row)).parameters()) for row in TABLE_1}
    assert len(set(sizes.values())) == len(TABLE_1)
    assert sizes["resnet34", ""] < sizes["resnet34", "ECA"] < sizes["resnet34", "ECA BR"]
    assert sizes["resnet34", "ECA"] == sizes["resnet34", ""] + 4 * 3  # a kernel of 3 in each of 4 decoder blocks


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [("resnet18", 21_292_205), ("resnet34", 31_400_365), ("resnet50", 183_671_917), ("resnet101", 202_664_045)],
)
def test_number_of_parameters(backbone, parameters):
    with torch.device("meta"):
        network = MSALNet(NetworkRecipe(backbone=backbone))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("size", [(32, 32), (32, 96), (128, 64), (160, 32)])
def test_multiples_of_32_give_finite_logits(size):
    network = MSALNet(configuration("resnet18", "DDC ECA BR")).eval()
    with torch.no_grad():
        logits = network(torch.randn(1, 3, *size))
    assert logits.shape == (1, 1, *size)
    assert logits.isfinite().all() and logits.std() > 0


def test_every_pixel_of_the_input_reaches_the_output():
    network = MSALNet(configuration("resnet18", "DDC ECA BR")).eval()
    image = torch.randn(1, 3, 64, 96, requires_grad=True)
    network(image).sum().backward()
    assert (image.grad != 0).all()


def test_every_parameter_is_trained():
    network = MSALNet(configuration("resnet18", "DDC ECA BR")).train()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def convolutions(block: nn.Module) -> list[str]:
    return [name for name, module in block.named_modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("name", convolutions(DenseDilatedConvolutions(8)))
def test_every_convolution_in_ddc_has_its_batch_norm(name):
    """A norm takes back what a factor on the weights before it does; without one the activations grow with it."""
    torch.manual_seed(0)
    block = DenseDilatedConvolutions(8).double().train()
    image = torch.randn(2, 8, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.eps = 1e-12
        before = block(image)
        block.get_submodule(name).weight.mul_(1000)
        torch.testing.assert_close(block(image), before, rtol=1e-6, atol=1e-6)


def test_ddc_has_a_norm_for_each_use_of_a_convolution():
    block = DenseDilatedConvolutions(8)
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == len(convolutions(block)) + 1  # the convolution of rate 3 is used on two inputs


def test_receptive_fields_of_ddc_are_3_7_9_and_19():
    block = DenseDilatedConvolutions(2).eval()
    branches: list[torch.Tensor] = []
    for point in block.points:
        point.register_forward_pre_hook(lambda _, inputs: branches.append(inputs[0]))
    for name in convolutions(block):
        nn.init.ones_(block.get_submodule(name).weight)
    image = torch.ones(1, 2, 41, 41, requires_grad=True)
    block(image)
    fields = []
    for branch in branches:
        (gradient,) = torch.autograd.grad(branch[0, :, 20, 20].sum(), image, retain_graph=True)
        rows, columns = gradient[0].sum(0).nonzero().unbind(1)
        assert rows.min() + rows.max() == 40  # centred
        assert torch.equal(rows.unique(), columns.unique())
        fields.append(int(rows.max() - rows.min()) + 1)
    assert fields == [3, 7, 9, 19]


def test_ddc_is_added_to_its_input():
    block = DenseDilatedConvolutions(4).eval()
    for point in block.points:
        nn.init.zeros_(point[0].weight)
    image = torch.randn(1, 4, 16, 16)
    torch.testing.assert_close(block(image), image)


def test_eca_is_a_convolution_over_the_channels():
    torch.manual_seed(0)
    attention = EfficientChannelAttention(kernel=3)
    image = torch.randn(3, 10, 8, 12)
    (weight,) = attention.parameters()
    pooled = image.mean((2, 3))[:, None]  # (N, 1, C)
    scale = F.conv1d(pooled, weight.reshape(1, 1, 3), padding=1).sigmoid().reshape(3, 10, 1, 1)
    torch.testing.assert_close(attention(image), image * scale)


def test_boundary_refinement_is_residual():
    block = BoundaryRefinement(4).eval()
    nn.init.zeros_(block.second[0].weight)
    image = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(block(image), image)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34"])
def test_weights_of_a_local_resnet_arrive_in_the_encoder(backbone, tmp_path):
    torch.manual_seed(0)
    resnet = models.get_model(backbone, weights=None).eval()
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)  # buffers must arrive too
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    recipe = NetworkRecipe(backbone=backbone, weights=str(tmp_path / "resnet.pth"), dense_dilated=False)
    network = MSALNet(recipe, pretrained_resnet(recipe)).eval()
    features: list[torch.Tensor] = []
    network.encoder4.register_forward_hook(lambda *call: features.append(call[-1]))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        network(image)
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
        expected = resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(x))))
    torch.testing.assert_close(features[0], expected)


def test_normalise_is_torchvisions():
    spec = ModelSpec()
    image = torch.randint(0, 256, (2, 3, 8, 8)).float()
    torch.testing.assert_close(Normalise(spec)(image), normalize(image / 255, list(spec.mean), list(spec.std)))


def test_deployed_network_takes_bytes_and_gives_probabilities():
    spec = ModelSpec()
    network = MSALNet(configuration("resnet18", "ECA")).eval()
    image = torch.randint(0, 256, (2, 64, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        probability = DeployedNetwork(network, spec).eval()(image)
        x = normalize(image.permute(0, 3, 1, 2).float() / 255, list(spec.mean), list(spec.std))
        expected = network(x).sigmoid()
    assert probability.dtype == torch.float32 and probability.shape == (2, 1, 64, 32)
    torch.testing.assert_close(probability, expected, rtol=1e-4, atol=1e-5)


def test_constants_of_the_contract_are_no_weights():
    network = MSALNet(configuration("resnet18", ""))
    keys = DeployedNetwork(network, ModelSpec()).state_dict().keys()
    assert keys == {f"network.{key}" for key in network.state_dict()}
