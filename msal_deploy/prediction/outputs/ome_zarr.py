"""OME-Zarr: the probabilities as an image, the nuclei as its labels.

The format is OME-NGFF 0.4 on Zarr 2, which every reader has: napari-ome-zarr and ome-zarr read 0.4 and 0.5, but QuPath
(through Bio-Formats) reads no Zarr 3, on which 0.5 is based. The chunks are compressed with zlib, which needs no
native library in Java.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msal_deploy.files import StrPath, atomic_directory
from msal_deploy.prediction.outputs.labels import LabelImage, windows
from msal_deploy.prediction.record import RunRecord, SlideFolder

CHUNK, BLOCK = 512, 1024
SMALLEST = 512  # the last level of the pyramid is at most this long
VERSION = "0.4"


def write_ome_zarr(folder: SlideFolder, path: StrPath) -> None:
    """Write the probabilities (0 to 255) and the labels of a slide, both as pyramids, block by block."""
    import zarr

    record = folder.record()
    with atomic_directory(path, replaces=_is_zarr_group) as temporary:
        root = zarr.create_group(temporary, zarr_format=2)
        shapes = _shapes(record.shape)
        _fill_probability(folder, _arrays(root, shapes, np.uint8))
        root.attrs.update(_image(folder.name, record, len(shapes)))
        root.create_group("labels").attrs["labels"] = ["nuclei"]
        nuclei = root.create_group("labels/nuclei")
        _fill_labels(LabelImage(folder), _arrays(nuclei, shapes, np.uint32))
        nuclei.attrs.update(_multiscales("nuclei", record, len(shapes)))
        nuclei.attrs["image-label"] = {"version": VERSION, "source": {"image": "../../"}}


def _is_zarr_group(path: Path) -> bool:
    return (path / ".zgroup").is_file()


def _shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    shapes = [shape]
    while max(shapes[-1]) > SMALLEST:
        height, width = shapes[-1]
        shapes.append(((height + 1) // 2, (width + 1) // 2))
    return shapes


def _arrays(group: Any, shapes: list[tuple[int, int]], dtype: type) -> list[Any]:
    options = {"chunks": (CHUNK, CHUNK), "dtype": dtype, "fill_value": 0, "compressors": {"id": "zlib", "level": 1}}
    keys = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    return [group.create_array(str(level), shape=shape, **options, **keys) for level, shape in enumerate(shapes)]


def _fill_probability(folder: SlideFolder, levels: list[Any]) -> None:
    for region in folder.regions(probability=True):
        top, left, height, width = region.core
        levels[0][top : top + height, left : left + width] = region.probability
    for fine, coarse in pairwise(levels):
        for place, block in _halved(fine, coarse):
            coarse[place] = _mean(block)


def _fill_labels(labels: LabelImage, levels: list[Any]) -> None:
    for top, left, height, width in windows(labels.shape, BLOCK):
        block = labels.read((top, left, height, width))
        if block is not None:
            levels[0][top : top + height, left : left + width] = block
    for fine, coarse in pairwise(levels):
        for place, block in _halved(fine, coarse):
            coarse[place] = block[::2, ::2]  # a mean of two labels would be a third one


def _halved(fine: Any, coarse: Any) -> Iterator[tuple[tuple[slice, slice], NDArray[Any]]]:
    """Yield the place of each block of `coarse`, and the pixels of `fine` that it stands for."""
    for top, left, height, width in windows(coarse.shape, BLOCK):
        rows, columns = slice(top, top + height), slice(left, left + width)
        block = fine[2 * top : 2 * (top + height), 2 * left : 2 * (left + width)]
        if block.any():
            yield (rows, columns), block


def _mean(block: NDArray[np.uint8]) -> NDArray[np.uint8]:
    even = np.pad(block, [(0, size % 2) for size in block.shape], mode="edge").astype(np.uint16)
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def _multiscales(name: str, record: RunRecord, levels: int) -> dict[str, Any]:
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    pixels = [record.model_microns_per_pixel * 2**level for level in range(levels)]
    scales = [[{"type": "scale", "scale": [pixel, pixel]}] for pixel in pixels]
    datasets = [{"path": str(k), "coordinateTransformations": scale} for k, scale in enumerate(scales)]
    return {"multiscales": [{"version": VERSION, "name": name, "axes": axes, "datasets": datasets}]}


def _image(name: str, record: RunRecord, levels: int) -> dict[str, Any]:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channel = {"label": "nucleus probability", "color": "FFFFFF", "active": True, "window": window}
    omero = {"version": VERSION, "name": name, "channels": [channel], "rdefs": {"model": "greyscale"}}
    return _multiscales(name, record, levels) | {"omero": omero}
