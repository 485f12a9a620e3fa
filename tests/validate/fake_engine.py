"""Fake engines for the checks: the probability is the first channel of the image, or what a function makes of it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from msal_deploy.runtimes import Engine
from msal_deploy.spec import ModelSpec


def first_channel(images):
    """uint8[N,H,W,3] -> float32[N,1,H,W], in steps of 1/256."""
    return images[..., 0][:, None].astype(np.float32) / 256


class Fake(Engine):
    """An engine of a runtime on the CPU in FP32.

    Args:
        compute: uint8[N,H,W,3] -> float32[N,1,H,W].
        engine_id: Its runtime need not be installed.
        profile: Shapes that it takes; None for all.
        folder: Of its bundle.
    """

    runtime = "torch"

    def __init__(self, compute=first_channel, engine_id="torch:fp32", profile=None, folder="bundle", spec=None):
        self.runtime, _, precision = engine_id.partition(":")
        super().__init__(SimpleNamespace(spec=spec or ModelSpec(), path=Path(folder)), precision)
        self.compute, self._profile, self.shapes = compute, profile, []

    @property
    def profile(self):
        return self._profile

    def _open(self):
        pass

    def _infer(self, images):
        self.shapes.append(images.shape[:3])
        return self.compute(images)

    def _close(self):
        pass


def noise(*shape, seed=0):
    """Random images uint8[…,3]."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
