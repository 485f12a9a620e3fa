"""What `run` and `validate --out` put on the page: the pictures of patches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msal_deploy.data import Patch
    from msal_deploy.report import Choice, GalleryPatch
    from msal_deploy.validate import ValidationReport


def gallery(
    validation: "ValidationReport", patches: "Sequence[Patch]", weights: str = ""
) -> "tuple[GalleryPatch, ...]":
    """Return the patches that are worth showing, with the masks of truth, reference and engine.

    Args:
        validation: Scores of the patches.
        patches: The patches that were scored.
        weights: Name of the weights, where the page compares several.
    """
    from msal_deploy.report import choose_patches

    return tuple(_shown(choice, validation, patches, weights) for choice in choose_patches(validation.to_json()))


def _shown(
    choice: "Choice", validation: "ValidationReport", patches: "Sequence[Patch]", weights: str
) -> "GalleryPatch":
    from msal_deploy.report import GalleryPatch

    patch, name, k = patches[choice.index], validation.reference, choice.index
    engine, reference = validation.engines[choice.engine].pixels, validation.engines[name].pixels
    height, width = patch.mask.shape
    return GalleryPatch(
        stem=patch.stem,
        corner=patch.corner,
        reason=choice.reason,
        engine=choice.engine,
        dice=engine.dice_of(k),
        reference=name,
        reference_dice=reference.dice_of(k),
        flipped_pixels=engine.flips[k] / patch.mask.size,
        weights=weights,
        image=patch.image[:height, :width],
        truth=patch.mask,
        expected=reference.predictions[k],
        predicted=engine.predictions[k],
    )
