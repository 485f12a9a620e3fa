"""What predict checks before anything slow starts: sources, formats and the output folder."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from msal_deploy.errors import EXTRA_OF_MODULE, BadInput, MissingExtra, suggest
from msal_deploy.files import StrPath, regular_file
from msal_deploy.prediction.grid import SIDES
from msal_deploy.prediction.job import Job, graph_sha256
from msal_deploy.prediction.outputs import FORMATS, NEEDS
from msal_deploy.prediction.record import RUN, find_slides
from msal_deploy.prediction.slide import slide_name
from msal_deploy.runtimes.tiling import TILE
from msal_deploy.spec import BATCH, check_extent


def names_of(sources: Sequence[StrPath]) -> dict[str, StrPath]:
    """Return the sources by the name of the folder of their results.

    Raises:
        BadInput: No source is given, one does not exist or is no file, or two have the same name.
    """
    if not sources:
        raise BadInput("No image was given", "name one or more files")
    names: dict[str, StrPath] = {}
    for source in sources:
        name = slide_name(source)
        if name in names:
            raise BadInput(
                f"{names[name]} and {source} have the same name", "rename one, or write them into different folders"
            )
        names[name] = source
    for source in sources:
        if not Path(source).is_dir():  # a folder may be OME-Zarr
            regular_file(source, "image")
    return names


def check_formats(formats: Sequence[str]) -> None:
    """Check that all formats can be written.

    Raises:
        BadInput: One of them does not exist.
        MissingExtra: The package that writes one of them is not installed.
    """
    for name in formats:
        if name not in FORMATS:
            raise BadInput(f"{name!r} is not an output format", suggest(name, FORMATS))
        if name in NEEDS and find_spec(NEEDS[name]) is None:
            raise MissingExtra(NEEDS[name], EXTRA_OF_MODULE[NEEDS[name]])


def check_tiles(tile: int | None, overlap: int, batch: int) -> None:
    """Raise `BadInput` unless tiles of a side (None: chosen by the image) can overlap by so many pixels."""
    if tile is not None:
        check_extent(TILE, tile)
    check_extent(BATCH, batch)
    limit = tile or SIDES[0]
    if not 0 <= overlap < limit:
        raise BadInput(f"Expected an overlap from 0 to {limit - 1}, got {overlap}", "use one in that range, or --tile")


def check_out(out: Path, jobs: Sequence[Job]) -> None:
    """Raise `BadInput` if `out` contains something else than results of the same engine."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not has_results(out):
        raise BadInput(f"{out} contains other files than results of predict", "choose another folder with --out")
    identity = find_slides(out)[0].record().identity
    if identity.engine != jobs[0].engine:
        raise BadInput(
            f"{out} contains results of {identity.engine}, not {jobs[0].engine}", "choose another folder with --out"
        )
    if identity.graph_sha256 != graph_sha256(jobs[0].open_bundle(), jobs[0].engine):
        raise BadInput(f"{out} contains results of another graph", "choose another folder with --out")


def has_results(out: Path) -> bool:
    """Return whether a folder contains results of predict."""
    return any(out.glob(f"*/{RUN}"))
