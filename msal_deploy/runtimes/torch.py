"""PyTorch in eager mode: the reference that other engines are compared with."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from msal_deploy.bundle import CHECKPOINT
from msal_deploy.checkpoint import load_checkpoint
from msal_deploy.network import DeployedNetwork
from msal_deploy.runtimes.base import Engine
from msal_deploy.spec import Float32Maps, UInt8Images


class TorchEngine(Engine):
    """Runs the bundle's checkpoint in torch's default memory layout, on a CUDA GPU if there is one."""

    runtime = "torch"

    def _open(self) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = load_checkpoint(self.bundle.file(CHECKPOINT)).network()
        self._network = DeployedNetwork(network, self.spec).eval().to(self._device)

    @torch.inference_mode()
    def _infer(self, images: UInt8Images) -> Float32Maps:
        # FP32 means FP32: TF32 keeps only ten bits of the mantissa.
        with torch.backends.cudnn.flags(allow_tf32=False), _threads(self._cpu_threads):
            probability: Float32Maps = (
                self._network(torch.from_numpy(np.require(images, requirements="W")).to(self._device)).cpu().numpy()
            )
        return probability

    def _close(self) -> None:
        del self._network


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Limit torch to `count` threads: its setting is global, and several engines may be open."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
