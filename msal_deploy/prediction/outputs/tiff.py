"""A label image as a tiled BigTIFF."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from msal_deploy.files import StrPath, atomic_file
from msal_deploy.prediction.outputs.labels import LabelImage, windows
from msal_deploy.prediction.record import SlideFolder

TILE = 512
MICRONS_PER_CM = 10_000


def write_tiff(folder: SlideFolder, path: StrPath) -> None:
    """Write the labels of a slide at the model's resolution as uint32, compressed, one tile at a time."""
    import tifffile

    record = folder.record()
    labels = LabelImage(folder)
    per_cm = MICRONS_PER_CM / record.model_microns_per_pixel
    with atomic_file(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as writer:
        writer.write(
            _tiles(labels),
            shape=labels.shape,
            dtype=np.uint32,
            tile=(TILE, TILE),
            compression="zlib",
            photometric="minisblack",
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            metadata=None,
            maxworkers=1,  # more threads would read tiles ahead into memory
        )


def _tiles(labels: LabelImage) -> Iterator[NDArray[np.uint32]]:
    empty = np.zeros((TILE, TILE), np.uint32)
    for top, left, _, _ in windows(labels.shape, TILE):
        tile = labels.read((top, left, TILE, TILE))
        if tile is not None:
            # A nucleus ends with the image, so the rest of a tile is 0.
            yield tile
        else:
            yield empty
