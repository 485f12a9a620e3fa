"""Separate touching nuclei in a probability map: one label for each nucleus."""

import msgspec
import numpy as np
from numpy.typing import NDArray


class Separation(msgspec.Struct, frozen=True):
    """The parameters of `separate`; lengths in µm and areas in µm². The defaults were chosen on MoNuSeg's training images."""

    min_area: float = 3.0


def separate(
    probability: NDArray[np.float32],
    *,
    threshold: float = 0.5,
    microns_per_pixel: float = 0.25,
    parameters: Separation | None = None,
) -> NDArray[np.int32]:
    """Return int32[H,W]: 0 for background, 1 to N for the nuclei of a probability map float32[H,W]."""
    raise NotImplementedError
