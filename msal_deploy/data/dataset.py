"""Find annotated images in a folder or zip, for all common layouts of MoNuSeg.

No layout is hard-coded. The role of a file follows from words in the names of its folders; the innermost folder with
such a word decides.

*Split*: folders named with the word train, training, val or validation hold training data (`validation_split` later
splits the validation images off the training images); test or testing means test data. Examples are
``MoNuSegTestData``, ``Train_Folder`` and ``MoNuSeg 2018 Training Data``. A data set without such names is a test set.

*Role*: an ``.xml`` file is an annotation. A TIFF, PNG or JPEG is a label map if one of its folders is called labels,
labelcol, masks, Instance Maps, Annotations or similar, or if its own name ends in ``_mask``, ``_label`` or ``_labels``;
otherwise it is an image. An image and its annotation have the same stem.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.data.annotations import VERTEX_CONVENTION, read_xml
from msal_deploy.data.archive import is_junk, unpack
from msal_deploy.data.images import image_size, read_image, read_label
from msal_deploy.data.polygons import rasterise
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, temporary_folder

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
    """An image with its annotation: an Aperio XML, a label map (instance map or binary mask), or both.

    >>> annotated = find_dataset(Path("monuseg")).test[0]
    >>> annotated.stem, annotated.image().shape, annotated.mask().shape
    ('SYNTH-TEST-000', (512, 512, 3), (512, 512))

    Attributes:
        stem: File name of the image, without its suffix.
        split: ``train`` or ``test``.
        image_path: The image file.
        xml_path: The Aperio XML, if there is one.
        map_path: The label map, if there is one.
    """

    stem: str
    split: Split
    image_path: Path
    xml_path: Path | None
    map_path: Path | None

    def image(self) -> NDArray[np.uint8]:
        """Return the image, uint8[H,W,3] RGB.

        Raises:
            BadInput: The file cannot be read; see `read_image`.
        """
        return read_image(self.image_path)

    def instances(self) -> NDArray[np.int32]:
        """Return the nuclei as int32[H,W], 0 for background; from the XML if there is one, else from the label map.

        Raises:
            BadInput: A file cannot be read, the label map and the image differ in size, or there is no annotation.
        """
        shape = image_size(self.image_path)
        if self.xml_path is not None:
            return rasterise(read_xml(self.xml_path).polygons, shape, str(self.xml_path))
        if self.map_path is None:
            raise BadInput(f"{self.image_path} has no annotation", "add an XML or a label map of the same name")
        return checked_size(read_label(self.map_path), shape, self.map_path)

    def mask(self) -> NDArray[np.bool_]:
        """Return bool[H,W], true in nuclei; raises the same errors as `instances`."""
        return self.instances() > 0


def label_convention(images: Iterable[AnnotatedImage]) -> str:
    """Describe how the masks of `images` were made, for reports: a wrong convention changes Dice by 0.05.

    >>> label_convention(find_dataset(Path("monuseg")).test)
    '1-based pixel centres in the XML: 1 is subtracted from x and y, then skimage.draw.polygon'
    """
    maps = "label maps as they are, without redrawing"
    from_xml = {image.xml_path is not None for image in images}
    if len(from_xml) == 2:
        return f"{VERTEX_CONVENTION}; else {maps}"
    return VERTEX_CONVENTION if from_xml == {True} else maps


def checked_size(instances: NDArray[np.int32], shape: tuple[int, int], path: Path) -> NDArray[np.int32]:
    """Return `instances`; raise `BadInput` if its size is not `shape`, the size of the image."""
    if instances.shape != shape:
        (height, width), (label_height, label_width) = shape, instances.shape
        raise BadInput(
            f"{path} is {label_width}×{label_height} px and its image {width}×{height} px", "make them the same size"
        )
    return instances


class Dataset(msgspec.Struct, frozen=True):
    """The annotated images of a folder, sorted by stem.

    Attributes:
        root: The folder.
        train: Training images; `validation_split` later holds out some of them.
        test: Test images.
        has_split: Whether the names of folders separate training from test images. If not, all images are in `test`.
    """

    root: Path
    train: tuple[AnnotatedImage, ...]
    test: tuple[AnnotatedImage, ...]
    has_split: bool = True


class Problem(msgspec.Struct, frozen=True):
    """A problem of a data set.

    >>> print(Problem("test images without annotation", "add a label map", ("a", "b", "c", "d")))
    test images without annotation: 4 (a, b, c, …); add a label map

    Attributes:
        what: The cause.
        advice: The remedy.
        names: The stems or files that have the problem.
    """

    what: str
    advice: str
    names: tuple[str, ...]

    @property
    def cause(self) -> str:
        """What is wrong, with the number of names and the first three of them."""
        named = ", ".join(self.names[:3]) + (", …" if len(self.names) > 3 else "")
        return f"{self.what}: {len(self.names)} ({named})"

    def __str__(self) -> str:
        return f"{self.cause}; {self.advice}"


class Findings(msgspec.Struct, frozen=True):
    """The images of a folder, and the problems with its file names. Unannotated images are included."""

    dataset: Dataset
    problems: tuple[Problem, ...]


class _File(msgspec.Struct, frozen=True):
    path: Path
    stem: str
    role: Role
    split: Split | None


@contextmanager
def open_dataset(path: StrPath) -> Iterator[Dataset]:
    """Open a folder or zip as a data set. A zip is unpacked into a temporary folder, which is removed afterwards.

    >>> with open_dataset(Path("monuseg")) as dataset:
    ...     len(dataset.train), len(dataset.test)
    (2, 2)

    Raises:
        BadInput: The path does not exist, the zip cannot be unpacked safely, or `find_dataset` finds a problem.
    """
    with opened_folder(path) as folder:
        yield find_dataset(folder)


@contextmanager
def opened_folder(path: StrPath) -> Iterator[Path]:
    """Yield `path` if it is a folder; unpack it into a temporary folder and yield that if it is a zip.

    Raises:
        BadInput: The path does not exist, or the zip cannot be unpacked safely.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"{path} does not exist", "check the path of the folder or zip")
    if path.is_dir():
        yield path
        return
    with temporary_folder(name="unpacked") as temporary:
        folder = temporary / path.stem  # the zip's name may contain train or test
        unpack(path, folder)
        yield folder


def find_dataset(folder: StrPath) -> Dataset:
    """Return the annotated images of a folder.

    >>> [annotated.stem for annotated in find_dataset(Path("monuseg")).train]
    ['SYNTH-TRAIN-000', 'SYNTH-TRAIN-001']

    Raises:
        BadInput: There are no images, an image has no annotation or an annotation no image, two files share a stem and
            role, a stem is in both splits, or only some folders are named train or test.
    """
    findings = scan(folder := Path(folder))
    if findings.problems:
        first, more = findings.problems[0], len(findings.problems) - 1
        also = f" (and {more} more: run msal-deploy data verify)" if more else ""
        raise BadInput(f"{folder.name}: {first.cause}", f"{first.advice}{also}")
    return findings.dataset


def scan(folder: Path) -> Findings:
    """Return the images of a folder and all problems with its file names, without opening a file.

    Raises:
        BadInput: There is no image at all.
    """
    files = [_classify(path, folder) for path in _walk(folder) if path.suffix.lower() in (*RASTER_SUFFIXES, ".xml")]
    if not any(file.role == "image" for file in files):
        raise BadInput(f"{folder.name} holds no TIFF, PNG or JPEG images", "use a folder or zip with a copy of MoNuSeg")
    problems = [_unnamed(files)]
    train, train_problems = _pair([file for file in files if file.split == "train"], "train")
    test, test_problems = _pair([file for file in files if file.split != "train"], "test")
    problems += [*train_problems, *test_problems, _leaked(train, test)]
    dataset = Dataset(folder, train, test, has_split=any(file.split for file in files))
    return Findings(dataset, tuple(problem for problem in problems if problem.names))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files in sorted order. Links to folders are followed, but each folder is visited once."""
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
    # The root's own name counts last: the user may pass "MoNuSeg 2018 Training Data" itself.
    names = [*reversed(path.relative_to(root).parent.parts), root.resolve().name]
    split = next((split for name in names if (split := _split_in(name))), None)
    if path.suffix.lower() == ".xml":
        return _File(path, path.stem, "xml", split)
    ending = LABEL_ENDING.search(path.stem)
    roles = (role for name in names[:-1] if (role := _role_in(name)))
    stem = path.stem[: ending.start()] if ending else path.stem
    return _File(path, stem, "map" if ending else next(roles, "image"), split)


def _words(name: str) -> list[str]:
    return [word.lower() for word in WORD.findall(name)]


def _split_in(name: str) -> Split | None:
    splits = {SPLIT_OF_WORD[word] for word in _words(name) if word in SPLIT_OF_WORD}
    return splits.pop() if len(splits) == 1 else None  # "train_and_test" is ambiguous


def _role_in(name: str) -> Role | None:
    roles = {ROLE_OF_WORD[word] for word in _words(name) if word in ROLE_OF_WORD}
    return "map" if "map" in roles else "image" if roles else None  # "mask_images" are masks


def _pair(files: Iterable[_File], split: Split) -> tuple[tuple[AnnotatedImage, ...], list[Problem]]:
    paths_of: dict[str, dict[Role, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        paths_of[file.stem][file.role].append(file.path)
    images = tuple(
        AnnotatedImage(stem, split, roles["image"][0], _first(roles["xml"]), _first(roles["map"]))
        for stem, roles in sorted(paths_of.items())
        if roles["image"]
    )
    return images, _pairing_problems(paths_of, images, split)


def _first(paths: list[Path]) -> Path | None:
    return paths[0] if paths else None


def _pairing_problems(
    paths_of: dict[str, dict[Role, list[Path]]], images: tuple[AnnotatedImage, ...], split: Split
) -> list[Problem]:
    unannotated = tuple(image.stem for image in images if image.xml_path is None and image.map_path is None)
    without_image = tuple(sorted(stem for stem, roles in paths_of.items() if not roles["image"]))
    twice = tuple(sorted(stem for stem, roles in paths_of.items() if any(len(paths) > 1 for paths in roles.values())))
    return [
        Problem(f"{split} images without annotation", "add an XML or a label map of the same name", unannotated),
        Problem(f"{split} annotations without image", "add the images or remove the annotations", without_image),
        Problem(
            f"{split} stems with two files of one kind", "keep one, or move label maps to a folder 'labels'", twice
        ),
    ]


def _unnamed(files: list[_File]) -> Problem:
    some_named = any(file.split for file in files)
    unnamed = sorted({file.stem for file in files if file.split is None}) if some_named else []
    advice = "move them into a train or test folder, like the others"
    return Problem("stems in folders named neither train nor test", advice, tuple(unnamed))


def _leaked(train: tuple[AnnotatedImage, ...], test: tuple[AnnotatedImage, ...]) -> Problem:
    both = {image.stem for image in train} & {image.stem for image in test}
    return Problem("images both in train and in test", "remove them from one split", tuple(sorted(both)))
