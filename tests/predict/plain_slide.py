"""A slide in memory and engines that compute pixel by pixel, for tests of what happens around them."""

from pathlib import Path

import cv2
import numpy as np

from msal_deploy.errors import BadInput
from msal_deploy.prediction.grid import Grid
from msal_deploy.prediction.record import SlideFolder
from msal_deploy.prediction.slide import Slide
from msal_deploy.prediction.steps import Steps
from msal_deploy.prediction.tissue import find_tissue
from msal_deploy.spec import ModelSpec


class PlainSlide(Slide):
    """uint8[H,W,3] at the model's resolution. Windows that touch a pixel of `damaged` cannot be read."""

    def __init__(self, image: np.ndarray, damaged: tuple[int, int] | None = None) -> None:
        self.image, self.damaged = image, damaged
        self.name, self.source, self.notes = "plain", "array", ()
        self.size = self.shape = image.shape[:2]
        self.scale, self.microns_per_pixel = 1.0, 0.25

    def read(self, top, left, height, width):
        if self.damaged and top <= self.damaged[0] < top + height and left <= self.damaged[1] < left + width:
            raise BadInput(f"plain is damaged at {self.damaged}", "copy it again")
        return self.image[top : top + height, left : left + width].copy()

    def thumbnail(self, longest):
        factor = min(1.0, longest / max(self.shape))
        size = [max(1, round(extent * factor)) for extent in reversed(self.shape)]
        return cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)

    def close(self):
        pass


class PlainEngine:
    """The probability of a pixel is its darkness in red: exact, whatever tile the pixel is in."""

    spec = ModelSpec()
    id = "plain:fp32"

    def __init__(self, fail_at: int = -1) -> None:
        self.calls, self.fail_at = 0, fail_at

    def __call__(self, images):
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        return (255 - images[..., 0]).astype(np.float32)[:, None] / np.float32(255)


def discs(height: int, width: int, centres, radius: int = 12) -> np.ndarray:
    """Return dark discs, (row, column), on pink tissue."""
    image = np.full((height, width, 3), (230, 190, 215), np.uint8)
    for row, column in centres:
        cv2.circle(image, (column, row), radius, (20, 20, 90), cv2.FILLED)
    return image


def plain_steps(slide: Slide, folder: Path, engine=None, **grid: int) -> Steps:
    """Return the steps of a slide with a `PlainEngine`."""
    engine = engine or PlainEngine()
    return Steps(slide, engine, SlideFolder(folder), Grid(slide.shape, **grid), find_tissue(slide, 0.25))
