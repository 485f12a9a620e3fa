"""Whole slides through OpenSlide: SVS, NDPI, MRXS, SCN, VMS, BIF, DICOM and others."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.prediction.readers.pyramid import PyramidSlide
from msal_deploy.prediction.slide import slide_name


class OpenSlideSlide(PyramidSlide):
    """A slide that OpenSlide reads. Threads may read at the same time."""

    def __init__(self, path: Path, mpp: float | None, model_mpp: float) -> None:
        """Open the file.

        Raises:
            BadInput: It is damaged, or has no resolution and `mpp` is not given.
        """
        import openslide

        self._path, self._library = path, openslide
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise BadInput(f"{path} is damaged ({error})", "copy it again") from error
        levels = [(height, width) for width, height in self._slide.level_dimensions]
        self._downsamples = self._slide.level_downsamples
        resolution = mpp or _resolution(path, self._slide.properties)
        super().__init__(slide_name(path), str(path), levels, resolution, model_mpp)

    def read_level(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a window of a level; what was not scanned is white."""
        corner = (round(left * self._downsamples[level]), round(top * self._downsamples[level]))
        try:
            return _over_white(np.asarray(self._slide.read_region(corner, level, (width, height))))
        except self._library.OpenSlideError:
            self._slide = self._library.OpenSlide(self._path)
        # After an error OpenSlide refuses every later call, so another thread's error may have ended this one, too.
        # Whether this window is damaged shows in a handle of its own. No thread uses a broken one for long.
        try:
            own = self._library.OpenSlide(self._path)
            return _over_white(np.asarray(own.read_region(corner, level, (width, height))))
        except self._library.OpenSlideError as error:
            raise BadInput(f"{self._path} is damaged at row {top}, column {left} ({error})", "copy it again") from error

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    mixed = rgba[..., :3].astype(np.uint16) * alpha + 255 * (255 - alpha.astype(np.uint16))
    return ((mixed + 127) // 255).astype(np.uint8)


def _resolution(path: Path, properties: Any) -> float:
    try:
        x, y = float(properties["openslide.mpp-x"]), float(properties["openslide.mpp-y"])
    except (KeyError, ValueError):
        x = y = 0.0
    if not (x > 0 and y > 0):  # also if they are NaN
        raise BadInput(f"{path} has no resolution", "give it in µm per pixel with --mpp, such as --mpp 0.25")
    if abs(x - y) > 0.02 * x:
        raise BadInput(f"The pixels of {path} are {x:.3f} by {y:.3f} µm, not square", "resample it, or give --mpp")
    return (x + y) / 2
