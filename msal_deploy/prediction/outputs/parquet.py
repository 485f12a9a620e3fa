"""GeoParquet 1.1: outlines and features of the nuclei as a table."""

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msal_deploy.files import StrPath, atomic_file
from msal_deploy.prediction.nuclei import FEATURES, Nuclei
from msal_deploy.prediction.record import SlideFolder

POLYGON, LITTLE_ENDIAN = 3, 1


def write_parquet(folder: SlideFolder, path: StrPath) -> None:
    """Write a row for each nucleus: its number, `FEATURES` and its outline in pixels of level 0.

    There is one row group per region with nuclei.
    """
    import pyarrow.parquet

    schema = _schema()
    bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
    first = 1
    with atomic_file(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for nuclei in (region.nuclei for region in folder.regions() if len(region.nuclei)):
            writer.write_table(_table(nuclei, first, schema), row_group_size=len(nuclei))
            bounds[:2] = np.minimum(bounds[:2], nuclei.points.min(axis=0))
            bounds[2:] = np.maximum(bounds[2:], nuclei.points.max(axis=0))
            first += len(nuclei)
        writer.add_key_value_metadata({"geo": json.dumps(_geo(bounds, empty=first == 1))})


def _schema() -> Any:
    import pyarrow as pa

    units = {name: {"unit": unit} if unit else None for name, unit in FEATURES.items()}
    columns = [pa.field(name, pa.float64(), nullable=False, metadata=unit) for name, unit in units.items()]
    identity = pa.field("id", pa.int64(), nullable=False)
    return pa.schema([identity, *columns, pa.field("geometry", pa.binary(), nullable=False)])


def _geo(bounds: NDArray[np.float64], *, empty: bool) -> dict[str, Any]:
    # The coordinates are pixels, which no coordinate reference system describes.
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": None, "edges": "planar"}
    if not empty:
        column["bbox"] = bounds.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _table(nuclei: Nuclei, first: int, schema: Any) -> Any:
    import pyarrow as pa

    columns = {"id": np.arange(first, first + len(nuclei)), **nuclei.features}
    columns["geometry"] = pa.array([_wkb(points) for points in nuclei.polygons], pa.binary())
    return pa.table(columns, schema=schema)


def _wkb(points: NDArray[np.float32]) -> bytes:
    closed = np.concatenate([points, points[:1]]).astype("<f8")
    return struct.pack("<BIII", LITTLE_ENDIAN, POLYGON, 1, len(closed)) + closed.tobytes()
