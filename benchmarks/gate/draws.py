"""Simulated differences of an engine, with a known mean: images whose patches are correlated."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

PATCHES = 4  # of an image: the corners
Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]

# Each has mean 0 and standard deviation 1.
FAMILIES: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "skewed": lambda rng, shape: 1 - rng.exponential(size=shape),  # a few images lose much
    "heavy-tailed": lambda rng, shape: rng.standard_t(3, size=shape) / np.sqrt(3),
}


def image_sets(
    family: str, sets: int, images: int, correlation: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return float[sets, images, 4]: differences with mean 0, whose means over an image have the deviation 1.

    Args:
        family: A name of `FAMILIES`; the images differ so, and so do the patches of an image.
        sets: Number of simulated validation sets.
        images: Number of images of each.
        correlation: Of two patches of one image, from 0 to 1.
        rng: Random generator.
    """
    draw = FAMILIES[family]
    of_image, of_patch = draw(rng, (sets, images, 1)), draw(rng, (sets, images, PATCHES))
    deltas = np.sqrt(correlation) * of_image + np.sqrt(1 - correlation) * of_patch
    return deltas / np.sqrt(correlation + (1 - correlation) / PATCHES)


def unequal_sets(
    family: str, sets: int, sizes: Sequence[int], correlation: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return float[sets, sum of sizes]: the same with another number of patches for each image."""
    draw = FAMILIES[family]
    of_image = np.repeat(draw(rng, (sets, len(sizes))), sizes, axis=1)
    deltas = np.sqrt(correlation) * of_image + np.sqrt(1 - correlation) * draw(rng, of_image.shape)
    return deltas / np.sqrt(correlation + (1 - correlation) / PATCHES)


class Catastrophe(msgspec.Struct, frozen=True):
    """An engine that loses nothing but on a share of the images, which it ruins.

    Attributes:
        share: Of the images that are ruined.
        loss: Dice that a ruined image loses.
    """

    share: float
    loss: float

    @property
    def mean_loss(self) -> float:
        """Mean loss of Dice over all images."""
        return self.share * self.loss

    def sets(
        self, sets: int, images: int, spread: float, correlation: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return float[sets, images, 4] in Dice; `spread` is the deviation of the image means that are not ruined."""
        ruined = rng.random((sets, images, 1)) < self.share
        return spread * image_sets("normal", sets, images, correlation, rng) - self.loss * ruined


CATASTROPHES = (Catastrophe(0.1, 0.1), Catastrophe(0.1, 0.03), Catastrophe(0.02, 0.03))
