"""Run an engine on labelled patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track

from msal_deploy.data import Patch
from msal_deploy.runtimes import Engine, segment
from msal_deploy.scoring.outputs import OutputFindings, check_output

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from msal_deploy.spec import Float32Maps, UInt8Images

    Map = NDArray[np.float32]


OVERLAP = 64  # px that neighbouring tiles share; of tiles smaller than twice that, half


class Outputs(msgspec.Struct, frozen=True, eq=False):
    """What an engine returned for K patches.

    Attributes:
        maps: K maps float32[h,w] of the size of the patches' masks.
        findings: What is wrong with the probabilities, those of padding included.
    """

    maps: tuple[Map, ...]
    findings: OutputFindings


def run_engine(
    engine: Engine, patches: Sequence[Patch], *, batch: int = 1, tile: int | None = None, progress: bool = False
) -> Outputs:
    """Run an open engine on the patches in batches.

    >>> from pathlib import Path
    >>> from msal_deploy.bundle import Bundle
    >>> from msal_deploy.runtimes import open_engine
    >>> patch = Patch("a", "top-left", np.zeros((64, 64, 3), np.uint8), np.zeros((50, 64), bool))
    >>> with open_engine(Bundle(Path("bundle")), "onnxruntime:fp32") as engine:
    ...     [one.shape for one in run_engine(engine, [patch] * 3, batch=2).maps]
    [(50, 64), (50, 64), (50, 64)]

    Args:
        engine: An open engine.
        patches: K patches; the padding of a patch is left out of its map.
        batch: Patches per inference call; those of a call have the same size.
        tile: Side of the tiles in which the engine sees each patch; None: it sees a patch whole.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: The engine returns another shape or type than float32[N,1,H,W].
    """
    watched = _Watched(engine)
    maps: list[Map] = []
    groups = list(_batches(patches, 1 if tile else batch))
    for group in track(groups, engine.id, console=Console(stderr=True), disable=not progress):
        if tile:
            maps += [
                segment(watched, patch.image, tile=tile, overlap=min(OVERLAP, tile // 2), batch=batch)
                for patch in group
            ]
        else:
            maps += list(watched(np.stack([patch.image for patch in group]))[:, 0])
    kept = [_without_padding(one, patch) for one, patch in zip(maps, patches, strict=True)]
    return Outputs(tuple(kept), watched.findings)


class _Watched:
    """An engine that checks each of its outputs."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.findings = engine, OutputFindings()

    def __call__(self, images: UInt8Images) -> Float32Maps:
        probability = self._engine(images)
        self.findings += check_output(probability, images, engine=self._engine.id)
        return probability


def _batches(patches: Sequence[Patch], batch: int) -> Iterator[list[Patch]]:
    for _, same in groupby(patches, key=lambda patch: patch.image.shape):
        group = list(same)
        yield from (group[start : start + batch] for start in range(0, len(group), batch))


def _without_padding(one: Map, patch: Patch) -> Map:
    height, width = patch.mask.shape
    return one[:height, :width]
