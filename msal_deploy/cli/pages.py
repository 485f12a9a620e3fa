"""What `run` and `validate --out` put on the page: the pictures of patches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msal_deploy.data import Patch
    from msal_deploy.report import GalleryPatch
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
    from msal_deploy.report import make_gallery

    masks = {engine: list(result.pixels.predictions) for engine, result in validation.engines.items()}
    return make_gallery(validation.to_json(), patches, masks, weights=weights)
