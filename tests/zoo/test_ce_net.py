"""The pooling of CE-Net at grids that its windows do not tile."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from msal_deploy.export import example_images, write_graph
from msal_deploy.network import DeployedNetwork
from msal_deploy.runtimes.openvino import CORE
from msal_deploy.spec import ModelSpec
from msal_deploy.zoo.ce_net import CENet, ResidualMultiKernelPooling, max_pool_up


@pytest.mark.parametrize("kernel", ResidualMultiKernelPooling.KERNELS)
@pytest.mark.parametrize("size", [(1, 2), (2, 3), (14, 14), (16, 16), (30, 60)])
def test_the_last_window_is_smaller(kernel, size):
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(max_pool_up(x, kernel), functional.max_pool2d(x, kernel, ceil_mode=True))


def test_openvino_pools_a_grid_smaller_than_the_window(tmp_path):
    torch.manual_seed(0)
    network, images = DeployedNetwork(CENet(), ModelSpec()).eval(), example_images(1, 64, 96)
    write_graph(network, ModelSpec(), tmp_path / "model.onnx", 17)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = CORE.compile_model(CORE.read_model(tmp_path / "model.onnx"), "CPU", settings)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(compiled(images)[0], expected, atol=1e-4)
