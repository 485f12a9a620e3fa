"""Slide: an image of any size that can be read in windows, at the model's resolution."""

import re
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from msal_deploy.files import StrPath

# What image formats append to a file's name: "a.ome.tif" is "a".
EXTENSION = re.compile(r"(\.ome)?\.[A-Za-z0-9]+$")


def slide_name(source: StrPath) -> str:
    """Return the name of a slide: that of its file, without the extension.

    >>> slide_name("slides/case-7.ome.tif"), slide_name("v1.2.svs"), slide_name("plain")
    ('case-7', 'v1.2', 'plain')
    """
    name = Path(source).name
    return EXTENSION.sub("", name) or name


class Slide(ABC):
    """An open image or whole slide. A context manager; threads may read at the same time.

    Attributes:
        name: The file's name without its extension, which names the folder of its results.
        source: Path as it was given, or "array".
        size: Height and width of level 0, in pixels.
        microns_per_pixel: Resolution of level 0, in µm/px.
        scale: Pixels of level 0 for each pixel at the model's resolution.
        shape: Height and width at the model's resolution: round(size / scale), at least 1.
        notes: What the user should know, such as an assumed resolution. One sentence each.
    """

    name: str
    source: str
    size: tuple[int, int]
    microns_per_pixel: float
    scale: float
    shape: tuple[int, int]
    notes: tuple[str, ...]

    @abstractmethod
    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return uint8[height,width,3], a window inside `shape`, RGB at the model's resolution.

        A pixel has the same value in every window that contains it, to the last bit.

        Raises:
            BadInput: The file is damaged there.
        """

    @abstractmethod
    def thumbnail(self, longest: int) -> NDArray[np.uint8]:
        """Return the whole image as uint8[h,w,3], RGB, scaled so that its longer side is at most `longest`."""

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> "Slide":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
