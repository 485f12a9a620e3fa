"""Data sets given as PATH or NAME=PATH: several for one training, and the images to score of one of them."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msal_deploy.data.annotated import AnnotatedImage
from msal_deploy.data.dataset import open_dataset
from msal_deploy.data.images import pixel_hash
from msal_deploy.data.label_checks import check_labels
from msal_deploy.data.layout import Dataset
from msal_deploy.errors import BadInput

NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)")

Warn = Callable[[str], None]  # is called with a line about labels that are odd, but not certainly wrong
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
def open_training_sets(
    sources: Iterable[str], warn: Warn | None = None, labels: str | None = None, split: float | None = None
) -> Iterator[dict[str, tuple[AnnotatedImage, ...]]]:
    """Open data sets and return the training images of each by its name.

    Where no folder is named train or test, all images of the set are training images.

    >>> with open_training_sets(["mine=monuseg"]) as sets:
    ...     {name: len(images) for name, images in sets.items()}
    {'mine': 2}

    Args:
        sources: Folders or zips, each as PATH or NAME=PATH.
        warn: Called with a line for each image whose labels are odd.
        labels: Name of the folder of label maps to use, where there are several.
        split: Share of each set's images to leave for the test, where no folder is named train or test.

    Raises:
        BadInput: Two sets have the same name, a set has no training images, an image has no annotation or cannot be
            read, its labels are wrong (`check_labels`), or the same image is in the data twice, the test images
            included.
    """
    with ExitStack() as stack:
        datasets: dict[str, Dataset] = {}
        for name, path in map(split_name, sources):
            if name in datasets:
                raise BadInput(f"Two data sets are named {name!r}", "name them: --data NAME=PATH")
            datasets[name] = stack.enter_context(open_dataset(path, labels, split))
            if not training_images(datasets[name]):
                raise BadInput(f"{path} has no training images", "put them in a folder named train, or use --split 0.2")
        check_distinct({name: (*dataset.train, *dataset.test) for name, dataset in datasets.items()})
        sets = {name: training_images(dataset) for name, dataset in datasets.items()}
        for images in sets.values():
            check_labels(images, warn)
        yield sets


def training_images(dataset: Dataset) -> tuple[AnnotatedImage, ...]:
    """Return the training images, or all images if the names of the folders separate no test images from them."""
    return dataset.train if dataset.has_split else dataset.test


@contextmanager
def open_scored_images(
    source: str, warn: Warn | None = None, labels: str | None = None, split: float | None = None
) -> Iterator[tuple[AnnotatedImage, ...]]:
    """Open a data set that `open_training_sets` accepts, and return the images to score.

    >>> with open_scored_images("lab=monuseg") as images:
    ...     [annotated.stem for annotated in images]
    ['SYNTH-TEST-000', 'SYNTH-TEST-001']

    Args:
        source: Folder or zip, as PATH or NAME=PATH.
        warn: Called with a line for each image whose labels are odd.
        labels: Name of the folder of label maps to use, where there are several.
        split: Share of the images to score, where no folder is named train or test.

    Raises:
        BadInput: The set cannot be opened (`open_dataset`), has no test images (`scored_images`), its labels are wrong
            (`check_labels`), or a test image is also a training image.
    """
    with open_dataset(split_name(source)[1], labels, split) as dataset:
        images = scored_images(dataset)
        check_labels(images, warn)
        if dataset.train:
            check_distinct({"train": dataset.train, "test": dataset.test})
        yield images


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
    seen: dict[str, str] = {}
    for set_name, images in sets.items():
        for annotated in images:
            digest, name = pixel_hash(annotated.image()), f"{set_name}/{annotated.stem}"
            if digest in seen:
                raise BadInput(f"{seen[digest]} and {name} have the same pixels", "keep one of them")
            seen[digest] = name
