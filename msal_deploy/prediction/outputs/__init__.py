"""The files that are made from a slide's results: for QuPath, napari, Python, and to look at."""

from collections.abc import Sequence

from msal_deploy.errors import BadInput
from msal_deploy.prediction.outputs.files import FILES, NEEDS
from msal_deploy.prediction.outputs.geojson import write_geojson
from msal_deploy.prediction.outputs.ome_zarr import write_ome_zarr
from msal_deploy.prediction.outputs.page import write_index
from msal_deploy.prediction.outputs.parquet import write_parquet
from msal_deploy.prediction.outputs.pictures import write_density, write_overlay
from msal_deploy.prediction.outputs.tiff import write_tiff
from msal_deploy.prediction.record import SlideFolder
from msal_deploy.prediction.slide import Slide

__all__ = ["FILES", "FORMATS", "NEEDS", "write_index", "write_outputs"]

FORMATS = tuple(FILES)


def write_outputs(folder: SlideFolder, formats: Sequence[str], slide: Slide | None = None) -> tuple[str, ...]:
    """Write a slide's results in some formats, each atomically, and return the formats.

    Args:
        folder: The slide's results; its regions are read one at a time.
        formats: Some of `FORMATS`.
        slide: The open slide, for an overlay at full resolution.

    Raises:
        BadInput: A format is unknown.
    """
    for name in formats:
        if name not in FILES:
            raise BadInput(f"the format {name} is unknown", f"choose from {', '.join(FORMATS)}")
    chosen = tuple(name for name in FORMATS if name in formats)
    for name in chosen:
        _write(folder, name, slide)
    return chosen


def _write(folder: SlideFolder, name: str, slide: Slide | None) -> None:
    paths = [folder.path / file for file in FILES[name]]
    match name:
        case "geojson" | "geojson.gz":
            write_geojson(folder, paths[0])
        case "parquet":
            write_parquet(folder, paths[0])
        case "ome-zarr":
            write_ome_zarr(folder, paths[0])
        case "tiff":
            write_tiff(folder, paths[0])
        case "png":
            write_overlay(folder, paths[0], slide)
            write_density(folder, paths[1])
