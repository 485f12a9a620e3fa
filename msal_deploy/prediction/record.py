"""What predict keeps of a slide on disk: a run record and one file for each region, from which all outputs are written.

::

    OUT/
      index.html                     every slide of the folder
      <slide>/run.json               `RunRecord`: what was computed, from which file, by which engine
      <slide>/regions/003-012.npz    `Region`: nuclei, probabilities and a small picture of row 3, column 12
      <slide>/tissue.png             where tissue was found
      <slide>/nuclei.geojson …       the outputs that --format asked for
"""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, atomic_file, write_json
from msal_deploy.prediction.nuclei import Nuclei, from_arrays, to_arrays

RUN, REGIONS = "run.json", "regions"
SHRINK = 8  # the small picture of a region has an eighth of its height and width
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes, whenever a region is written


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What determines the result. A run resumes only if all of it is the same.

    Attributes:
        source_sha256: Of the input file (of the names and sizes of a folder, of the pixels of an array).
        graph_sha256: SHA-256 of the engine's graph.
        engine: Such as ``openvino:int8``.
        microns_per_pixel: Of level 0.
        tile, overlap, region: Pixels of a tile, shared by neighbouring tiles, and tiles along the side of a region.
        version: Of msal-deploy.
    """

    source_sha256: str
    graph_sha256: str
    engine: str
    microns_per_pixel: float
    tile: int
    overlap: int
    region: int
    version: str


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One slide of an output folder.

    Attributes:
        source: Path of the input as it was given.
        identity: What determines the result.
        size: Height and width of level 0, in pixels.
        shape: Height and width at the model's resolution.
        scale: Pixels of level 0 for each pixel at the model's resolution.
        model_microns_per_pixel: The model's resolution.
        threshold: A pixel is nucleus if its probability is at least this.
        grid: Rows and columns of regions.
        notes: What the user should know, such as an assumed resolution.
        failed: Regions that could not be read, "row-column" -> message.
        nuclei: Number of nuclei, or -1 while the run is not complete.
        tissue_mm2: Area of the tissue.
        seconds: Stage -> seconds of work; "total" is the time that passed.
        timeline: (stage, region, start, end) in seconds since the start.
        versions: Package -> version.
        formats: The outputs that are complete.
    """

    source: str
    identity: Identity
    size: tuple[int, int]
    shape: tuple[int, int]
    scale: float
    model_microns_per_pixel: float
    threshold: float
    grid: tuple[int, int]
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = {}
    nuclei: int = -1
    tissue_mm2: float = 0.0
    seconds: dict[str, float] = {}
    timeline: tuple[tuple[str, str, float, float], ...] = ()
    versions: dict[str, str] = {}
    formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Region:
    """The result of one region.

    Attributes:
        core: top, left, height, width at the model's resolution. The cores cover the image once.
        nuclei: The nuclei whose centroid is in the core.
        probability: uint8[height,width], 255 times the probability, rounded.
        picture: uint8[ceil(height/8),ceil(width/8),3], the core's image, smaller; each pixel is the mean of its block.
    """

    core: tuple[int, int, int, int]
    nuclei: Nuclei
    probability: NDArray[np.uint8]
    picture: NDArray[np.uint8]

    def save(self, path: StrPath) -> None:
        """Write the region atomically. The same region always gives the same bytes."""
        arrays: dict[str, NDArray[Any]] = {
            "core": np.array(self.core, np.int64),
            "probability": self.probability,
            "picture": self.picture,
        }
        with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, array in (arrays | to_arrays(self.nuclei)).items():
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                entry = zipfile.ZipInfo(f"{name}.npy", EPOCH)
                archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=1)

    @classmethod
    def load(cls, path: StrPath, *, probability: bool = False) -> "Region":
        """Read what `save` wrote.

        Args:
            path: The file.
            probability: Read the probability, which is most of the file, too; it is uint8[0,0] otherwise.

        Raises:
            BadInput: The file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if probability or name != "probability"}
            top, left, height, width = map(int, arrays.pop("core"))
            values, picture = arrays.pop("probability", np.empty((0, 0), np.uint8)), arrays.pop("picture")
            return cls((top, left, height, width), from_arrays(arrays), values, picture)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BadInput(f"{path} is damaged ({error})", "remove it and run the same command again") from error


class SlideFolder:
    """The folder of one slide. Outputs and the viewer read everything from it, region by region.

    Attributes:
        path: The folder; its name is the slide's.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        """Name of the slide."""
        return self.path.name

    def record(self) -> RunRecord:
        """Read the run record.

        Raises:
            BadInput: There is none, or it is not valid.
        """
        path = self.path / RUN
        try:
            return msgspec.json.decode(path.read_bytes(), type=RunRecord)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BadInput(f"{self.path} is not a result of predict (no {RUN})", "run: msal-deploy predict") from error
        except msgspec.DecodeError as error:
            raise BadInput(f"{path} is not a valid run record ({error})", "run predict into another folder") from error

    def write_record(self, record: RunRecord) -> None:
        """Write the run record atomically."""
        write_json(self.path / RUN, msgspec.to_builtins(record))

    def region_path(self, row: int, column: int) -> Path:
        """Return the file of a region."""
        return self.path / REGIONS / f"{row:03d}-{column:03d}.npz"

    def regions(self, *, probability: bool = False) -> Iterator[Region]:
        """Yield the regions that exist, row by row, see `Region.load`. Regions without tissue have no file."""
        for path in sorted((self.path / REGIONS).glob("*.npz"), key=_position):
            yield Region.load(path, probability=True) if probability else _last_loaded(path, path.stat().st_mtime_ns)

    def first_ids(self) -> list[int]:
        """Return the id of the first nucleus of each region of `regions`: ids go from 1 to N in their order."""
        ids = [1]
        for region in self.regions():
            ids.append(ids[-1] + len(region.nuclei))
        return ids[:-1]


@lru_cache(maxsize=1)
def _last_loaded(path: Path, changed: int) -> Region:
    """Load a region without its probability. All outputs of an image of one region read it once."""
    return Region.load(path)


def _position(path: Path) -> tuple[int, ...]:
    return tuple(map(int, path.stem.split("-")))


def find_slides(folder: StrPath) -> list[SlideFolder]:
    """Return the slides of an output folder by name; the folder may be that of one slide.

    Raises:
        BadInput: It contains no result of predict.
    """
    path = Path(folder)
    found = [path] if (path / RUN).is_file() else sorted(file.parent for file in path.glob(f"*/{RUN}"))
    if not found:
        raise BadInput(f"{path} contains no result of predict", "run: msal-deploy predict IMAGE --out DIR")
    return [SlideFolder(slide) for slide in found]
