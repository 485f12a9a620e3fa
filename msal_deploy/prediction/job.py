"""Job: one slide to compute, as another process or machine can open it, too."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import msal_deploy
from msal_deploy.bundle import CHECKPOINT, Bundle
from msal_deploy.errors import BadInput
from msal_deploy.prediction.clock import Clock
from msal_deploy.prediction.grid import SIDES, Grid, choose_tile, region_side
from msal_deploy.prediction.readers import open_slide, source_sha256
from msal_deploy.prediction.record import Identity, RunRecord, SlideFolder
from msal_deploy.prediction.slide import Slide
from msal_deploy.prediction.steps import Steps
from msal_deploy.prediction.tissue import find_tissue
from msal_deploy.runtimes import Engine, find_runtime, open_engine

# What must be the same for a run to go on -> how it is called in a message.
DIFFERENCES = {
    "source_sha256": "content of the image",
    "graph_sha256": "graph",
    "engine": "engine",
    "microns_per_pixel": "resolution",
    "tile": "tile",
    "overlap": "overlap",
    "region": "region",
    "version": "version of msal-deploy",
}


@dataclass(frozen=True)
class Job:
    """One slide to compute.

    Attributes:
        source: Path of the slide, or uint8[H,W,3].
        folder: Where its results go.
        bundle: Path of the bundle.
        engine: Such as ``openvino:int8``.
        mpp: Resolution of level 0 in µm/px that replaces the file's.
        threads: CPU threads of the engine.
        tile, overlap, group: See `Grid`; a tile of None fits the image (`choose_tile`), a group of None fits the tile.
        batch: Tiles in each call of the engine.
        start: Time at which the clock of the run starts, in seconds since the epoch.
    """

    source: str | NDArray[np.uint8]
    folder: str
    bundle: str
    engine: str
    mpp: float | None = None
    threads: int | None = None
    tile: int | None = None
    overlap: int = 64
    group: int | None = None
    batch: int = 1
    start: float = field(default=0.0, compare=False)

    @property
    def results(self) -> SlideFolder:
        """The folder of the slide."""
        return SlideFolder(self.folder)

    def open_bundle(self) -> Bundle:
        """Open the bundle."""
        return Bundle(self.bundle)

    def open_engine(self) -> Engine:
        """Return the engine, not yet entered."""
        return open_engine(self.open_bundle(), self.engine, threads=self.threads)

    def open_slide(self) -> Slide:
        """Open the slide.

        Raises:
            BadInput: It cannot be read.
        """
        return open_slide(self.source, self.open_bundle().spec.microns_per_pixel, mpp=self.mpp)

    def grid(self, slide: Slide) -> Grid:
        """Return the tiles and regions of the open slide."""
        tile = self._tile(slide)
        return Grid(slide.shape, tile, self.overlap, self.group or region_side(tile))

    def _tile(self, slide: Slide) -> int:
        """Return the side of a tile. Plans and servers are built for one size, and fastest at it."""
        if self.tile is not None:
            return self.tile
        runtime = find_runtime(self.engine)
        fixed = runtime.opens == "plan" or runtime.device == "server"
        return SIDES[0] if fixed else choose_tile(slide.shape, self.overlap)

    def steps(self, slide: Slide, engine: Engine, clock: Clock | None = None) -> Steps:
        """Return the steps of the open slide with the open engine."""
        clock = clock or Clock(self.start)
        with clock.time("tissue"):
            tissue = find_tissue(slide, engine.spec.microns_per_pixel)
        return Steps(slide, engine, self.results, self.grid(slide), tissue, self.batch, clock)

    def record(self, slide: Slide) -> RunRecord:
        """Return the record of a run that begins."""
        spec = self.open_bundle().spec
        return RunRecord(
            source=slide.source,
            identity=self.identity(slide),
            size=slide.size,
            shape=slide.shape,
            scale=slide.scale,
            model_microns_per_pixel=spec.microns_per_pixel,
            threshold=spec.threshold,
            grid=self.grid(slide).shape,
            notes=slide.notes,
        )

    def identity(self, slide: Slide) -> Identity:
        """Return what determines the result."""
        return Identity(
            source_sha256=source_sha256(self.source),
            graph_sha256=graph_sha256(self.open_bundle(), self.engine),
            engine=self.engine,
            microns_per_pixel=slide.microns_per_pixel,
            tile=self._tile(slide),
            overlap=self.overlap,
            region=self.grid(slide).group,
            version=msal_deploy.__version__,
        )


def graph_sha256(bundle: Bundle, engine: str) -> str:
    """Return the SHA-256 of the graph that an engine runs, or was built from; that of the address for a server."""
    runtime, precision = find_runtime(engine), engine.partition(":")[2]
    if runtime.device == "server":
        return hashlib.sha256(engine.encode()).hexdigest()
    name = CHECKPOINT if runtime.opens == "checkpoint" else _graph_name(bundle, runtime.name, precision)
    if name not in bundle:
        raise BadInput(f"{bundle.path} has no {name}, which {engine} needs", "export the bundle with that precision")
    return bundle.manifest.artifacts[name].sha256


def _graph_name(bundle: Bundle, runtime: str, precision: str) -> str:
    graph = bundle.graph_name(precision, runtime)
    return graph if graph in bundle else bundle.graph_name("fp32")  # bf16 and fp16 of a runtime that converts it


def check_same_run(folder: SlideFolder, wanted: Identity) -> RunRecord | None:
    """Return the record of an earlier run in a folder, which goes on; None if there is none.

    Raises:
        BadInput: The folder contains the result of another run.
    """
    if not folder.path.exists() or not any(folder.path.iterdir()):
        return None
    record = folder.record()
    for name, what in DIFFERENCES.items():
        was, now = getattr(record.identity, name), getattr(wanted, name)
        if was != now:
            values = "" if name.endswith("sha256") else f": {was}, now {now}"
            raise BadInput(
                f"{folder.path} contains the result of another run, with another {what}{values}",
                "choose another folder with --out",
            )
    return record
