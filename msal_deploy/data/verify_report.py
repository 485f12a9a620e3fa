"""The report of `verify`, as JSON types and as a table for the terminal."""

from collections.abc import Callable
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msal_deploy.data.checksums import SHA256SUMS, Checksums
from msal_deploy.data.label_checks import MANY_OUTSIDE, MAX_COVERED, MIN_CONTRAST, Fault
from msal_deploy.data.layout import Problem


class ImageReport(msgspec.Struct, frozen=True):
    """Measurements of one image and its annotations.

    Attributes:
        stem: File name of the image, without its suffix.
        size: ``width×height`` in pixels, or None if the image cannot be read.
        regions: Number of regions in the XML.
        degenerate: Number of regions with fewer than three distinct vertices, which are skipped.
        outside: Number of vertices outside the image.
        outside_share: Part of the regions that is wholly outside the image.
        nuclei: Number of nuclei; from the XML if there is one, else from the label map.
        nuclei_share: Fraction of the pixels in nuclei, or None if there is no usable annotation.
        microns_per_pixel: Pixel size given in the XML, or None.
        agreement: IoU between the masks of the XML and the label map, or None unless both exist.
        contrast: How probably a pixel in the labels is darker than one around them (`contrast`), or None.
        pixels: SHA-256 of the pixels, or None if the image cannot be read.
        label_faults: What is wrong with the labels.
        faults: One message per file that cannot be used and per fault of the labels.
    """

    stem: str
    size: str | None = None
    regions: int = 0
    degenerate: int = 0
    outside: int = 0
    outside_share: float = 0.0
    nuclei: int = 0
    nuclei_share: float | None = None
    microns_per_pixel: float | None = None
    agreement: float | None = None
    contrast: float | None = None
    pixels: str | None = None
    label_faults: tuple[Fault, ...] = ()
    faults: tuple[str, ...] = ()


class SplitReport(msgspec.Struct, frozen=True):
    """Totals of one split.

    Attributes:
        images: Number of images.
        xmls: Number of images with an XML.
        maps: Number of images with a label map.
        regions: Number of regions in all XML files.
        degenerate: Number of skipped regions.
        outside: Number of vertices outside their image.
        nuclei: Number of nuclei.
        empty: Number of images whose annotation has no nucleus.
        nuclei_share: Mean over the images of the fraction of pixels in nuclei, or None without usable annotations.
        contrast: The lowest contrast of an image's labels, or None.
        sizes: ``width×height`` -> number of images.
        image_reports: One report per image; ``cases`` in JSON.
    """

    images: int
    xmls: int
    maps: int
    regions: int
    degenerate: int
    outside: int
    nuclei: int
    empty: int
    nuclei_share: float | None
    contrast: float | None
    sizes: dict[str, int]
    image_reports: tuple[ImageReport, ...] = msgspec.field(name="cases")

    @property
    def odd(self) -> frozenset[str]:
        """The fields whose numbers look wrong."""
        shares = [report.nuclei_share or 0 for report in self.image_reports]
        found = {
            "outside": any(report.outside_share > MANY_OUTSIDE for report in self.image_reports),
            "nuclei": self.images > 0 and self.nuclei == 0,
            "empty": 0 < self.images == self.empty,
            "nuclei_share": self.images > 0 and (max(shares) > MAX_COVERED or max(shares) == 0),
            "contrast": self.contrast is not None and self.contrast < MIN_CONTRAST,
        }
        return frozenset(name for name, is_odd in found.items() if is_odd)


class Agreement(msgspec.Struct, frozen=True):
    """IoU between the masks of the XML and of the label map, over the images that have both.

    Attributes:
        images: Number of images that have both.
        mean: Mean IoU.
        minimum: Lowest IoU.
        worst: Stem of the image with the lowest IoU.
    """

    images: int
    mean: float
    minimum: float
    worst: str


class VerifyReport(msgspec.Struct, frozen=True):
    """The result of `verify`; see there for an example.

    Attributes:
        path: The folder or zip that was checked.
        vertex_convention: How XML vertices are converted to array coordinates.
        train: Totals of the training images.
        test: Totals of the test images.
        agreement: IoU between XML and label maps, or None if no image has both.
        checksums: Comparison with ``SHA256SUMS``.
        problems: Problems of the data set as a whole.
    """

    path: str
    vertex_convention: str
    train: SplitReport
    test: SplitReport
    agreement: Agreement | None
    checksums: Checksums
    problems: tuple[Problem, ...]

    @property
    def messages(self) -> tuple[str, ...]:
        """One message per problem: first those of the data set, then the files that cannot be used."""
        reports = (*self.train.image_reports, *self.test.image_reports)
        return (*map(str, self.problems), *(fault for report in reports for fault in report.faults))

    @property
    def ok(self) -> bool:
        """Whether the data set has no problem."""
        return not self.messages

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {"ok": self.ok, **msgspec.to_builtins(self)}

    def table(self) -> RenderableType:
        """Return a table for the terminal, with one column per split and the problems below."""
        table = Table("", title=Text(self.path))
        table.add_column("train", justify="right")
        table.add_column("test", justify="right")
        for (field, name), show in ROWS.items():
            table.add_row(name, *(_marked(show(split), field in split.odd) for split in (self.train, self.test)))
        result = [Text(f"✗ {message}", style="red") for message in self.messages] or [Text("✓ ok", style="green")]
        return Group(table, *map(Text, self._notes()), *result)

    def _notes(self) -> list[str]:
        notes = [f"Vertices: {self.vertex_convention}"]
        if self.agreement:
            a = self.agreement
            notes.append(
                f"XML and label maps, {a.images} images: mean IoU {a.mean:.4f}, lowest {a.minimum:.4f} ({a.worst})"
            )
        if not self.checksums.listed:
            return [*notes, f"No {SHA256SUMS} found; --json records the hash of each file"]
        unlisted = f"; {len(self.checksums.unlisted)} unlisted" if self.checksums.unlisted else ""
        return [*notes, f"{self.checksums.agreeing} files match {SHA256SUMS}{unlisted}"]


def _marked(number: str, odd: bool) -> Text:
    return Text(f"{number} ✗", style="red") if odd else Text(number)


# The field and the name of each row -> how it is shown.
ROWS: dict[tuple[str, str], Callable[[SplitReport], str]] = {
    ("images", "images"): lambda split: str(split.images),
    ("xmls", "XML files"): lambda split: str(split.xmls),
    ("maps", "label maps"): lambda split: str(split.maps),
    ("regions", "regions in XML"): lambda split: f"{split.regions:,}",
    ("degenerate", "… degenerate, skipped"): lambda split: str(split.degenerate),
    ("outside", "… vertices outside the image"): lambda split: f"{split.outside:,}",
    ("nuclei", "nuclei"): lambda split: f"{split.nuclei:,}",
    ("empty", "images without nuclei"): lambda split: str(split.empty),
    ("nuclei_share", "pixels in nuclei"): lambda s: "–" if s.nuclei_share is None else f"{s.nuclei_share:.1%}",
    ("contrast", "nuclei darker than around, lowest"): lambda s: "–" if s.contrast is None else f"{s.contrast:.2f}",
    ("sizes", "sizes in px"): lambda s: ", ".join(f"{count}× {size}" for size, count in s.sizes.items()) or "–",
}
