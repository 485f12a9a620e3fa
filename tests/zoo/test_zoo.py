"""Every network: shapes, size, batch norms, batch invariance, and the exported graph against torch."""

import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from msal_deploy.errors import BadInput
from msal_deploy.export import example_images, write_graph
from msal_deploy.graph import check_graph
from msal_deploy.network import DeployedNetwork
from msal_deploy.recipe import NetworkRecipe
from msal_deploy.spec import ModelSpec
from msal_deploy.zoo import MODELS, build_network

FROM_SMP = {"unet-resnet", "linknet"}
# Millions of parameters. Published: U-Net 31.0, CE-Net 29.0, BiO-Net 15.0, LinkNet 11.5; the rest as built here.
MILLIONS = {
    "unet-resnet": (24.4, 24.5), "linknet": (11.4, 11.8), "unet": (31.0, 31.1), "ce-net": (28.9, 29.1),
    "attention-unet": (31.5, 35.0), "bio-net": (14.9, 15.1), "asspu-net": (11.8, 12.0), "mdc-net": (22.4, 22.6),
    "cnn3": (1.5, 1.6),
}  # fmt: skip
SHAPES = ((1, 64, 64), (2, 64, 96), (1, 256, 256))
CONVS = (nn.Conv2d, nn.ConvTranspose2d)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=sorted(MILLIONS))
def network(request):
    """A network with random weights whose batch norms have seen images, in evaluation mode.

    The norms' positive biases keep most ReLUs open. Without them a random network 70 convolutions deep is chaotic:
    float32 and float64 differ by 3e-3 in torch alone, and nothing could be compared.
    """
    if request.param in FROM_SMP:
        pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    network = build_network(NetworkRecipe(model=request.param))
    network.name = request.param
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias, mean=0.5, std=0.2)
    with torch.no_grad():
        DeployedNetwork(network, ModelSpec()).train()(torch.from_numpy(example_images(2, 64, 64, seed=1)))
    assert any(norm.running_mean.abs().max() > 0 for norm in norms)
    return network.eval()


@pytest.fixture(scope="module")
def session(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    write_graph(DeployedNetwork(network, ModelSpec()).eval(), ModelSpec(), path, 17)
    check_graph(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    path.unlink()  # pytest keeps its folders, and these graphs are 1 GB together
    return session


def probability(network, images):
    with torch.inference_mode():
        return DeployedNetwork(network, ModelSpec()).eval()(torch.from_numpy(images)).numpy()


def test_every_name_of_the_recipe_is_here():
    assert set(MODELS) == set(MILLIONS) | {"msal-net"}


def test_logits_have_one_channel_at_the_images_size(network):
    with torch.inference_mode():
        for batch, height, width in ((1, 32, 32), (2, 96, 64)):
            logits = network(torch.randn(batch, 3, height, width))
            assert logits.shape == (batch, 1, height, width)
            assert logits.isfinite().all()


def test_parameters(network):
    low, high = MILLIONS[network.name]
    assert low < sum(parameter.numel() for parameter in network.parameters()) / 1e6 < high


@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_computes_the_same(network, session, shape):
    images = example_images(*shape, seed=2)
    expected = probability(network, images)
    (got,) = session.run(None, {"image": images})
    assert expected.std() > 0.01, "the same everywhere: nothing is compared"
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4


def test_a_batch_of_two_is_two_batches_of_one(network):
    images = example_images(2, 64, 64, seed=3)
    apart = np.concatenate([probability(network, image[None]) for image in images])
    assert np.abs(probability(network, images) - apart).max() <= 1e-5


def test_every_convolution_but_the_last_has_its_batch_norm(network):
    outputs, normed, hooks = [], set(), []
    for module in network.modules():
        if isinstance(module, CONVS):
            hooks.append(module.register_forward_hook(lambda conv, _, out: outputs.append((conv, out))))
        if isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(lambda _, args: normed.add(id(args[0]))))
    with torch.inference_mode():
        network(torch.randn(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    bare = [conv for conv, out in outputs if id(out) not in normed]
    assert len(bare) == 1
    assert bare[0] is outputs[-1][0]


def test_a_checkpoint_holds_each_tensor_once(network):
    state = network.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state), "safetensors refuses shared tensors"


def test_unknown_name():
    with pytest.raises(BadInput, match="did you mean 'linknet'"):
        build_network(NetworkRecipe(model="link-net"))


def test_only_networks_from_a_package_need_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    build_network(NetworkRecipe(model="cnn3"))
    with pytest.raises(ModuleNotFoundError) as error:
        build_network(NetworkRecipe(model="linknet"))
    assert error.value.name == "segmentation_models_pytorch"
