"""Pictures of patches: the tissue with the outlines of truth, reference and engine, and a map of their difference."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.report.formatting import Json

if TYPE_CHECKING:
    from msal_deploy.data import Patch

RGB = tuple[int, int, int]
Reason = Literal["best", "median", "worst", "differs"]

# Colours by Okabe and Ito, the green lighter: distinct for colour-blind readers, and from the pink and violet of H&E.
TRUTH: RGB = (240, 228, 66)
REFERENCE: RGB = (90, 240, 170)
ENGINE: RGB = (86, 180, 233)
ONLY_ENGINE: RGB = (213, 94, 0)
ONLY_REFERENCE: RGB = (0, 114, 178)
BOTH: RGB = (200, 200, 200)
NEITHER: RGB = (250, 250, 250)
TRUE_OUTLINE: RGB = (60, 60, 60)
MAX_SIDE = 512  # pixels of a picture on the page
DIFFERING_PATCHES = 2  # of each engine
MIN_FLIPPED = 1e-4  # share of the pixels of a patch: 26 of 512 × 512; with fewer, nobody sees a difference


class Caption(msgspec.Struct, frozen=True, eq=False, kw_only=True, forbid_unknown_fields=True):
    """What the page says about a patch of the gallery.

    Attributes:
        stem: Name of the image, without suffix.
        corner: Position of the patch in the image.
        reason: Why it is shown: its Dice is the best, median or worst of the engine, or the engine differs most from
            the reference in it.
        engine: Id of the engine.
        dice: Dice of the engine; None if the patch has no true nucleus.
        reference: Id of the reference engine.
        reference_dice: Dice of the reference; None if the patch has no true nucleus.
        flipped_pixels: Share of the pixels, from 0 to 1, that are nucleus for only one of engine and reference.
        weights: Name of the weights, where the page compares several.
    """

    stem: str
    corner: str
    reason: Reason
    engine: str
    dice: float | None
    reference: str
    reference_dice: float | None
    flipped_pixels: float
    weights: str = ""


class GalleryPatch(Caption, frozen=True, eq=False, kw_only=True):
    """A patch for the page: its caption, the tissue, the true mask and those of the reference and of an engine.

    >>> mask = np.zeros((64, 64), bool)
    >>> patch = GalleryPatch(
    ...     stem="TCGA-1", corner="top-left", reason="worst", engine="openvino:int8", dice=0.81,
    ...     reference="torch:fp32", reference_dice=0.82, flipped_pixels=0.0,
    ...     image=np.zeros((64, 64, 3), np.uint8), truth=mask, expected=mask, predicted=mask,
    ... )
    >>> patch.shape
    (64, 64)

    Attributes:
        image: uint8[H,W,3], RGB, without padding.
        truth: bool[H,W].
        expected: bool[H,W], the mask of the reference.
        predicted: bool[H,W], the mask of the engine.

    Raises:
        BadInput: The image or a mask has another shape or dtype.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    expected: NDArray[np.bool_]
    predicted: NDArray[np.bool_]

    def __post_init__(self) -> None:
        pixels: dict[str, NDArray[Any]] = {"image": self.image, **{name: getattr(self, name) for name in MASKS}}
        for name, layer in pixels.items():
            dtype, shape = ("uint8", (*self.shape, 3)) if name == "image" else ("bool", self.shape)
            if layer.shape != shape or layer.dtype != dtype:
                cause = (
                    f"Expected {dtype}{list(shape)} as the {name} of {self.stem}, {self.corner}, "
                    f"got {layer.dtype.name}{list(layer.shape)}"
                )
                raise BadInput(cause, "cut the image and its masks to the same pixels")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.truth.shape
        return height, width


MASKS = ("truth", "expected", "predicted")


class Choice(msgspec.Struct, frozen=True):
    """A patch worth showing: the engine, the index of the patch in ``per_patch``, and why."""

    engine: str
    index: int
    reason: Reason


def choose_patches(validation: Json, *, differing: int = DIFFERING_PATCHES) -> tuple[Choice, ...]:
    """Choose the patches for the page.

    The best, median and worst Dice of the first engine after the reference; then, of each engine, the patches that
    lose the most Dice against the reference (of equal ones, those with more flipped pixels). Patches with fewer flipped
    pixels than anybody can see (`MIN_FLIPPED`) are left out.

    >>> rows = [{"dice": 0.9, "flipped_pixels": 0.0}, {"dice": 0.7, "flipped_pixels": 0.0}]
    >>> worse = [{"dice": 0.9, "flipped_pixels": 0.0}, {"dice": 0.6, "flipped_pixels": 0.01}]
    >>> engines = {"torch:fp32": {"per_patch": rows}, "openvino:int8": {"per_patch": worse}}
    >>> chosen = choose_patches({"reference": "torch:fp32", "engines": engines})
    >>> [(choice.reason, choice.index) for choice in chosen]
    [('best', 0), ('worst', 1), ('differs', 1)]

    Args:
        validation: The value of `ValidationReport.to_json`.
        differing: Largest number of differing patches of an engine.
    """
    reference, engines = validation["reference"], validation["engines"]
    others = [engine for engine in engines if engine != reference]
    example = others[0] if others else reference
    chosen = _by_dice(example, engines[example]["per_patch"])
    for engine in others:
        rows, expected = engines[engine]["per_patch"], engines[reference]["per_patch"]
        chosen += [Choice(engine, index, "differs") for index in _differing(rows, expected)[:differing]]
    return tuple(chosen)


def _by_dice(engine: str, rows: Sequence[Json]) -> list[Choice]:
    scored = [index for index, row in enumerate(rows) if row["dice"] is not None]
    order = sorted(scored, key=lambda index: -rows[index]["dice"])
    picked: Mapping[Reason, Sequence[int]]
    picked = {"best": order[:1], "median": order[1:-1][(len(order) - 2) // 2 :][:1], "worst": order[1:][-1:]}
    return [Choice(engine, index, reason) for reason, indices in picked.items() for index in indices]


def _differing(rows: Sequence[Json], expected: Sequence[Json]) -> list[int]:
    """Return the indices of the patches that look different, the largest loss of Dice first."""

    def rank(index: int) -> tuple[float, float]:
        dice, before = rows[index]["dice"], expected[index]["dice"]
        gain = 0.0 if dice is None or before is None else dice - before
        return gain, -rows[index]["flipped_pixels"]

    return sorted((index for index, row in enumerate(rows) if row["flipped_pixels"] >= MIN_FLIPPED), key=rank)


def make_gallery(
    validation: Json,
    patches: Sequence[Patch],
    masks: Mapping[str, Sequence[NDArray[np.bool_]]],
    *,
    weights: str = "",
    differing: int = DIFFERING_PATCHES,
) -> tuple[GalleryPatch, ...]:
    """Return the patches that `choose_patches` chooses, with their pictures.

    >>> from msal_deploy.data import Patch
    >>> mask = np.zeros((64, 64), bool)
    >>> patch = Patch("TCGA-1", "whole", np.zeros((96, 96, 3), np.uint8), mask)
    >>> row = {"stem": "TCGA-1", "corner": "whole", "dice": 0.9, "flipped_pixels": 0.0}
    >>> validation = {"reference": "torch:fp32", "engines": {"torch:fp32": {"per_patch": [row]}}}
    >>> (shown,) = make_gallery(validation, [patch], {"torch:fp32": [mask]})
    >>> shown.reason, shown.image.shape
    ('best', (64, 64, 3))

    Args:
        validation: The value of `ValidationReport.to_json`.
        patches: The patches that were scored, in the order of ``per_patch``. Padding of an image is left out.
        masks: Engine id -> its mask of each patch, bool[h,w] as the true mask.
        weights: Name of the weights, if the page compares several.
        differing: Largest number of differing patches of an engine.
    """
    chosen = choose_patches(validation, differing=differing)
    return tuple(_gallery_patch(validation, one, patches[one.index], masks, weights) for one in chosen)


def _gallery_patch(
    validation: Json, choice: Choice, patch: Patch, masks: Mapping[str, Sequence[NDArray[np.bool_]]], weights: str
) -> GalleryPatch:
    reference = validation["reference"]
    row, expected = (validation["engines"][name]["per_patch"][choice.index] for name in (choice.engine, reference))
    height, width = patch.mask.shape
    return GalleryPatch(
        stem=patch.stem,
        corner=patch.corner,
        reason=choice.reason,
        engine=choice.engine,
        dice=row["dice"],
        reference=reference,
        reference_dice=expected["dice"],
        flipped_pixels=row["flipped_pixels"],
        image=patch.image[:height, :width],
        truth=patch.mask,
        expected=masks[reference][choice.index],
        predicted=masks[choice.engine][choice.index],
        weights=weights,
    )


def panels(patch: GalleryPatch) -> list[dict[str, str]]:
    """Return the four pictures of a patch: ``source`` (a data URI), ``label`` and ``alt``."""
    where = f"patch {patch.stem}, {patch.corner}"
    outlined = (
        ("truth", "the true nuclei", patch.truth, TRUTH),
        (f"reference: {patch.reference}", f"what {patch.reference} found", patch.expected, REFERENCE),
        (f"engine: {patch.engine}", f"what {patch.engine} found", patch.predicted, ENGINE),
    )
    flipped = f"only {patch.engine} or only {patch.reference} takes for nucleus: {patch.flipped_pixels:.3%} of all"
    return [
        {
            "source": as_jpeg(outline(patch.image, mask, colour)),
            "label": label,
            "alt": f"H&E {where}, with the outlines of {what}",
        }
        for label, what, mask, colour in outlined
    ] + [
        {
            "source": as_png(difference(patch)),
            "label": "difference",
            "alt": f"Map of {where}: the pixels that {flipped}",
        }
    ]


def outline(image: NDArray[np.uint8], mask: NDArray[np.bool_], colour: RGB) -> NDArray[np.uint8]:
    """Return uint8[H,W,3]: the image with the outline of a mask."""
    from skimage.segmentation import find_boundaries

    picture = image.copy()
    picture[find_boundaries(mask)] = colour  # type: ignore[no-untyped-call]
    return picture


def difference(patch: GalleryPatch) -> NDArray[np.uint8]:
    """Return uint8[H,W,3]: what both, only the engine and only the reference take for nucleus, and the true outline."""
    from skimage.segmentation import find_boundaries

    palette = np.array([NEITHER, ONLY_ENGINE, ONLY_REFERENCE, BOTH], np.uint8)
    colours: NDArray[np.uint8] = palette[patch.expected * 2 + patch.predicted]
    agreed = patch.expected == patch.predicted  # an outline must not hide a flipped pixel
    colours[find_boundaries(patch.truth, mode="inner") & agreed] = TRUE_OUTLINE  # type: ignore[no-untyped-call]
    return colours


def as_jpeg(picture: NDArray[np.uint8]) -> str:
    """Return the data URI of uint8[H,W,3] as a JPEG, scaled down to `MAX_SIDE`."""
    return _data_uri(picture, "jpeg", quality=85, subsampling=0)  # chroma subsampling would blur thin outlines


def as_png(picture: NDArray[np.uint8]) -> str:
    """Return the data URI of uint8[H,W,3] as a PNG, which suits a few flat colours."""
    return _data_uri(picture, "png", optimize=True)


def _data_uri(picture: NDArray[np.uint8], kind: str, **options: Any) -> str:
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
