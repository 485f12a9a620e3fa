"""PyTorch's engines besides the reference: they compute in the precision of their name, and compile every shape."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from msal_deploy.bundle import Bundle
from msal_deploy.errors import MissingRequirement
from msal_deploy.export import example_images
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes import torch as module

pytestmark = pytest.mark.usefixtures("one_torch_thread", "small")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[nn.Conv2d]]:
    """A network that compiles in seconds instead of the checkpoint's; yields the convolution of each that is made."""

    def network() -> nn.Sequential:
        torch.manual_seed(0)
        made.append(nn.Conv2d(3, 1, 3, padding=1))
        return nn.Sequential(made[-1])

    made: list[nn.Conv2d] = []
    monkeypatch.setattr(module, "load_checkpoint", lambda path: SimpleNamespace(network=network))
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("precision", "dtype", "apart"), [("fp16", torch.float16, 2e-3), ("bf16", torch.bfloat16, 2e-2)]
)
def test_eager_pytorch_computes_in_the_precision_of_its_name(
    bundle: Bundle, small: list[nn.Conv2d], precision: str, dtype: torch.dtype, apart: float
) -> None:
    images = example_images(2, 64, 96)
    with open_engine(bundle, "torch:fp32") as engine:
        expected = engine(images)
    with open_engine(bundle, f"torch:{precision}") as engine:
        found = engine(images)
    assert [one.weight.dtype for one in small] == [torch.float32, dtype]
    assert found.dtype == np.float32
    assert 1e-6 < np.abs(found - expected).max() < apart


def test_every_shape_is_compiled_once_and_none_falls_back_to_eager(bundle: Bundle) -> None:
    """PyTorch itself stops compiling at the eighth shape, and says nothing."""
    sizes = [32 * step for step in range(1, 11)]
    counters.clear()
    with open_engine(bundle, "torch:fp32") as eager, open_engine(bundle, "torch-compile:fp32") as compiled:
        for size in (*sizes, *sizes):
            images = example_images(1, size, 32)
            np.testing.assert_allclose(compiled(images), eager(images), rtol=0, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == len(sizes)


def test_a_missing_compiler_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(config, "fx_graph_cache", False)
    expected = pytest.raises(MissingRequirement, match=r"found no C\+\+ compiler; install one")
    with open_engine(bundle, "torch-compile:fp32") as engine, expected:
        engine(example_images(1, 32, 64))
