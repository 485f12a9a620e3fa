"""Do labels belong to their image, and are they what they seem? Wrong labels are refused: a gate on them is worthless.

The thresholds separate true from wrong labels on MoNuSeg, 705 images of NuInsSeg and CoNSeP and 40 synthetic ones,
which were all in view when they were set; ``docs/validate-on-my-data.md`` has the numbers. The checks run on arrays
that are read anyway and take about 50 ms for an image of 1000 × 1000 px.
"""

import math
from collections.abc import Callable, Iterable

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.data.annotated import AnnotatedImage
from msal_deploy.data.annotations import Annotation, read_xml
from msal_deploy.errors import BadInput

MAX_COVERED = 0.8  # of the pixels; the densest of 789 images has 0.65
MAX_OUTSIDE, MANY_OUTSIDE = 0.5, 0.1  # of the outlines; none is wholly outside its image in MoNuSeg
MAX_PIECES = 1.5  # for each value of a map; at most 1.25 in 755 true maps, 47 and more if blurred
MIN_PIECE = 30  # px, on average; blurred masks have 1 to 10
RING = 6  # px around the labels
MIN_CONTRAST = 0.6  # at least 0.66 for MoNuSeg's own labels, 0.48 to 0.52 for those of another image
INVERTED = 0.35
MIN_SIDE = 32  # px
MIN_LABELLED = 500  # px; with fewer, chance decides
MIN_PEAK, PEAK_RATIO = 10.0, 1.2  # standard deviations, and times the correlation without an offset
MAX_OFFSET = 4  # px; at most 2.8 for the true labels of 789 images

TURNS: dict[str, Callable[[NDArray[np.int32]], NDArray[np.int32]]] = {
    "mirrored left to right": np.fliplr,
    "mirrored top to bottom": np.flipud,
    "rotated by 180°": lambda labels: np.rot90(labels, 2),
    "transposed (x and y swapped)": np.transpose,
    "rotated by 90°": np.rot90,
    "rotated by 270°": lambda labels: np.rot90(labels, 3),
}


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with the labels of an image.

    Attributes:
        cause: What is wrong; the name of the image precedes it.
        remedy: What to do about it.
        certain: Whether the labels are refused. If not, they are only odd, and a warning is enough.
    """

    cause: str
    remedy: str
    certain: bool = True


def check_labels(images: Iterable[AnnotatedImage], warn: Callable[[str], None] | None = None) -> None:
    """Refuse labels that are certainly wrong: they would be trained on, or judge an engine.

    >>> from pathlib import Path
    >>> from msal_deploy.data import find_dataset
    >>> check_labels(find_dataset(Path("monuseg")).test)

    Args:
        images: Images and their annotations.
        warn: Called with one line for each image whose labels are only odd.

    Raises:
        BadInput: The labels of an image are wrong (`label_faults`) or cannot be read, or no image has any.
    """
    nuclei = checked = 0
    for annotated in images:
        labels, faults = _labels_and_faults(annotated)
        nuclei, checked = nuclei + int(labels.any()), checked + 1
        for fault in faults:
            if fault.certain:
                raise BadInput(f"{annotated.stem}: {fault.cause}", fault.remedy)
            if warn:
                warn(f"Warning: {annotated.stem}: {fault.cause}; {fault.remedy}")
    if checked and not nuclei:
        raise BadInput(f"None of the {checked} images has a labelled nucleus", "check the annotations")


def warn_of_labels(images: Iterable[AnnotatedImage], warn: Callable[[str], None]) -> None:
    """Call `warn` with a line for each fault of labels that are not used: the images are, so nothing is refused."""
    for annotated in images:
        try:
            faults = _labels_and_faults(annotated)[1]
        except BadInput as error:
            warn(f"Warning: {error}")
            continue
        for fault in faults:
            warn(f"Warning: {annotated.stem}: {fault.cause}; {fault.remedy}")


def _labels_and_faults(annotated: AnnotatedImage) -> tuple[NDArray[np.int32], tuple[Fault, ...]]:
    labels = annotated.instances()
    annotation = read_xml(annotated.xml_path) if annotated.xml_path else None
    return labels, label_faults(annotated.image(), labels, annotation)


def label_faults(
    image: NDArray[np.uint8], labels: NDArray[np.int32], annotation: Annotation | None = None
) -> tuple[Fault, ...]:
    """Return what is wrong with the labels of an image, the most telling first.

    >>> image = np.full((64, 64, 3), 220, np.uint8)
    >>> image[16:48, 16:48] = 90  # dark in the middle
    >>> labels = np.zeros((64, 64), np.int32)
    >>> labels[16:48, 16:48] = 1
    >>> label_faults(image, labels)
    ()
    >>> label_faults(image, 1 - labels)[0].cause
    'its labels are brighter than what is around them, as if the nuclei were 0'

    Args:
        image: uint8[H,W,3] RGB.
        labels: int32[H,W], 0 for background.
        annotation: The outlines that the labels were drawn from; None if they are a label map.
    """
    own = _outside(annotation, labels.shape) if annotation else _pieces(labels)
    if any(fault.certain for fault in own):
        return own  # the other checks would only say what follows from it
    place = _place(image, labels)
    return (*own, place) if place else own


def _outside(annotation: Annotation, shape: tuple[int, ...]) -> tuple[Fault, ...]:
    share = annotation.outside_share((shape[0], shape[1]))
    if share <= MANY_OUTSIDE:
        return ()
    cause = f"{share:.0%} of its outlines are outside its {shape[1]}×{shape[0]} px"
    remedy = "use outlines in pixels of this image, not of the whole slide or in µm"
    return (Fault(cause, remedy, certain=share > MAX_OUTSIDE),)


def _pieces(labels: NDArray[np.int32]) -> tuple[Fault, ...]:
    """Ask whether a label map has one value for each nucleus: otherwise, a value is in many places."""
    pieces, values = pieces_and_values(labels)
    if pieces <= MAX_PIECES * values + 5:
        return ()
    cause = f"its label map has {values} values in {pieces:,} separate places"
    if values < 10:
        return (Fault(f"{cause}: it looks like classes", "save a 0/255 mask, or one value for each nucleus"),)
    if (labels > 0).sum() / pieces >= MIN_PIECE:
        remedy = "give each nucleus a value of its own, in a map of 16 bits if there are more than 255"
        return (Fault(f"{cause}: nuclei share values", remedy, certain=False),)
    if (labels >= 192).sum() > 0.5 * (labels > 0).sum() and labels.max() <= 255:
        return (Fault(f"{cause}: it looks like a blurred mask", "threshold it at 128, and save it as PNG"),)
    cause += ": it looks resized, compressed, or like an image"
    return (Fault(cause, "save one value for each nucleus, as PNG"),)


def pieces_and_values(labels: NDArray[np.int32]) -> tuple[int, int]:
    """Return the number of connected areas of one value, and the number of values; the background does not count.

    >>> pieces_and_values(np.array([[7, 0, 7], [7, 0, 9]], dtype=np.int32))
    (3, 2)
    """
    from skimage.measure import label

    return int(label(labels, connectivity=2).max()), len(np.unique(labels[labels > 0]))  # type: ignore[no-untyped-call]


def _place(image: NDArray[np.uint8], labels: NDArray[np.int32]) -> Fault | None:
    """Ask whether the labels are where the nuclei are."""
    darker, covered = contrast(image, labels > 0), (labels > 0).mean()
    if darker is not None and darker < INVERTED:
        return Fault(
            "its labels are brighter than what is around them, as if the nuclei were 0",
            "invert the mask: nuclei are 255, the rest is 0",
        )
    if covered > MAX_COVERED:
        return Fault(f"its labels cover {covered:.0%} of the pixels", "save nuclei as 1, 2, … or 255, the rest as 0")
    if darker is None:
        return None
    x, y = offset(image, labels > 0)
    if math.hypot(x, y) > MAX_OFFSET:
        return Fault(f"its labels are offset by about ({x}, {y}) px (x, y)", "use the labels of this very image")
    if darker >= MIN_CONTRAST:
        return None
    cause = f"its labels are not on nuclei: not darker than what is around them ({darker:.2f}; at least {MIN_CONTRAST})"
    fits = next((name for name, turned in TURNS.items() if _fits(image, turned(labels))), None)
    advice = f"they fit when {fits}" if fits else "use the labels of this image, of H&E-stained tissue"
    return Fault(cause, advice)


def _fits(image: NDArray[np.uint8], labels: NDArray[np.int32]) -> bool:
    if labels.shape != image.shape[:2]:
        return False
    return (contrast(image, labels > 0) or 0) > MIN_CONTRAST and offset(image, labels > 0) == (0, 0)


def contrast(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float | None:
    """Return how probably a pixel in the labels is darker than one in a ring around them: 0.5 if that is chance.

    Darker in the red channel, that is: haematoxylin absorbs red light, and eosin hardly does.

    >>> image = np.full((64, 64, 3), 220, np.uint8)
    >>> image[16:48, 16:48, 0] = 90
    >>> mask = image[..., 0] < 100
    >>> contrast(image, mask), contrast(image[:, ::-1], mask), contrast(image, np.zeros_like(mask))
    (1.0, 1.0, None)

    Args:
        image: uint8[H,W,3] RGB.
        mask: bool[H,W], true in labels.

    Returns:
        The area under the ROC curve (Mann-Whitney), or None if there are too few labels or there is nothing around.
    """
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RING + 1, 2 * RING + 1))
    ring = (cv2.dilate(mask.astype(np.uint8), ellipse) > 0) & ~mask
    inside = np.bincount(image[..., 0][mask], minlength=256)
    around = np.bincount(image[..., 0][ring], minlength=256)
    if inside.sum() < MIN_LABELLED or not around.any():
        return None
    brighter = around[::-1].cumsum()[::-1] - around
    return float((inside * (brighter + around / 2)).sum() / (inside.sum() * around.sum()))


def offset(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Return how far (x, y) in pixels labels are from where they fit the dark places best; 0, 0 if that is not clear.

    That is where their cross-correlation with the optical density of red is highest, at half the resolution.

    >>> from msal_deploy.data import rasterise
    >>> from msal_deploy.data.tissue import draw_tissue
    >>> image, outlines = draw_tissue(np.random.default_rng(0), 256)
    >>> labels = rasterise(outlines, (256, 256))
    >>> offset(image, labels > 0), offset(image, np.roll(labels > 0, (20, 8), axis=(0, 1)))
    ((0, 0), (8, 20))
    """
    from scipy import fft

    if min(mask.shape) < MIN_SIDE:
        return 0, 0
    density, labels = _detail(-np.log((_halved(image[..., 0]) + 1) / 256)), _detail(_halved(mask))
    spectrum = fft.rfft2(labels) * np.conj(fft.rfft2(density))
    correlation = fft.irfft2(spectrum, s=density.shape)
    height, width = density.shape
    row, column = divmod(int(correlation.argmax()), width)
    peak, here = correlation.max() / max(float(correlation.std()), 1e-12), correlation[0, 0]
    if peak < MIN_PEAK or correlation.max() < PEAK_RATIO * here:
        return 0, 0
    y, x = (row + height // 2) % height - height // 2, (column + width // 2) % width - width // 2
    return 2 * x, 2 * y


def _halved(values: NDArray[np.uint8] | NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the means of blocks of 2 × 2 px."""
    height, width = values.shape[0] // 2, values.shape[1] // 2
    blocks = values[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))


def _detail(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what is finer than about 32 px of the image: without the difference between tissue and background."""
    return np.asarray(values - cv2.GaussianBlur(values, (0, 0), 8), dtype=np.float32)
