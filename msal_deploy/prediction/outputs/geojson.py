"""GeoJSON as QuPath reads it: one detection per nucleus, in pixels of level 0."""

import gzip
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from msal_deploy.files import StrPath, atomic_file
from msal_deploy.prediction.nuclei import Nuclei
from msal_deploy.prediction.record import SlideFolder

# Names of the measurements in QuPath, which shows the unit as part of the name.
MEASUREMENTS = {
    "area_um2": "Area µm^2",
    "perimeter_um": "Perimeter µm",
    "eccentricity": "Eccentricity",
    "solidity": "Solidity",
    "mean_probability": "Probability: Mean",
    "haematoxylin_od": "Haematoxylin: Mean OD",
}
CLASSIFICATION = {"name": "Nucleus", "color": [0, 200, 83]}
NAMESPACE = uuid.UUID("6f1f6d2e-3a43-5a3e-9d55-6f0b8f5c1f13")  # any fixed one: it makes the ids repeatable


def write_geojson(folder: SlideFolder, path: StrPath) -> None:
    """Write the nuclei of a slide, compressed if `path` ends with ``.gz``; the bytes depend on the slide alone."""
    write_features(path, folder.name, _parts(folder))


def _parts(folder: SlideFolder) -> Iterator[tuple[Nuclei, int]]:
    first = 1
    for region in folder.regions():
        yield region.nuclei, first
        first += len(region.nuclei)


def write_features(path: StrPath, name: str, parts: Iterable[tuple[Nuclei, int]]) -> None:
    """Write a FeatureCollection, one feature per line.

    Args:
        path: File to write, atomically.
        name: Of the slide; it determines the ids of the features, together with the labels.
        parts: Nuclei and the label of the first one.
    """
    with atomic_file(path) as temporary, _opened(temporary) as stream:
        stream.write(b'{"type":"FeatureCollection","features":[')
        separator = b"\n"
        for nuclei, first in parts:
            for feature in features(nuclei, name, first):
                stream.write(separator + msgspec.json.encode(feature))
                separator = b",\n"
        stream.write(b"\n]}\n")


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    with path.open("wb") as raw:
        if path.suffix != ".gz":
            yield raw
            return
        # Without a name and a time, the same nuclei give the same bytes.
        with gzip.GzipFile("", "wb", compresslevel=5, fileobj=raw, mtime=0) as packed:
            yield packed


def collection(nuclei: Nuclei, name: str) -> dict[str, Any]:
    """Return the nuclei as a FeatureCollection."""
    return {"type": "FeatureCollection", "features": list(features(nuclei, name, 1))}


def features(nuclei: Nuclei, name: str, first: int) -> Iterator[dict[str, Any]]:
    """Yield the GeoJSON feature of each nucleus.

    Args:
        nuclei: The nuclei.
        name: Of the slide.
        first: Label of the first nucleus.
    """
    columns = {title: np.round(nuclei.features[key], 4).tolist() for key, title in MEASUREMENTS.items()}
    points = np.round(nuclei.points.astype(np.float64), 3)
    starts = [0, *nuclei.ends.tolist()]
    for index, (start, end) in enumerate(pairwise(starts)):
        vertices = points[start:end].tolist()  # of all at once, the garbage collector would take half of the time
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(NAMESPACE, f"{name}/{first + index}")),
            "geometry": {"type": "Polygon", "coordinates": [[*vertices, vertices[0]]]},
            "properties": {
                "objectType": "detection",
                "classification": CLASSIFICATION,
                "measurements": {title: values[index] for title, values in columns.items()},
            },
        }
