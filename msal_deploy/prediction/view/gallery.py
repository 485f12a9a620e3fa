"""The answers of the viewer: a path such as ``/0/tiles/12/3_4.jpg`` gives bytes.

A path is compared with patterns of integers and with fixed names. It is never joined to the file system.
"""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from msal_deploy.errors import DeployError
from msal_deploy.files import StrPath
from msal_deploy.prediction.nuclei import FEATURES
from msal_deploy.prediction.record import Region, RunRecord, SlideFolder, find_slides
from msal_deploy.prediction.slide import Slide
from msal_deploy.prediction.view.survey import Survey, heat_map, survey
from msal_deploy.prediction.view.tiles import TILE, Pyramid

OpenSource = Callable[[RunRecord], Slide]
STATIC = Path(__file__).with_name("static")
KINDS = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
PAGE_FILES = ("index.html", "view.js", "view.css", "openseadragon.min.js")
ROUTES = {
    r"/slides\.json": "list",
    r"/([0-9]{1,6})/info\.json": "info",
    r"/([0-9]{1,6})/tiles/([0-9]{1,2})/([0-9]{1,6})_([0-9]{1,6})\.jpg": "tile",
    r"/([0-9]{1,6})/regions/([0-9]{1,6})-([0-9]{1,6})\.json": "region",
    r"/([0-9]{1,6})/density\.png": "heat",
    r"/([0-9]{1,6})/within/([0-9]{1,9})-([0-9]{1,9})-([0-9]{1,9})-([0-9]{1,9})\.json": "within",
}


@dataclass(frozen=True)
class Answer:
    """The body of an answer and its media type."""

    kind: str
    body: bytes


class Gallery:
    """Every slide of an output folder.

    Args:
        folder: What predict wrote, or the folder of one slide.
        open_source: Opens the slide that a record names; by default from its path.

    Raises:
        BadInput: The folder has no result of predict.
    """

    def __init__(self, folder: StrPath, open_source: OpenSource | None = None) -> None:
        self.slides = [View(slide, open_source or open_original) for slide in find_slides(folder)]
        self._page = {f"/{name}": _file(name) for name in PAGE_FILES}
        self._page["/"] = self._page["/index.html"]

    def answer(self, path: str) -> Answer | None:
        """Return the answer to a path, or None if there is nothing there."""
        if path in self._page:
            return self._page[path]
        for pattern, name in ROUTES.items():
            if match := re.fullmatch(pattern, path):
                return self._dynamic(name, [int(group) for group in match.groups()])
        return None

    def _dynamic(self, name: str, numbers: list[int]) -> Answer | None:
        if name == "list":
            return _json([view.summary() for view in self.slides])
        index, *rest = numbers
        if index >= len(self.slides):
            return None
        answer: Answer | None = getattr(self.slides[index], name)(*rest)
        return answer

    def close(self) -> None:
        """Close the slides that are open."""
        for view in self.slides:
            view.close()


class View:
    """One slide: regions are read when they are needed, and the latest are kept."""

    def __init__(self, folder: SlideFolder, open_source: OpenSource) -> None:
        self.folder, self.record = folder, folder.record()
        self._open_source = open_source
        self._lock = threading.RLock()
        self._load = lru_cache(16)(self._load_region)

    def summary(self) -> dict[str, Any]:
        """Return name and count, without reading a region."""
        return {"name": self.folder.name, "nuclei": self.record.nuclei}

    def info(self) -> Answer:
        """Everything that the page needs to show the slide."""
        seen, record = self.survey, self.record
        density = seen.density()
        return _json(
            self.summary()
            | {
                "nuclei": len(seen.areas),
                "complete": record.nuclei >= 0,
                "shape": record.shape,
                "scale": record.scale,
                "microns_per_pixel": record.model_microns_per_pixel,
                "tile": TILE,
                "levels": self.pyramid.levels,
                "engine": record.identity.engine,
                "tissue_mm2": record.tissue_mm2,
                "notes": [*record.notes, *([self._missing] if self._missing else []), *_failures(record)],
                "regions": [[*place, *core] for place, core in seen.cores.items()],
                "features": list(FEATURES.items()),
                "cell": seen.cell,
                "cells": density.shape,
                "highest": float(density.max(initial=0.0)),
            }
        )

    def tile(self, level: int, column: int, row: int) -> Answer | None:
        """A tile of the slide."""
        body = self.pyramid.jpeg(level, column, row)
        return Answer("image/jpeg", body) if body else None

    def region(self, row: int, column: int) -> Answer | None:
        """Outlines and features of the nuclei of a region."""
        if (row, column) not in self.survey.cores:
            return None
        region = self._load((row, column))
        nuclei = region.nuclei
        features = {name: nuclei.features[name].tolist() for name in FEATURES}
        points = np.round(nuclei.points.astype(np.float64), 2).ravel().tolist()
        return _json({"core": region.core, "features": features, "points": points, "ends": nuclei.ends.tolist()})

    def heat(self) -> Answer:
        """The density as a picture, one pixel for each cell."""
        return Answer("image/png", heat_map(self.survey.density()))

    def within(self, top: int, left: int, height: int, width: int) -> Answer:
        """Count, density and histogram of a window at the model's resolution."""
        return _json(self.survey.within(top, left, height, width))

    @cached_property
    def _survey(self) -> Survey:
        return survey(self.folder, self.record)

    @property
    def survey(self) -> Survey:
        """What is known of all regions; read once, when it is first needed."""
        with self._lock:
            return self._survey

    @cached_property
    def _source(self) -> tuple[Slide | None, str]:
        """The open slide, or why there is none."""
        try:
            slide = self._open_source(self.record)
        except (DeployError, ImportError, OSError) as error:
            return None, f"Shown from small pictures, 1/8 of the resolution: {error}"
        if slide.shape == self.record.shape:
            return slide, ""
        slide.close()
        return None, f"Shown from small pictures, 1/8 of the resolution: {self.record.source} is another image now"

    @property
    def _missing(self) -> str:
        with self._lock:
            return self._source[1]

    @cached_property
    def _pyramid(self) -> Pyramid:
        return Pyramid(self.record.shape, self._source[0], lambda: self.survey.cores, lambda at: self._load(at).picture)

    @property
    def pyramid(self) -> Pyramid:
        """The tiles; opens the slide when it is first needed."""
        with self._lock:
            return self._pyramid

    def _load_region(self, place: tuple[int, int]) -> Region:
        return Region.load(self.folder.region_path(*place))

    def close(self) -> None:
        """Close the slide if it is open."""
        slide, _ = self.__dict__.get("_source", (None, ""))
        if slide:
            slide.close()


def open_original(record: RunRecord) -> Slide:
    """Open the slide that a record names.

    Raises:
        BadInput: It is gone, or cannot be read.
    """
    from msal_deploy.prediction.readers import open_slide

    source: Slide = open_slide(record.source, record.model_microns_per_pixel, mpp=record.identity.microns_per_pixel)
    return source


def _failures(record: RunRecord) -> list[str]:
    return [f"Region {place} has no result: {message}" for place, message in sorted(record.failed.items())]


def _file(name: str) -> Answer:
    return Answer(KINDS[name.rpartition(".")[2]], (STATIC / name).read_bytes())


def _json(value: Any) -> Answer:
    return Answer("application/json", msgspec.json.encode(value))
