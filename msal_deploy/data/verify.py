"""Check a whole data set before training or scoring on it. All problems are collected; none stops the check."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from msal_deploy.data.annotated import AnnotatedImage
from msal_deploy.data.annotations import VERTEX_CONVENTION, Annotation, read_xml
from msal_deploy.data.checksums import Checksums, check_sums
from msal_deploy.data.dataset import opened_folder
from msal_deploy.data.images import pixel_hash
from msal_deploy.data.label_checks import Fault, contrast, label_faults
from msal_deploy.data.layout import Problem, scan
from msal_deploy.data.polygons import rasterise
from msal_deploy.data.verify_report import Agreement, ImageReport, SplitReport, VerifyReport
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath

MIN_AGREEMENT = 0.85  # IoU; the worst MoNuSeg image has 0.90, and without the shift of 1 px the mean is 0.87

Item = TypeVar("Item")
Value = TypeVar("Value")


def verify(path: StrPath, *, labels: str | None = None, progress: bool = False) -> VerifyReport:
    """Read every file of a data set and report its contents and problems.

    >>> report = verify(Path("monuseg"))
    >>> report.ok, report.train.images, report.test.sizes
    (True, 2, {'512×512': 2})

    Args:
        path: A folder or zip.
        labels: Name of the folder of label maps to use, where there are several.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: The path does not exist, the zip cannot be unpacked, or there is no image.
    """
    with opened_folder(path) as folder:
        findings = scan(folder, labels)
        dataset = findings.dataset
        train = [_check(image, folder) for image in _tracked(dataset.train, "training images", progress)]
        test = [_check(image, folder) for image in _tracked(dataset.test, "test images", progress)]
        checksums = check_sums(folder)
    problems = (*findings.problems, *_same_pixels(train, test), *_content_problems([*train, *test], checksums))
    return VerifyReport(
        path=str(path),
        vertex_convention=VERTEX_CONVENTION,
        train=_split_report(dataset.train, train),
        test=_split_report(dataset.test, test),
        agreement=_agreement([*train, *test]),
        checksums=checksums,
        problems=tuple(problem for problem in problems if problem.names),
    )


def _tracked(items: Sequence[Item], what: str, progress: bool) -> Iterable[Item]:
    return track(items, what, console=Console(stderr=True), disable=not progress)


def _check(annotated: AnnotatedImage, folder: Path) -> ImageReport:
    """Read an image and its annotations; each file that cannot be used becomes a fault."""
    faults: list[str] = []
    image = _attempt(faults, annotated.image)
    annotation = _attempt(faults, partial(read_xml, annotated.xml_path)) if annotated.xml_path else None
    drawn = label = None
    if image is not None:
        label = _attempt(faults, annotated.label_map)
    if image is not None and annotation is not None:
        name = str(annotated.xml_path)
        drawn = _attempt(faults, partial(rasterise, annotation.polygons, image.shape[:2], name))
    report = _measured(annotated.stem, image, annotation, label, drawn)
    faults += [f"{annotated.stem}: {fault.cause}; {fault.remedy}" for fault in report.label_faults]
    # A zip's temporary folder no longer exists when the user reads the report.
    return msgspec.structs.replace(report, faults=tuple(fault.replace(f"{folder}/", "") for fault in faults))


def _attempt(faults: list[str], read: Callable[[], Value]) -> Value | None:
    try:
        return read()
    except BadInput as error:
        faults.append(str(error))
        return None


def _measured(
    stem: str,
    image: NDArray[np.uint8] | None,
    annotation: Annotation | None,
    label: NDArray[np.int32] | None,
    drawn: NDArray[np.int32] | None,
) -> ImageReport:
    shape = None if image is None else (image.shape[0], image.shape[1])
    truth = label if drawn is None else drawn
    darker: float | None = None
    label_problems: tuple[Fault, ...] = ()
    if image is not None and truth is not None:
        darker = contrast(image, truth > 0)
        label_problems = label_faults(image, truth, None if drawn is None else annotation)
    return ImageReport(
        stem=stem,
        size=None if shape is None else f"{shape[1]}×{shape[0]}",
        regions=0 if annotation is None else annotation.regions,
        degenerate=0 if annotation is None else annotation.degenerate,
        outside=0 if annotation is None or shape is None else annotation.outside(shape),
        outside_share=0.0 if annotation is None or shape is None else annotation.outside_share(shape),
        nuclei=0 if truth is None else len(np.unique(truth[truth > 0])),
        nuclei_share=None if truth is None else float((truth > 0).mean()),
        microns_per_pixel=None if annotation is None else annotation.microns_per_pixel,
        agreement=None if drawn is None or label is None else _iou(drawn > 0, label > 0),
        contrast=darker,
        pixels=None if image is None else pixel_hash(image),
        label_faults=label_problems,
    )


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def _same_pixels(train: list[ImageReport], test: list[ImageReport]) -> list[Problem]:
    """Find images under two names; two files of one name are found without reading them."""
    names_of: dict[str, list[str]] = defaultdict(list)
    splits_of: dict[str, set[str]] = defaultdict(set)
    for split, reports in (("train", train), ("test", test)):
        for report in reports:
            if report.pixels is not None and report.stem not in names_of[report.pixels]:
                names_of[report.pixels].append(report.stem)
                splits_of[report.pixels].add(split)
    repeated = {pixels: " = ".join(names) for pixels, names in names_of.items() if len(names) > 1}
    leaked = tuple(names for pixels, names in repeated.items() if len(splits_of[pixels]) > 1)
    within = tuple(names for pixels, names in repeated.items() if len(splits_of[pixels]) == 1)
    return [
        Problem("the same pixels in train and in test", "remove one of each", leaked),
        Problem("the same pixels under two names", "remove one of each", within),
    ]


def _content_problems(reports: list[ImageReport], checksums: Checksums) -> list[Problem]:
    annotated = [report for report in reports if report.nuclei_share is not None]
    nowhere = [] if any(report.nuclei for report in annotated) else [report.stem for report in annotated]
    different = [r.stem for r in reports if r.agreement is not None and r.agreement < MIN_AGREEMENT]
    return [
        Problem(
            f"images whose XML and label map disagree (IoU below {MIN_AGREEMENT})",
            "keep the one that matches the image",
            tuple(different),
        ),
        Problem("images without a labelled nucleus, which are all", "check the annotations", tuple(nowhere)),
        Problem("files that do not match SHA256SUMS", "copy them again", checksums.changed),
        Problem("files listed in SHA256SUMS that are missing", "copy them again", checksums.missing),
    ]


def _split_report(images: Sequence[AnnotatedImage], reports: Sequence[ImageReport]) -> SplitReport:
    shares = [report.nuclei_share for report in reports if report.nuclei_share is not None]
    contrasts = [report.contrast for report in reports if report.contrast is not None]
    return SplitReport(
        images=len(images),
        xmls=sum(image.xml_path is not None for image in images),
        maps=sum(image.map_path is not None for image in images),
        regions=sum(report.regions for report in reports),
        degenerate=sum(report.degenerate for report in reports),
        outside=sum(report.outside for report in reports),
        nuclei=sum(report.nuclei for report in reports),
        empty=shares.count(0.0),
        nuclei_share=float(np.mean(shares)) if shares else None,
        contrast=min(contrasts, default=None),
        sizes=dict(Counter(report.size for report in reports if report.size is not None)),
        image_reports=tuple(reports),
    )


def _agreement(reports: Sequence[ImageReport]) -> Agreement | None:
    iou_of = {report.stem: report.agreement for report in reports if report.agreement is not None}
    if not iou_of:
        return None
    worst = min(iou_of, key=lambda stem: iou_of[stem])
    return Agreement(len(iou_of), float(np.mean(list(iou_of.values()))), iou_of[worst], worst)
