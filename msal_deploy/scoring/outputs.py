"""Check what an engine returns before anything is computed from it."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput

ROUNDING = 1e-3  # FP16 rounds a probability near 1 by up to 5e-4


class OutputFindings(msgspec.Struct, frozen=True):
    """What is wrong with the probabilities of an engine. Findings of several calls can be added.

    >>> OutputFindings(pixels=100, not_finite=2) + OutputFindings(pixels=100, lowest=-4.5, highest=7.0)
    OutputFindings(pixels=200, not_finite=2, lowest=-4.5, highest=7.0)

    Attributes:
        pixels: Number of probabilities.
        not_finite: Number of them that are NaN or infinite.
        lowest: Smallest finite one; never above 0.
        highest: Largest finite one; never below 1.
    """

    pixels: int = 0
    not_finite: int = 0
    lowest: float = 0.0
    highest: float = 1.0

    def __add__(self, other: "OutputFindings") -> "OutputFindings":
        return OutputFindings(
            self.pixels + other.pixels,
            self.not_finite + other.not_finite,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """One sentence for each problem; empty if there is none.

        >>> OutputFindings(pixels=1000, not_finite=2, lowest=-4.5, highest=7.0).sentences
        ('2 of 1,000 probabilities are not finite',
         'Expected probabilities from 0 to 1, got -4.5 to 7; check that the graph ends in a sigmoid')
        """
        found = []
        if self.not_finite:
            found.append(f"{self.not_finite:,} of {self.pixels:,} probabilities are not finite")
        if self.lowest < -ROUNDING or self.highest > 1 + ROUNDING:
            reach = f"{self.lowest:.4g} to {self.highest:.4g}"
            found.append(f"Expected probabilities from 0 to 1, got {reach}; check that the graph ends in a sigmoid")
        return tuple(found)


def check_output(probability: Any, images: NDArray[np.uint8], *, engine: str = "the engine") -> OutputFindings:
    """Check the shape and the values that an engine returned for `images`.

    >>> images = np.zeros((1, 2, 2, 3), np.uint8)
    >>> check_output(np.full((1, 1, 2, 2), np.float32("nan")), images).sentences
    ('4 of 4 probabilities are not finite',)

    Args:
        probability: What the engine returned; float32[N,1,H,W] is expected.
        images: uint8[N,H,W,3], what it was given.
        engine: Its id, for the message.

    Raises:
        BadInput: The result has another shape or type, so it cannot be compared with anything.
    """
    batch, height, width = images.shape[:3]
    _require(probability, (batch, 1, height, width), engine)
    finite = np.isfinite(probability)
    count = int(np.count_nonzero(finite))
    low = float(np.min(probability, initial=0.0, where=finite))
    high = float(np.max(probability, initial=1.0, where=finite))
    return OutputFindings(probability.size, probability.size - count, low, high)


def _require(probability: Any, shape: tuple[int, ...], engine: str) -> None:
    actual = (getattr(probability, "dtype", type(probability).__name__), np.shape(probability))
    if actual != (np.float32, shape):
        raise BadInput(
            f"Expected {_format('float32', shape)} from {engine}, got {_format(*actual)}",
            "use a graph that msal-deploy exported",
        )


def _format(kind: Any, shape: tuple[int, ...]) -> str:
    return f"{kind}[{', '.join(map(str, shape))}]"
