"""Data sets given as PATH or NAME=PATH: several for one training, and the images to score of one of them."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msal_deploy.data.dataset import AnnotatedImage, Dataset, open_dataset
from msal_deploy.errors import BadInput

NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)")

TrainingSets = Mapping[str, Sequence[AnnotatedImage]]


def split_name(source: str) -> tuple[str, Path]:
    """Return the name and the path of a data set given as PATH or NAME=PATH. The name defaults to the folder's.

    >>> split_name("data/consep"), split_name("lab=scans.zip")
    (('consep', PosixPath('data/consep')), ('lab', PosixPath('scans.zip')))
    """
    named = None if Path(source).exists() else NAMED.fullmatch(source)
    if named:
        return named[1], Path(named[2])
    path = Path(source)
    return Path(os.path.normpath(path.absolute())).name.removesuffix(".zip"), path


@contextmanager
def open_training_sets(sources: Iterable[str]) -> Iterator[dict[str, tuple[AnnotatedImage, ...]]]:
    """Open data sets and return the training images of each by its name.

    Where no folder is named train or test, all images of the set are training images.

    >>> with open_training_sets(["mine=monuseg"]) as sets:
    ...     {name: len(images) for name, images in sets.items()}
    {'mine': 2}

    Args:
        sources: Folders or zips, each as PATH or NAME=PATH.

    Raises:
        BadInput: Two sets have the same name, a set has no training images, an image has no annotation or cannot be
            read, or the same image is in the data twice, the test images included.
    """
    with ExitStack() as stack:
        datasets: dict[str, Dataset] = {}
        for name, path in map(split_name, sources):
            if name in datasets:
                raise BadInput(f"Two data sets are named {name!r}", "name them: --data NAME=PATH")
            datasets[name] = stack.enter_context(open_dataset(path))
            if not training_images(datasets[name]):
                raise BadInput(f"{path} has no training images", "put them in a folder named train")
        check_distinct({name: (*dataset.train, *dataset.test) for name, dataset in datasets.items()})
        yield {name: training_images(dataset) for name, dataset in datasets.items()}


def training_images(dataset: Dataset) -> tuple[AnnotatedImage, ...]:
    """Return the training images, or all images if the names of the folders separate no test images from them."""
    return dataset.train if dataset.has_split else dataset.test


@contextmanager
def open_scored_images(source: str) -> Iterator[tuple[AnnotatedImage, ...]]:
    """Open a data set that `open_training_sets` accepts, and return the images to score.

    >>> with open_scored_images("lab=monuseg") as images:
    ...     [annotated.stem for annotated in images]
    ['SYNTH-TEST-000', 'SYNTH-TEST-001']

    Args:
        source: Folder or zip, as PATH or NAME=PATH.

    Raises:
        BadInput: The set cannot be opened (`open_dataset`), or has no test images (`scored_images`).
    """
    with open_dataset(split_name(source)[1]) as dataset:
        yield scored_images(dataset)


def scored_images(dataset: Dataset) -> tuple[AnnotatedImage, ...]:
    """Return the test images, or all images if the names of the folders separate no training images from them.

    Raises:
        BadInput: All images are training images.
    """
    if not dataset.test:
        cause = f"{dataset.root.name} has no test images: all {len(dataset.train)} are in folders named train or val"
        raise BadInput(cause, "put those to score in a folder named test")
    return dataset.test


def check_distinct(sets: TrainingSets) -> None:
    """Compare all images by their pixels, so that no image is trained on under one name and scored under another.

    Raises:
        BadInput: Two images are equal, or one cannot be read.
    """
    seen: dict[bytes, str] = {}
    for set_name, images in sets.items():
        for annotated in images:
            pixels = annotated.image()
            digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
            name = f"{set_name}/{annotated.stem}"
            if digest in seen:
                raise BadInput(f"{seen[digest]} and {name} have the same pixels", "keep one of them")
            seen[digest] = name
