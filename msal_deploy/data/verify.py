"""Checking a whole set before anything is trained or scored on it: all problems are collected, none stops the check."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from msal_deploy.data.annotations import VERTEX_CONVENTION, Annotation, rasterise, read_xml
from msal_deploy.data.checksums import Checksums, check_sums
from msal_deploy.data.dataset import AnnotatedImage, Problem, checked_size, opened_folder, scan
from msal_deploy.data.images import read_image, read_label
from msal_deploy.data.verify_report import Agreement, CaseReport, SplitReport, VerifyReport
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath

LOWEST_AGREEMENT = 0.85  # MoNuSeg's own worst image has 0.90; drawn without the shift, the mean is 0.87

Item = TypeVar("Item")
Value = TypeVar("Value")


def verify(path: StrPath, *, progress: bool = False) -> VerifyReport:
    """Read every file of a folder or zip and report what is there and what is wrong.

    Args:
        path: a folder or a zip.
        progress: show a bar on stderr.

    Raises:
        BadInput: no such path, a zip that cannot be unpacked, or no image in it.
    """
    with opened_folder(path) as folder:
        findings = scan(folder)
        dataset = findings.dataset
        train = [_check(case, folder) for case in _tracked(dataset.train, "training images", progress)]
        test = [_check(case, folder) for case in _tracked(dataset.test, "test images", progress)]
        checksums = check_sums(folder)
    problems = (*findings.problems, *_content_problems([*train, *test], checksums))
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


def _check(case: AnnotatedImage, folder: Path) -> CaseReport:
    """Read the image and each annotation of a case; a file that cannot be used becomes a fault."""
    faults: list[str] = []
    image = _attempt(faults, read_image, case.image_path)
    annotation = _attempt(faults, read_xml, case.xml_path)
    label = _attempt(faults, read_label, case.map_path)
    if image is not None and label is not None:
        label = _attempt(faults, partial(checked_size, label, image.shape[:2]), case.map_path)
    # A zip's temporary folder is gone when the report is read.
    named = tuple(fault.replace(f"{folder}/", "") for fault in faults)
    return _measured(case.stem, image, annotation, label, named)


def _attempt(faults: list[str], read: Callable[[Path], Value], path: Path | None) -> Value | None:
    if path is None:
        return None
    try:
        return read(path)
    except BadInput as error:
        faults.append(str(error))
        return None


def _measured(
    stem: str,
    image: NDArray[np.uint8] | None,
    annotation: Annotation | None,
    label: NDArray[np.int32] | None,
    faults: tuple[str, ...],
) -> CaseReport:
    shape = None if image is None else (image.shape[0], image.shape[1])
    drawn = None if annotation is None or shape is None else rasterise(annotation.polygons, shape)
    truth = label if drawn is None else drawn
    return CaseReport(
        stem=stem,
        size=None if shape is None else f"{shape[1]}×{shape[0]}",
        regions=0 if annotation is None else annotation.regions,
        degenerate=0 if annotation is None else annotation.degenerate,
        outside=0 if annotation is None or shape is None else annotation.outside(shape),
        nuclei=0 if truth is None else len(np.unique(truth[truth > 0])),
        nuclei_share=None if truth is None else float((truth > 0).mean()),
        microns_per_pixel=None if annotation is None else annotation.microns_per_pixel,
        agreement=None if drawn is None or label is None else _iou(drawn > 0, label > 0),
        faults=faults,
    )


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def _content_problems(reports: list[CaseReport], checksums: Checksums) -> list[Problem]:
    apart = [r.stem for r in reports if r.agreement is not None and r.agreement < LOWEST_AGREEMENT]
    return [
        Problem(
            f"images whose XML and map disagree (IoU below {LOWEST_AGREEMENT})",
            "look which of the two fits the image",
            tuple(apart),
        ),
        Problem("files that are not what SHA256SUMS says", "copy them again", checksums.changed),
        Problem("missing files that SHA256SUMS names", "copy them again", checksums.missing),
    ]


def _split_report(cases: Sequence[AnnotatedImage], reports: Sequence[CaseReport]) -> SplitReport:
    shares = [report.nuclei_share for report in reports if report.nuclei_share is not None]
    return SplitReport(
        images=len(cases),
        xmls=sum(case.xml_path is not None for case in cases),
        maps=sum(case.map_path is not None for case in cases),
        regions=sum(report.regions for report in reports),
        degenerate=sum(report.degenerate for report in reports),
        outside=sum(report.outside for report in reports),
        nuclei=sum(report.nuclei for report in reports),
        nuclei_share=float(np.mean(shares)) if shares else None,
        sizes=dict(Counter(report.size for report in reports if report.size is not None)),
        cases=tuple(reports),
    )


def _agreement(reports: Sequence[CaseReport]) -> Agreement | None:
    found = {report.stem: report.agreement for report in reports if report.agreement is not None}
    if not found:
        return None
    worst = min(found, key=lambda stem: found[stem])
    return Agreement(len(found), float(np.mean(list(found.values()))), found[worst], worst)
