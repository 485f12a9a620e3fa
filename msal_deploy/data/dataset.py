"""Open a folder or a zip as a data set; `layout` finds the annotated images in it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from msal_deploy.data.archive import unpack
from msal_deploy.data.layout import Dataset, scan
from msal_deploy.data.patches import validation_split
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, regular_file, temporary_folder

OTHER_ARCHIVE = re.compile(r"\.(tar|tgz|tbz2?|txz|gz|bz2|xz|zst|7z|rar)$", re.IGNORECASE)


@contextmanager
def open_dataset(path: StrPath, labels: str | None = None, split: float | None = None) -> Iterator[Dataset]:
    """Open a folder or zip as a data set. A zip is unpacked into a temporary folder, which is removed afterwards.

    >>> with open_dataset(Path("monuseg")) as dataset:
    ...     len(dataset.train), len(dataset.test)
    (2, 2)

    Args:
        path: The folder or zip.
        labels: Name of the folder of label maps to use, where there are several.
        split: Share of the images to test on, where no folder is named train or test.

    Raises:
        BadInput: The path does not exist, the zip cannot be unpacked safely, or `find_dataset` finds a problem.
    """
    with opened_folder(path) as folder:
        yield find_dataset(folder, labels, split)


@contextmanager
def opened_folder(path: StrPath) -> Iterator[Path]:
    """Yield `path` if it is a folder; unpack it into a temporary folder and yield that if it is a zip.

    Raises:
        BadInput: The path does not exist, or the zip cannot be unpacked safely.
    """
    path = Path(path)
    if path.is_dir():
        yield path
        return
    if not path.exists():
        raise BadInput(f"{path} does not exist", "check the path of the folder or zip")
    if OTHER_ARCHIVE.search(regular_file(path, "data set").name):
        raise BadInput(f"{path} is not a zip", "unpack it, and pass the folder")
    with temporary_folder(name="unpacked") as temporary:
        folder = temporary / path.stem  # the zip's name may contain train or test
        unpack(path, folder)
        yield folder


def find_dataset(folder: StrPath, labels: str | None = None, split: float | None = None) -> Dataset:
    """Return the annotated images of a folder.

    >>> [annotated.stem for annotated in find_dataset(Path("monuseg")).train]
    ['SYNTH-TRAIN-000', 'SYNTH-TRAIN-001']

    Args:
        folder: The folder.
        labels: Name of the folder of label maps to use, where there are several.
        split: Share of the images to test on, where no folder is named train or test: always the same images.

    Raises:
        BadInput: There are no images, an image has no annotation or an annotation no image, two files share a stem and
            role, a stem is in both splits, or only some folders are named train or test; or `split` is given though
            they are.
    """
    findings = scan(folder := Path(folder), labels)
    if findings.problems:
        first, more = findings.problems[0], len(findings.problems) - 1
        also = f" (and {more} more: run msal-deploy data verify)" if more else ""
        raise BadInput(f"{folder.name}: {first.cause}", f"{first.advice}{also}")
    return findings.dataset if split is None else _divided(findings.dataset, split)


def _divided(dataset: Dataset, share: float) -> Dataset:
    if dataset.has_split:
        raise BadInput(f"{dataset.root.name} has folders named train or test", "leave out --split")
    train, test = validation_split(dataset.test, share)
    return replace(dataset, train=tuple(replace(image, split="train") for image in train), test=test, has_split=True)
