"""index.html: the slides of an output folder at a glance. One file, without scripts, which works offline."""

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, atomic_file
from msal_deploy.prediction.outputs.charts import area_histogram, density_chart, timeline
from msal_deploy.prediction.outputs.files import FILES
from msal_deploy.prediction.outputs.pictures import cell_side, density, encoded, overlay
from msal_deploy.prediction.record import RunRecord, SlideFolder, find_slides

THUMBNAIL = 900  # pixels of the longer side
SOURCES = {"tissue": "tissue.png"}


def write_index(out: StrPath, failures: Mapping[str, str]) -> None:
    """Write ``index.html`` for an output folder.

    Args:
        out: Folder with the folders of the slides.
        failures: Inputs without a result, name -> message.
    """
    slides = [_slide(folder) for folder in _slides(Path(out))]
    page = _template().render(slides=slides, failures=dict(failures), style=_style())
    with atomic_file(Path(out) / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def _slides(out: Path) -> list[SlideFolder]:
    try:
        return find_slides(out)
    except BadInput:  # every input failed
        return []


def _slide(folder: SlideFolder) -> dict[str, Any]:
    record = folder.record()
    regions = [region.nuclei.features["area_um2"] for region in folder.regions()]
    areas = np.concatenate(regions) if regions else np.zeros(0)
    return {
        "name": folder.name,
        "record": record,
        "complete": record.nuclei >= 0,
        "count": f"{len(areas):,}",
        "density": f"{len(areas) / record.tissue_mm2:,.0f}" if record.tissue_mm2 else None,
        "median": f"{np.median(areas):.1f}" if len(areas) else None,
        "overlay": _data("jpeg", encoded(_thumbnail(folder), ".jpg")),
        "heat": _drawn(_heat(folder, record)),
        "histogram": _drawn(area_histogram(areas)) if len(areas) else None,
        "timeline": _drawn(timeline(record.timeline)) if record.timeline else None,
        "stages": _stages(record),
        "size_mm": [f"{side * record.identity.microns_per_pixel / 1000:.2f}" for side in record.size],
        "links": _links(folder),
    }


def _stages(record: RunRecord) -> list[tuple[str, str, str]]:
    total = sum(seconds for stage, seconds in record.seconds.items() if stage != "total")
    rows = [(stage, seconds) for stage, seconds in record.seconds.items() if stage != "total"]
    return [(stage, f"{seconds:.2f}", f"{seconds / total:.0%}" if total else "") for stage, seconds in rows]


def _links(folder: SlideFolder) -> list[str]:
    names = [name for group in FILES.values() for name in group]
    return [name for name in (*names, *SOURCES.values(), "run.json") if (folder.path / name).exists()]


def _thumbnail(folder: SlideFolder) -> NDArray[np.uint8]:
    saved = cv2.imread(str(folder.path / "overlay.png")) if (folder.path / "overlay.png").is_file() else None
    picture = overlay(folder) if saved is None else cv2.cvtColor(saved, cv2.COLOR_BGR2RGB)
    factor = min(1.0, THUMBNAIL / max(picture.shape))
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _heat(folder: SlideFolder, record: RunRecord) -> str:
    cell, resolution = cell_side(record), record.model_microns_per_pixel
    extent = (record.shape[0] * resolution / 1000, record.shape[1] * resolution / 1000)
    return density_chart(density(folder, cell), extent, cell / 1000)


def _drawn(svg: str) -> str:
    return _data("svg+xml", svg.encode())


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _style() -> str:
    # All pages of msal-deploy look alike: this is the style sheet of its report.
    return (files("msal_deploy") / "report" / "templates" / "style.css").read_text(encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("msal_deploy", "prediction/outputs/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.j2")
