"""What a page is made of: the JSON reports of the other stages, and pictures of patches."""

from typing import Any

import msgspec

from msal_deploy.report.gallery import GalleryPatch

JsonObject = dict[str, Any]


class Report(msgspec.Struct, frozen=True, kw_only=True, eq=False, forbid_unknown_fields=True):
    """All that the page shows. Sections without data are left out.

    >>> report = Report(title="My network", manifest={}, notes=("Trained on three hospitals",))
    >>> report.validation is None
    True

    Attributes:
        title: Title and heading of the page.
        manifest: The bundle's manifest as JSON types.
        validation: The value of `ValidationReport.to_json`.
        bench: The value of `BenchReport.to_json`.
        precision: The value of `PrecisionReport.to_json`.
        training: A row per epoch with ``epoch``, ``train_loss`` and, if it was measured, ``validation_dice``.
        gallery: Patches to show; `choose_patches` says which are worth it.
        data: Description of the labelled images: name, source, licence.
        command: Command line that reproduces the page.
        notes: Remarks for the reader, such as known limitations.
        weights: Name of the weights of the bundle; only used with `also`.
        also: Other weights, scored on the same patches: mappings with ``weights`` (their name), ``manifest``,
            ``validate`` and ``bench``. Needs `validation` and `bench`.
        bisect: The JSON of ``validate --bisect``: which nodes cost Dice.
    """

    title: str
    manifest: JsonObject
    validation: JsonObject | None = None
    bench: JsonObject | None = None
    precision: JsonObject | None = None
    training: tuple[JsonObject, ...] = ()
    gallery: tuple[GalleryPatch, ...] = ()
    data: str = ""
    command: str = ""
    notes: tuple[str, ...] = ()
    weights: str = ""
    also: tuple[JsonObject, ...] = ()
    bisect: JsonObject | None = None
