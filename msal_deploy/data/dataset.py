"""Finding images and their annotations in a folder or zip, whatever the names of its folders.

There is no branch per layout; names say what a file is, and the folder suggest to the file speaks first.

*Split*: a folder whose name holds the word train, training, val or validation is training data (validation images are
split off the training images later, by `validation_split`); test or testing is test data. ``MoNuSegTestData``,
``Train_Folder`` and ``MoNuSeg 2018 Training Data`` all say it. A set without such a name is a test set.

*Role*: an ``.xml`` is an annotation. A TIFF, PNG or JPEG is a label map where a folder is called labels, labelcol,
masks, Instance Maps, Annotations or the like, or where its own name ends in ``_mask``, ``_label`` or ``_labels``;
otherwise it is an image. An image and what annotates it have the same stem.
"""

import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.data.annotations import VERTEX_CONVENTION, rasterise, read_xml
from msal_deploy.data.archive import is_junk, unpack
from msal_deploy.data.images import image_size, read_image, read_label
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath

Split = Literal["train", "test"]
Role = Literal["image", "xml", "map"]

RASTER_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
SPLIT_OF_WORD: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "traindata", "trainset", "val", "valid", "validation"), "train"),
    **dict.fromkeys(("test", "testing", "testdata", "testset"), "test"),
}
ROLE_OF_WORD: dict[str, Role] = {
    **dict.fromkeys(("image", "images", "img", "imgs", "tissue"), "image"),
    **dict.fromkeys(("label", "labels", "labelcol", "mask", "masks", "map", "maps", "gt", "groundtruth"), "map"),
    **dict.fromkeys(("annotation", "annotations", "instance", "instances", "truth"), "map"),
}
LABEL_ENDING = re.compile(r"[_\-. ](bin[_\-])?(mask|label)s?$", re.IGNORECASE)


class AnnotatedImage(msgspec.Struct, frozen=True):
    """An image and what annotates it: an Aperio XML, an instance map (or binary mask), or both."""

    stem: str
    split: Split
    image_path: Path
    xml_path: Path | None
    map_path: Path | None

    def image(self) -> NDArray[np.uint8]:
        """Read the image, uint8[H,W,3] RGB; raises `BadInput` as `read_image` does."""
        return read_image(self.image_path)

    def instances(self) -> NDArray[np.int32]:
        """Return the nuclei, int32[H,W], 0 = background; from the XML where there is one, else from the map.

        Raises:
            BadInput: a file cannot be used, the label has not the image's size, or there is no annotation.
        """
        shape = image_size(self.image_path)
        if self.xml_path is not None:
            return rasterise(read_xml(self.xml_path).polygons, shape)
        if self.map_path is None:
            raise BadInput(f"{self.image_path} has no annotation; put an XML or a label map of the same name beside it")
        return checked_size(read_label(self.map_path), shape, self.map_path)

    def mask(self) -> NDArray[np.bool_]:
        """Return where nuclei are, bool[H,W]; raises as `instances` does."""
        return self.instances() > 0


def label_convention(cases: Iterable[AnnotatedImage]) -> str:
    """Return a sentence on how the masks of `cases` came about, for reports: a wrong convention moves Dice by 0.05."""
    maps = "label maps as they are, without redrawing"
    drawn = {case.xml_path is not None for case in cases}
    return VERTEX_CONVENTION if drawn == {True} else maps if drawn == {False} else f"{VERTEX_CONVENTION}; else {maps}"


def checked_size(instances: NDArray[np.int32], shape: tuple[int, int], path: Path) -> NDArray[np.int32]:
    """Return `instances`, or raise `BadInput` unless its size is the image's `shape`."""
    if instances.shape != shape:
        (height, width), (label_height, label_width) = shape, instances.shape
        raise BadInput(f"{path} is {label_width}×{label_height} px and its image {width}×{height}; make them the same")
    return instances


class Dataset(msgspec.Struct, frozen=True):
    """The cases of a folder, sorted by stem."""

    root: Path
    train: tuple[AnnotatedImage, ...]
    test: tuple[AnnotatedImage, ...]


class Problem(msgspec.Struct, frozen=True):
    """Something wrong with a set: what, what to do about it, and which stems or files it concerns."""

    what: str
    advice: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        named = ", ".join(self.names[:3]) + (", …" if len(self.names) > 3 else "")
        return f"{self.what}: {len(self.names)} ({named}); {self.advice}"


class Findings(msgspec.Struct, frozen=True):
    """What a folder holds, and what is wrong with it. An image without annotation is a case without paths."""

    dataset: Dataset
    problems: tuple[Problem, ...]


class _File(msgspec.Struct, frozen=True):
    path: Path
    stem: str
    role: Role
    split: Split | None


@contextmanager
def open_dataset(path: StrPath) -> Iterator[Dataset]:
    """Yield the cases of a folder or a zip; a zip is unpacked into a temporary folder, removed afterwards.

    Raises:
        BadInput: see `find_dataset`; and no such path, or a zip that `unpack` refuses.
    """
    with opened_folder(path) as folder:
        yield find_dataset(folder)


@contextmanager
def opened_folder(path: StrPath) -> Iterator[Path]:
    """Yield `path` if it is a folder, or a temporary one with what the zip `path` holds.

    Raises:
        BadInput: no such path, or a zip that `unpack` refuses.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"There is no folder or zip {path}")
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="msal-deploy-") as temporary:
        folder = Path(temporary) / path.stem  # the zip's name may say train or test
        unpack(path, folder)
        yield folder


def find_dataset(folder: StrPath) -> Dataset:
    """Return the cases of a folder.

    Raises:
        BadInput: no images, an image without annotation, an annotation without image, two files for one stem, a stem
            in both splits, or files whose folders say neither train nor test beside others that do.
    """
    findings = scan(folder := Path(folder))
    if findings.problems:
        more = len(findings.problems) - 1
        also = f" (and {more} more: run msal-deploy data verify)" if more else ""
        raise BadInput(f"{folder.name}: {findings.problems[0]}{also}")
    return findings.dataset


def scan(folder: Path) -> Findings:
    """Return the cases of a folder and all problems with its names; no file is opened.

    Raises:
        BadInput: there is no image at all.
    """
    files = [_classify(path, folder) for path in _walk(folder) if path.suffix.lower() in (*RASTER_SUFFIXES, ".xml")]
    if not any(file.role == "image" for file in files):
        raise BadInput(f"{folder.name} holds no images (TIFF, PNG or JPEG); give the folder or zip of a MoNuSeg copy")
    problems = [_unnamed(files)]
    train, train_problems = _cases([file for file in files if file.split == "train"], "train")
    test, test_problems = _cases([file for file in files if file.split != "train"], "test")
    problems += [*train_problems, *test_problems, _leaked(train, test)]
    found = tuple(problem for problem in problems if problem.names)
    return Findings(Dataset(folder, train, test), found)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files, sorted; links to folders are followed, each folder once."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        paths = (Path(parent, name) for name in sorted(names))
        yield from (path for path in paths if not is_junk(path.relative_to(folder)))


def _classify(path: Path, root: Path) -> _File:
    # The root's own name speaks last: "MoNuSeg 2018 Training Data" may be what was given.
    names = [*reversed(path.relative_to(root).parent.parts), root.resolve().name]
    split = next((split for name in names if (split := _split_said(name))), None)
    if path.suffix.lower() == ".xml":
        return _File(path, path.stem, "xml", split)
    ending = LABEL_ENDING.search(path.stem)
    roles = (said for name in names[:-1] if (said := _role_said(name)))
    role: Role = "map" if ending else next(roles, "image")
    stem = path.stem[: ending.start()] if ending else path.stem
    return _File(path, stem, role, split)


def _words(name: str) -> list[str]:
    return [word.lower() for word in WORD.findall(name)]


def _split_said(name: str) -> Split | None:
    said = {SPLIT_OF_WORD[word] for word in _words(name) if word in SPLIT_OF_WORD}
    return said.pop() if len(said) == 1 else None  # "train_and_test" says neither


def _role_said(name: str) -> Role | None:
    said = {ROLE_OF_WORD[word] for word in _words(name) if word in ROLE_OF_WORD}
    return "map" if "map" in said else "image" if said else None  # "mask_images" are masks


def _cases(files: Iterable[_File], split: Split) -> tuple[tuple[AnnotatedImage, ...], list[Problem]]:
    found: dict[str, dict[Role, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        found[file.stem][file.role].append(file.path)
    cases = tuple(
        AnnotatedImage(stem, split, roles["image"][0], _first(roles["xml"]), _first(roles["map"]))
        for stem, roles in sorted(found.items())
        if roles["image"]
    )
    return cases, _pairing_problems(found, cases, split)


def _first(paths: list[Path]) -> Path | None:
    return paths[0] if paths else None


def _pairing_problems(
    found: dict[str, dict[Role, list[Path]]], cases: tuple[AnnotatedImage, ...], split: Split
) -> list[Problem]:
    unannotated = tuple(case.stem for case in cases if case.xml_path is None and case.map_path is None)
    without_image = tuple(sorted(stem for stem, roles in found.items() if not roles["image"]))
    twice = tuple(sorted(stem for stem, roles in found.items() if any(len(paths) > 1 for paths in roles.values())))
    return [
        Problem(f"{split} images without annotation", "add an XML or a label map of the same name", unannotated),
        Problem(f"{split} annotations without image", "add the images or remove the annotations", without_image),
        Problem(f"{split} stems with two files of one kind", "keep one, or put label maps in a folder 'labels'", twice),
    ]


def _unnamed(files: list[_File]) -> Problem:
    some_named = any(file.split for file in files)
    unnamed = sorted({file.stem for file in files if file.split is None}) if some_named else []
    advice = "move them into a folder that does, as the others are"
    return Problem("stems in folders whose names say neither train nor test", advice, tuple(unnamed))


def _leaked(train: tuple[AnnotatedImage, ...], test: tuple[AnnotatedImage, ...]) -> Problem:
    both = {case.stem for case in train} & {case.stem for case in test}
    return Problem(
        "images both in train and in test", "remove them from one, or scores mean nothing", tuple(sorted(both))
    )
