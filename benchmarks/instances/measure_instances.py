"""Score the separation of an engine's probability maps, and time it on one core."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from statistics import fmean
from typing import Any

import baselines
import cv2
import msgspec
import numpy as np
from instance_results import Results, Row, Timing
from msgspec.structs import replace
from numpy.typing import NDArray
from rich.progress import track

from msal_deploy.bench import describe_machine
from msal_deploy.bundle import Bundle
from msal_deploy.data import AnnotatedImage, open_dataset, validation_split
from msal_deploy.data.training_sets import split_name, training_images
from msal_deploy.errors import BadInput
from msal_deploy.instances import Separation, separate
from msal_deploy.metrics import NUCLEI_METRICS, NucleiCounts, count_nuclei
from msal_deploy.runtimes import Engine, open_engine

Separate = Callable[[NDArray[np.float32], NDArray[np.int32]], NDArray[np.int32]]
COMPARED: dict[str, Separate] = {
    "connected regions": baselines.connected,
    "distance peaks, watershed": baselines.peaks,
    "default": baselines.default,
    "true markers": baselines.true_markers,
    "true separation": baselines.true_separation,
    "true foreground": baselines.true_foreground,
}
# One parameter at a time differs from the default.
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    *({"levels": one} for one in ((), (0.9,), (0.95, 0.98), (0.7, 0.8, 0.9), (0.8, 0.9, 0.95, 0.98))),
    *({"saddle": one} for one in (0.8, 0.9, 0.93, 0.97, 0.99)),
    *({"smoothing": one} for one in (0.25, 0.5, 0.7)),
    *({"min_area": one} for one in (2.0, 3.0, 5.0, 7.0)),
    *({"max_hole": one} for one in (5.0, 100.0)),
    *({"threshold": one} for one in (0.4, 0.45, 0.55, 0.6)),
)


class Map(msgspec.Struct, frozen=True, eq=False):
    """The probabilities float32[H,W] of an image and its true nuclei int32[H,W]."""

    probability: NDArray[np.float32]
    truth: NDArray[np.int32]


def measure(bundle: Bundle, data: Sequence[str], engines: Sequence[str], repeats: int) -> Results:
    """Compare parameters on held-out images with the first engine; score all engines on test images.

    Raises:
        BadInput: No data set has test images.
    """
    first, fraction = engines[0], bundle.manifest.recipe.train.validation
    with ExitStack() as stack:
        named = [(name, stack.enter_context(open_dataset(path))) for name, path in map(split_name, data)]
        held_out = {name: validation_split(training_images(one), fraction)[1] for name, one in named}
        test = {name: one.test for name, one in named if one.has_split and one.test}
        if not test:
            raise BadInput("No data set has a folder with test images", "use MoNuSeg")
        chosen = {name: _maps(bundle, first, images) for name, images in held_out.items()}
        tested = {engine: {name: _maps(bundle, engine, images) for name, images in test.items()} for engine in engines}
    return Results(
        engine=first,
        parameters=Separation(),
        choice=[
            _row(name, _text(one), maps, _variant(one)) for one in _shown(VARIANTS) for name, maps in chosen.items()
        ],
        limits=[_row(name, how, maps, one) for name, maps in chosen.items() for how, one in COMPARED.items()],
        test=[
            _row(name, f"{engine}: {how}", maps, one)
            for engine in engines
            for name, maps in tested[engine].items()
            for how, one in COMPARED.items()
            if engine == first or how == "default"
        ],
        timing=_time([one for maps in tested[first].values() for one in maps], repeats),
        environment=describe_machine(),
    )


def _maps(bundle: Bundle, name: str, images: Sequence[AnnotatedImage]) -> list[Map]:
    with open_engine(bundle, name) as engine:
        return [Map(_probability(engine, one.image()), one.instances()) for one in _shown(images)]


def _probability(engine: Engine, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32[H,W] of a whole image, padded by reflection to multiples of 32."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % 32), (0, -width % 32), (0, 0)), mode="reflect")
    return engine(padded[None])[0, 0, :height, :width]


def _shown(values: Sequence[Any]) -> Iterable[Any]:
    return track(values, transient=True)


def _variant(changed: dict[str, Any]) -> Separate:
    parameters = replace(Separation(), **{name: value for name, value in changed.items() if name != "threshold"})
    threshold = changed.get("threshold", 0.5)
    return lambda probability, truth: separate(probability, threshold=threshold, parameters=parameters)


def _text(changed: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or "default"


def _row(data: str, how: str, maps: Sequence[Map], one: Separate) -> Row:
    """Images without a true nucleus are left out of the means."""
    counts = [count_nuclei(image.truth, one(image.probability, image.truth)) for image in maps]
    counts = [count for count in counts if count.true]
    return Row(data, how, len(counts), {metric.mean_key: _mean(metric.score, counts) for metric in NUCLEI_METRICS},
               fmean(count.true for count in counts), fmean(count.found for count in counts))  # fmt: skip


def _mean(score: Callable[[NucleiCounts], float], counts: Sequence[NucleiCounts]) -> float:
    return fmean(map(score, counts))


def _time(maps: Sequence[Map], repeats: int) -> Timing:
    """Time `separate` with one thread. Processor time, because other programs may run."""
    cv2.setNumThreads(1)
    milliseconds = np.array([_seconds(one.probability) for _ in range(repeats) for one in maps]) * 1e3
    sizes = {"×".join(map(str, one.probability.shape)) for one in maps}
    figures = (milliseconds.min(), np.median(milliseconds), milliseconds.max())
    return Timing(sorted(sizes), len(milliseconds), *map(float, figures))


def _seconds(probability: NDArray[np.float32]) -> float:
    start = time.thread_time()
    separate(probability)
    return time.thread_time() - start
