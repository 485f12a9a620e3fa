"""A report as a folder: ``report.json``, the pictures of its patches, and the page that is made of both.

==================  ===========================================================================================
``report.json``     everything that the page shows, except pixels
``pictures/``       PNG files named by their content; ``report.json`` refers to them
``report.html``     the page, which needs neither
==================  ===========================================================================================
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.documents import parse, read_json
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, atomic_file, regular_file, write_json
from msal_deploy.report.gallery import MASKS, Caption, GalleryPatch
from msal_deploy.report.inputs import Report

REPORT_JSON, REPORT_PAGE, PICTURES = "report.json", "report.html", "pictures"
FORMAT_VERSION = 1
OLD_FILES = ("validation.json", "bench.json")  # what run wrote before there was a report.json
PICTURE_NAME = re.compile(r"[0-9a-f]{32}\.png")  # the SHA-256 of its bytes, shortened
LAYERS = ("image", *MASKS)
REMEDY = "write it again with msal-deploy run or msal-deploy validate --out"


class _SavedPatch(Caption, frozen=True, eq=False, kw_only=True, forbid_unknown_fields=True):
    """A patch of the gallery: its caption, and the names of the files of its image and masks."""

    layers: dict[str, str]


class _File(msgspec.Struct, frozen=True, eq=False, forbid_unknown_fields=True):
    """The content of ``report.json``: the fields of `Report`, the gallery apart."""

    format_version: int
    report: dict[str, Any]
    gallery: tuple[_SavedPatch, ...] = ()


def save_report(folder: StrPath, report: Report) -> Path:
    """Write ``report.json``, ``pictures/`` and ``report.html`` into a folder; return the path of the page.

    The folder may contain other files, which stay. `rebuild_report` writes the same page again, byte for byte.

    >>> from msal_deploy.bundle import Bundle
    >>> manifest = msgspec.to_builtins(Bundle("bundle").manifest)
    >>> page = save_report("my-report", Report(title="My network", manifest=manifest))
    >>> page.as_posix()
    'my-report/report.html'

    Args:
        folder: Folder to write into; it is created if it does not exist.
        report: What the page shows. Its numbers are finite.

    Raises:
        BadInput: A part of the report has not the form that its stage gives it.
        MissingRequirement: The disk is full.
    """
    folder = Path(folder)
    # Pictures are named by their content, so report.json has all that it refers to even if this is interrupted.
    patches = tuple(_save_patch(folder / PICTURES, patch) for patch in report.gallery)
    values = {name: getattr(report, name) for name in report.__struct_fields__ if name != "gallery"}
    write_json(folder / REPORT_JSON, msgspec.to_builtins(_File(FORMAT_VERSION, values, patches)))
    _remove_others(folder / PICTURES, {name for patch in patches for name in patch.layers.values()})
    return rebuild_report(folder)


def rebuild_report(folder: StrPath) -> Path:
    """Write ``report.html`` from the other files of a report folder, none of which is trusted; return its path.

    >>> from msal_deploy.bundle import Bundle
    >>> manifest = msgspec.to_builtins(Bundle("bundle").manifest)
    >>> first = save_report("my-report", Report(title="My network", manifest=manifest)).read_bytes()
    >>> rebuild_report("my-report").read_bytes() == first
    True

    Raises:
        BadInput: The folder has no report, or a file of it is missing, damaged or of another form.
        MissingRequirement: The disk is full.
    """
    from jinja2 import UndefinedError

    from msal_deploy.report.run import render

    folder = Path(folder)
    report = load_report(folder)
    try:
        html = render(report)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, UndefinedError) as error:
        # What the numbers of other stages look like is their business; here, it is enough that they can be shown.
        _refuse(folder / REPORT_JSON, f"{type(error).__name__}: {error}", error)
    page = folder / REPORT_PAGE
    with atomic_file(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return page


def load_report(folder: StrPath) -> Report:
    """Read ``report.json`` and the pictures of a report folder.

    >>> load_report("monuseg")
    Traceback (most recent call last):
    msal_deploy.errors.BadInput: monuseg has no report.json; write it again with msal-deploy run or ...

    Raises:
        BadInput: The folder has no report, or a file of it is missing, damaged or of another form.
    """
    folder = Path(folder)
    path = folder / REPORT_JSON
    try:
        content = read_json(path, _File, "a report of this version", REMEDY)
    except FileNotFoundError as error:
        earlier = ": an earlier version wrote it" if any((folder / name).exists() for name in OLD_FILES) else ""
        raise BadInput(f"{folder} has no {REPORT_JSON}{earlier}", REMEDY) from error
    report = parse(lambda: msgspec.convert(content.report, type=Report), str(path), "a report of this version", REMEDY)
    if content.format_version != FORMAT_VERSION:
        _refuse(path, f"expected format version {FORMAT_VERSION}, got {content.format_version}")
    gallery = tuple(_load_patch(folder, patch) for patch in content.gallery)
    return msgspec.structs.replace(report, gallery=gallery)


def _refuse(path: Path, why: str, error: Exception | None = None) -> NoReturn:
    raise BadInput(f"{path} is not a report of this version ({' '.join(why.split())})", REMEDY) from error


def _save_patch(folder: Path, patch: GalleryPatch) -> _SavedPatch:
    caption = {name: getattr(patch, name) for name in Caption.__struct_fields__}
    return _SavedPatch(**caption, layers={layer: _save_picture(folder, getattr(patch, layer)) for layer in LAYERS})


def _save_picture(folder: Path, pixels: NDArray[Any]) -> str:
    """Write uint8[H,W,3] or bool[H,W] as a PNG; return its name. Patches of several engines share image and truth."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", optimize=True)
    content = stream.getvalue()
    name = f"{hashlib.sha256(content).hexdigest()[:32]}.png"
    with atomic_file(folder / name) as temporary:
        temporary.write_bytes(content)
    return name


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove the pictures of an earlier report, and nothing else."""
    for path in folder.glob("*.png"):
        if PICTURE_NAME.fullmatch(path.name) and path.name not in names:
            path.unlink()


def _load_patch(folder: Path, saved: _SavedPatch) -> GalleryPatch:
    if sorted(saved.layers) != sorted(LAYERS):
        _refuse(folder / REPORT_JSON, f"expected the layers {', '.join(LAYERS)}, got {', '.join(saved.layers)}")
    caption = {name: getattr(saved, name) for name in Caption.__struct_fields__}
    layers: dict[str, Any] = {
        layer: _load_picture(folder, name, "RGB" if layer == "image" else "1") for layer, name in saved.layers.items()
    }
    try:
        return GalleryPatch(**caption, **layers)
    except BadInput as error:
        _refuse(folder / REPORT_JSON, error.cause, error)


def _load_picture(folder: Path, name: str, mode: str) -> NDArray[Any]:
    """Read a PNG whose content matches its name; a name that is not a SHA-256 could be of a file elsewhere."""
    from PIL import Image

    path = folder / PICTURES / name
    if not PICTURE_NAME.fullmatch(name) or not path.resolve().is_relative_to(folder.resolve()):
        _refuse(folder / REPORT_JSON, f"{name!r} is not a picture in {folder / PICTURES}")
    if not path.exists():
        raise BadInput(f"{path} is missing", REMEDY)
    try:
        content = regular_file(path, "picture").read_bytes()
        with Image.open(io.BytesIO(content), formats=["png"]) as picture:
            pixels = np.asarray(picture) if picture.mode == mode else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path} is not a picture ({error})", REMEDY) from error
    if pixels is None or not name.startswith(hashlib.sha256(content).hexdigest()[:32]):
        raise BadInput(f"{path} has changed since it was written", REMEDY)
    return pixels
