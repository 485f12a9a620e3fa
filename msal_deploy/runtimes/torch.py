"""PyTorch: eager in FP32, the reference that other engines are compared with, and the baselines for their speed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from msal_deploy.bundle import CHECKPOINT
from msal_deploy.checkpoint import load_checkpoint
from msal_deploy.errors import MissingRequirement
from msal_deploy.network import DeployedNetwork
from msal_deploy.runtimes.base import Engine
from msal_deploy.spec import Float32Maps, UInt8Images

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MAX_COMPILED_SHAPES = 64  # PyTorch's default is 8; beyond its limit, it runs a new shape without compiling


class TorchEngine(Engine):
    """Runs the bundle's checkpoint in eager mode, on a CUDA GPU if there is one.

    ``fp32`` is the reference: PyTorch's default memory layout, and no TF32. ``fp16`` and ``bf16`` convert the weights,
    and use the layout ``channels_last``, which is the faster one for them.
    """

    runtime = "torch"

    def _open(self) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = load_checkpoint(self.bundle.file(CHECKPOINT)).network()
        deployed = DeployedNetwork(network, self.spec).eval().to(self._device, DTYPES[self.precision])
        self._network = self._prepared(deployed)

    def _prepared(self, network: DeployedNetwork) -> Callable[[torch.Tensor], torch.Tensor]:
        return network if self.precision == "fp32" else _channels_last(network)

    @torch.inference_mode()
    def _infer(self, images: UInt8Images) -> Float32Maps:
        # FP32 means FP32: TF32 keeps only ten bits of the mantissa. Without `enabled`, the context turns cuDNN off.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), _threads(self._cpu_threads):
            probability: Float32Maps = (
                self._network(torch.from_numpy(np.require(images, requirements="W")).to(self._device)).cpu().numpy()
            )
        return probability

    def _close(self) -> None:
        del self._network


class TorchChannelsLastEngine(TorchEngine):
    """Runs the checkpoint in eager mode and FP32, in the layout ``channels_last``, the easiest step beyond the default.

    ``torch:fp16`` and ``torch:bf16`` use this layout as well.
    """

    runtime = "torch-channels-last"

    def _prepared(self, network: DeployedNetwork) -> Callable[[torch.Tensor], torch.Tensor]:
        return _channels_last(network)


class TorchCompileEngine(TorchEngine):
    """Runs the checkpoint with ``torch.compile``, which compiles it for each shape of images on first use.

    That takes a minute on a CPU, and needs a C++ compiler there.
    """

    runtime = "torch-compile"

    def _prepared(self, network: DeployedNetwork) -> Callable[[torch.Tensor], torch.Tensor]:
        compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(
            _channels_last(network), fullgraph=True, dynamic=False
        )
        return compiled

    def _infer(self, images: UInt8Images) -> Float32Maps:
        from torch._dynamo import config
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            with config.patch(recompile_limit=MAX_COMPILED_SHAPES, fail_on_recompile_limit_hit=True):
                return super()._infer(images)
        except Exception as error:
            if not isinstance(getattr(error, "inner_exception", None), InvalidCxxCompiler):
                raise
            raise MissingRequirement("torch.compile found no C++ compiler", "install one: apt install g++") from error


def _channels_last(network: DeployedNetwork) -> DeployedNetwork:
    return network.to(memory_format=torch.channels_last)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Limit torch to `count` threads: its setting is global, and several engines may be open."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
