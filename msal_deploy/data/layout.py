"""Find annotated images in a folder, in all common layouts.

No layout is hard-coded. The role of a file follows from words in the names of its folders; the innermost folder with
such a word decides.

*Split*: folders named with the word train, training, val or validation hold training data (`validation_split` later
splits the validation images off the training images); test or testing means test data. Examples are
``MoNuSegTestData``, ``Train_Folder`` and ``MoNuSeg 2018 Training Data``. A data set without such names is a test set.

*Role*: an ``.xml`` file is an annotation, and a ``.mat`` or ``.npz`` a label map. A TIFF, PNG or JPEG is a label map if
one of its folders is called labels, labelcol, masks, Instance Maps, Annotations or similar, or if its own name ends in
``_mask``, ``_label`` or ``_labels``; otherwise it is an image. A name that says both, such as images_and_annotations,
says neither. Overlays, distance maps and the like are left out (`IGNORED`). An image and its annotation have the same
stem; `masks_of` explains folders with one mask for each nucleus, and `_key` stacks such as PanNuke's.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from msal_deploy.data.annotated import AnnotatedImage, Split
from msal_deploy.data.archive import walk
from msal_deploy.data.arrays import ARRAY_SUFFIXES, stack_length
from msal_deploy.data.images import RASTER_SUFFIXES
from msal_deploy.errors import BadInput

Role = Literal["image", "xml", "map"]

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
BOTH = re.compile(r"(?<![A-Za-z])and(?![A-Za-z])|And|[&+]", re.ASCII)
IGNORED = frozenset(("overlay", "overlays", "distance", "weighted", "vague", "contours", "heatmap", "heatmaps"))
LABEL_ENDING = re.compile(r"[_\-. ](bin[_\-])?(mask|label)s?$", re.IGNORECASE)


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


def scan(folder: Path, labels: str | None = None) -> Findings:
    """Return the images of a folder and all problems with its file names, without opening a picture.

    Args:
        folder: The folder.
        labels: Name of the folder of label maps to use; None for all.

    Raises:
        BadInput: There is no image at all, or no label map in a folder named `labels`.
    """
    files = list(_merged([file for path in walk(folder) if (file := _classify(path, folder))]))
    if not any(file.role == "image" for file in files):
        raise BadInput(
            f"{folder.name} holds no TIFF, PNG or JPEG images",
            "use a folder or zip with the folders images and masks, or a copy of MoNuSeg",
        )
    files = _of_labels(files, folder, labels)
    problems = [_unnamed(files)]
    train, train_problems = _pair([file for file in files if file.split == "train"], "train", folder)
    test, test_problems = _pair([file for file in files if file.split != "train"], "test", folder)
    problems += [*train_problems, *test_problems, _leaked(train, test)]
    dataset = Dataset(folder, train, test, has_split=any(file.split for file in files))
    return Findings(dataset, tuple(problem for problem in problems if problem.names))


def _classify(path: Path, root: Path) -> _File | None:
    """Return what a file is by its names, or None if it is neither an image nor an annotation."""
    # The root's own name counts last: the user may pass "MoNuSeg 2018 Training Data" itself.
    folders = [*reversed(path.relative_to(root).parent.parts)]
    split = next((split for name in (*folders, root.resolve().name) if (split := _split_in(name))), None)
    suffix = path.suffix.lower()
    if suffix == ".xml":
        return _File(path, path.stem, "xml", split)
    if suffix not in (*RASTER_SUFFIXES, *ARRAY_SUFFIXES) or IGNORED & {
        word for name in folders for word in _words(name)
    }:
        return None
    if suffix == ".npy" and (stacked := _role_in(path.stem)):
        return _File(path, _key(folders, root), stacked, split)
    role = next((found for name in folders if (found := _role_in(name))), None) or "image"
    if suffix in ARRAY_SUFFIXES:
        return None if role == "image" and suffix == ".npy" and folders else _File(path, path.stem, "map", split)
    ending = LABEL_ENDING.search(path.stem)
    return _File(path, path.stem[: ending.start()] if ending else path.stem, "map" if ending else role, split)


def _key(folders: list[str], root: Path) -> str:
    """Return what ``images.npy`` and ``masks.npy`` of a stack have in common: their folder that has no role."""
    return next((name for name in folders if not _role_in(name)), root.resolve().name)


def _words(name: str) -> list[str]:
    return [word.lower() for word in WORD.findall(name)]


def _split_in(name: str) -> Split | None:
    splits = {SPLIT_OF_WORD[word] for word in _words(name) if word in SPLIT_OF_WORD}
    return splits.pop() if len(splits) == 1 else None  # "train_and_test" is ambiguous


def _role_in(name: str) -> Role | None:
    roles = {ROLE_OF_WORD[word] for word in _words(name) if word in ROLE_OF_WORD}
    if "map" in roles and BOTH.search(name):
        return None  # "images_and_annotations" holds both
    return "map" if "map" in roles else "image" if roles else None  # "mask_images" are masks


def _merged(files: list[_File]) -> Iterator[_File]:
    """Yield the files; all masks of one image, one for each nucleus, become one folder.

    They are so if their folder is called like the image (``masks/ID/*.png``), or the folder around it is, as in the
    Data Science Bowl 2018 (``ID/masks/*.png``).
    """
    stems = {file.stem for file in files if file.role == "image"}
    folders = set()
    for file in files:
        folder = file.path.parent
        owner = next((name for name in (folder.name, folder.parent.name) if name in stems), None)
        if file.role != "map" or owner is None or file.stem in stems or file.path.suffix.lower() in ARRAY_SUFFIXES:
            yield file
        elif folder not in folders:
            folders.add(folder)
            yield _File(folder, owner, "map", file.split)


def _of_labels(files: list[_File], root: Path, labels: str | None) -> list[_File]:
    """Leave out the label maps that are not in a folder of that name."""
    if labels is None:
        return files
    kept = [file for file in files if file.role != "map" or labels in file.path.relative_to(root).parts[:-1]]
    if not any(file.role == "map" for file in kept):
        found = sorted({_folder(file.path, root) for file in files if file.role == "map"})
        raise BadInput(f"No label map is in a folder named {labels!r}", f"they are in {', '.join(found[:5]) or 'none'}")
    # With a folder of label maps chosen, outlines are not wanted.
    return [file for file in kept if file.role != "xml"]


def _folder(path: Path, root: Path) -> str:
    """Return the name of the folder of a file, which tells label maps of one image apart."""
    return path.parent.name if path.parent != root else path.name


def _pair(files: Iterable[_File], split: Split, root: Path) -> tuple[tuple[AnnotatedImage, ...], list[Problem]]:
    paths_of: dict[str, dict[Role, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        paths_of[file.stem][file.role].append(file.path)
    images = tuple(
        image
        for stem, roles in sorted(paths_of.items())
        if roles["image"]
        for image in _unstacked(
            AnnotatedImage(stem, split, roles["image"][0], _first(roles["xml"]), _first(roles["map"]))
        )
    )
    return images, _pairing_problems(paths_of, images, split, root)


def _unstacked(stack: AnnotatedImage) -> Iterator[AnnotatedImage]:
    """Yield the images of a stack; anything else as it is."""
    if stack.image_path.suffix.lower() != ".npy":
        yield stack
        return
    for index in range(stack_length(stack.image_path)):
        yield msgspec.structs.replace(stack, stem=f"{stack.stem}-{index:04d}", index=index)


def _first(paths: list[Path]) -> Path | None:
    return paths[0] if paths else None


def _pairing_problems(
    paths_of: dict[str, dict[Role, list[Path]]], images: tuple[AnnotatedImage, ...], split: Split, root: Path
) -> list[Problem]:
    unannotated = tuple(image.stem for image in images if image.xml_path is None and image.map_path is None)
    without_image = tuple(sorted(stem for stem, roles in paths_of.items() if not roles["image"]))
    several = [(stem, role, paths) for stem, roles in sorted(paths_of.items()) for role, paths in roles.items()]
    twice: dict[str, list[str]] = {"map": [], "other": []}
    for stem, role, paths in several:
        if len(paths) > 1:
            twice["map" if role == "map" else "other"].append(f"{stem}: {_places(paths, root)}")
    return [
        Problem(
            f"{split} images without annotation",
            "add an XML or a label map of the same name, in a folder named like annotations, labels or masks",
            unannotated,
        ),
        Problem(f"{split} annotations without image", "add the images or remove the annotations", without_image),
        Problem(
            f"{split} images with several label maps", "choose their folder with --labels NAME", tuple(twice["map"])
        ),
        Problem(
            f"{split} stems with two files of one kind",
            "keep one, or move label maps to a folder 'labels'",
            tuple(twice["other"]),
        ),
    ]


def _places(paths: list[Path], root: Path) -> str:
    """Return where the files are: the names of their folders, or of the files if these are in one folder."""
    folders = list(dict.fromkeys(_folder(path, root) for path in paths))
    return " and ".join(folders if len(folders) == len(paths) else [path.name for path in paths])


def _unnamed(files: list[_File]) -> Problem:
    some_named = any(file.split for file in files)
    unnamed = sorted({file.stem for file in files if file.split is None}) if some_named else []
    advice = "move them into a train or test folder, like the others"
    return Problem("stems in folders named neither train nor test", advice, tuple(unnamed))


def _leaked(train: tuple[AnnotatedImage, ...], test: tuple[AnnotatedImage, ...]) -> Problem:
    both = {image.stem for image in train} & {image.stem for image in test}
    return Problem("images both in train and in test", "remove them from one split", tuple(sorted(both)))
