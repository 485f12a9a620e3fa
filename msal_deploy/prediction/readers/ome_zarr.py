"""OME-Zarr images, versions 0.4 and 0.5."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.prediction.readers.pyramid import PyramidSlide
from msal_deploy.prediction.slide import slide_name

MICRONS = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3}


class OmeZarrSlide(PyramidSlide):
    """An OME-Zarr image of RGB or grey pixels, of any size: only the chunks of a window are read."""

    def __init__(self, path: Path, mpp: float | None, model_mpp: float) -> None:
        """Open the folder.

        Raises:
            BadInput: It is not an OME-Zarr image of 8-bit RGB or grey pixels.
        """
        self._path = path
        multiscales = _multiscales(path)
        self._axes = [axis["name"] for axis in multiscales["axes"]]
        self._levels = [_array(path, dataset["path"]) for dataset in multiscales["datasets"]]
        y, x = self._axes.index("y"), self._axes.index("x")
        if any(level.ndim != len(self._axes) for level in self._levels):
            raise BadInput(f"{path} has arrays of another number of axes than its metadata", "export it again")
        _check_extra_axes(path, self._axes, self._levels[0].shape)
        sizes = [(level.shape[y], level.shape[x]) for level in self._levels]
        found = mpp or _resolution(multiscales, x)
        notes = [] if found else [f"{path.name} has no resolution: {model_mpp:g} µm/px, the model's, was assumed"]
        super().__init__(slide_name(path), str(path), sizes, found or model_mpp, model_mpp, notes)

    def read_level(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Read a window of a level."""
        where = {"y": slice(top, top + height), "x": slice(left, left + width), "c": slice(None)}
        try:
            window = np.asarray(self._levels[level][tuple(where.get(axis, 0) for axis in self._axes)])
        except Exception as error:  # the codecs raise many exception types
            raise BadInput(f"{self._path} is damaged at row {top}, column {left} ({error})", "copy it again") from error
        kept = [axis for axis in self._axes if axis in where]
        if "c" not in kept:
            return np.repeat(window[..., None], 3, axis=2)
        window = window.transpose([kept.index(axis) for axis in "yxc"])
        return np.ascontiguousarray(np.repeat(window, 3, axis=2) if window.shape[2] == 1 else window[..., :3])

    def close(self) -> None:
        """There is nothing to close."""


def _multiscales(path: Path) -> dict[str, Any]:
    import zarr

    try:
        attributes: Any = dict(zarr.open_group(str(path), mode="r").attrs)
        attributes = attributes.get("ome", attributes)  # version 0.5 has one level more
        multiscales: dict[str, Any] = attributes["multiscales"][0]
        names = [axis["name"] for axis in multiscales["axes"]]
    except Exception as error:  # zarr raises many exception types
        raise BadInput(f"{path} is not an OME-Zarr image", "name the folder that has the multiscales") from error
    if not {"x", "y"} <= set(names):
        raise BadInput(f"{path} has the axes {', '.join(names)}, not x and y", "export it as an image")
    return multiscales


def _check_extra_axes(path: Path, axes: list[str], shape: tuple[int, ...]) -> None:
    """Refuse what is more than one RGB or grey image: its first part would be taken for the whole."""
    for axis, extent in zip(axes, shape, strict=True):
        allowed = (1, 3, 4) if axis == "c" else (1,)
        if axis not in "yx" and extent not in allowed:
            raise BadInput(f"{path} has {extent} of axis {axis}", "export one 8-bit RGB image")


def _array(path: Path, name: str) -> Any:
    import zarr

    try:
        array = zarr.open_array(str(path / name), mode="r")
    except Exception as error:  # zarr raises many exception types
        raise BadInput(f"{path} has no array {name}, which its metadata names", "copy it again") from error
    if array.dtype != np.uint8:
        raise BadInput(f"{path} has {array.dtype} pixels", "convert it to 8-bit RGB")
    return array


def _resolution(multiscales: dict[str, Any], x: int) -> float | None:
    """Return µm/px of the first level, if the axes have a unit of length."""
    unit = MICRONS.get(multiscales["axes"][x].get("unit", ""))
    scales = [
        change["scale"]
        for change in multiscales["datasets"][0].get("coordinateTransformations", [])
        if change.get("type") == "scale"
    ]
    return float(scales[0][x]) * unit if unit and scales else None
