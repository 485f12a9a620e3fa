"""Run an engine on labelled patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import track

from msal_deploy.data import Patch
from msal_deploy.runtimes import Engine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Map = NDArray[np.float32]


def probabilities(
    engine: Engine, patches: Sequence[Patch], *, batch: int = 1, tile: int | None = None, progress: bool = False
) -> list[Map]:
    """Run an open engine on the patches in batches.

    >>> from pathlib import Path
    >>> from msal_deploy.bundle import Bundle
    >>> from msal_deploy.runtimes import open_engine
    >>> patch = Patch("a", "top-left", np.zeros((64, 64, 3), np.uint8), np.zeros((50, 64), bool))
    >>> with open_engine(Bundle(Path("bundle")), "onnxruntime:fp32") as engine:
    ...     [one.shape for one in probabilities(engine, [patch] * 3, batch=2)]
    [(50, 64), (50, 64), (50, 64)]

    Args:
        engine: An open engine.
        patches: K patches; the padding of a patch is left out of its map.
        batch: Patches per inference call; those of a call have the same size.
        tile: Side of the tiles in which the engine sees each patch; None: it sees a patch whole.
        progress: Show a progress bar on stderr.

    Returns:
        K maps float32[h,w] of the size of the patches' masks.
    """
    groups = [[patch] for patch in patches] if tile else list(_batches(patches, batch))
    maps: list[Map] = []
    for group in track(groups, engine.id, console=Console(stderr=True), disable=not progress):
        if tile:
            maps += [engine.segment(patch.image, tile=tile, batch=batch) for patch in group]
        else:
            maps += list(engine(np.stack([patch.image for patch in group]))[:, 0])
    return [_without_padding(one, patch) for one, patch in zip(maps, patches, strict=True)]


def _batches(patches: Sequence[Patch], batch: int) -> Iterator[list[Patch]]:
    for _, same in groupby(patches, key=lambda patch: patch.image.shape):
        group = list(same)
        yield from (group[start : start + batch] for start in range(0, len(group), batch))


def _without_padding(one: Map, patch: Patch) -> Map:
    height, width = patch.mask.shape
    return one[:height, :width]
