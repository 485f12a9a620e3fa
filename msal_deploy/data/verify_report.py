"""What `verify` found, as JSON types and for a terminal."""

from collections.abc import Callable
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msal_deploy.data.checksums import SHA256SUMS, Checksums
from msal_deploy.data.dataset import Problem


class CaseReport(msgspec.Struct, frozen=True):
    """What was measured of one image.

    Attributes:
        size: ``width×height``, or None where the image cannot be read.
        regions, degenerate, outside: of the XML: regions, those skipped, and vertices beyond the image.
        nuclei: instances drawn, from the XML where there is one.
        nuclei_share: of the pixels, or None where there is no usable annotation.
        microns_per_pixel: what the XML says, or None.
        agreement: IoU of the unions that the XML and the instance map draw, where both exist.
        faults: a sentence for each file that cannot be used.
    """

    stem: str
    size: str | None = None
    regions: int = 0
    degenerate: int = 0
    outside: int = 0
    nuclei: int = 0
    nuclei_share: float | None = None
    microns_per_pixel: float | None = None
    agreement: float | None = None
    faults: tuple[str, ...] = ()


class SplitReport(msgspec.Struct, frozen=True):
    """Sums over one split; `nuclei_share` is the mean over its images, `sizes` how many images have each size."""

    images: int
    xmls: int
    maps: int
    regions: int
    degenerate: int
    outside: int
    nuclei: int
    nuclei_share: float | None
    sizes: dict[str, int]
    cases: tuple[CaseReport, ...]


class Agreement(msgspec.Struct, frozen=True):
    """IoU between the unions drawn from the XML and those in the instance maps, over the images that have both."""

    images: int
    mean: float
    minimum: float
    worst: str


class VerifyReport(msgspec.Struct, frozen=True):
    """All that `verify` found; `ok` where there is no problem."""

    path: str
    vertex_convention: str
    train: SplitReport
    test: SplitReport
    agreement: Agreement | None
    checksums: Checksums
    problems: tuple[Problem, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that is wrong, a sentence each: the problems of the set, then the files that cannot be used."""
        cases = (*self.train.cases, *self.test.cases)
        return (*map(str, self.problems), *(fault for case in cases for fault in case.faults))

    @property
    def ok(self) -> bool:
        """Whether the set can be used as it is."""
        return not self.sentences

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {"ok": self.ok, **msgspec.to_builtins(self)}

    def table(self) -> RenderableType:
        """Return the report for a terminal: a column a split, and what is wrong below."""
        table = Table("", title=Text(self.path))
        table.add_column("train", justify="right")
        table.add_column("test", justify="right")
        for name, show in ROWS.items():
            table.add_row(name, show(self.train), show(self.test))
        wrong = [Text(f"✗ {sentence}", style="red") for sentence in self.sentences] or [Text("✓ ok", style="green")]
        return Group(table, *map(Text, self._notes()), *wrong)

    def _notes(self) -> list[str]:
        notes = [f"Vertices: {self.vertex_convention}"]
        if self.agreement:
            a = self.agreement
            notes.append(
                f"XML against maps, {a.images} images: IoU {a.mean:.4f} on average, {a.minimum:.4f} lowest ({a.worst})"
            )
        if not self.checksums.listed:
            return [*notes, f"There is no {SHA256SUMS}; --json records the hash of each file"]
        unlisted = len(self.checksums.unlisted)
        return [
            *notes,
            f"{self.checksums.agreeing} files agree with {SHA256SUMS}, which does not name {unlisted} others",
        ]


ROWS: dict[str, Callable[[SplitReport], str]] = {
    "images": lambda split: str(split.images),
    "XML files": lambda split: str(split.xmls),
    "label maps": lambda split: str(split.maps),
    "regions in XML": lambda split: f"{split.regions:,}",
    "… degenerate, skipped": lambda split: str(split.degenerate),
    "… vertices outside": lambda split: f"{split.outside:,}",
    "nuclei drawn": lambda split: f"{split.nuclei:,}",
    "pixels in nuclei": lambda split: "–" if split.nuclei_share is None else f"{split.nuclei_share:.1%}",
    "sizes in px": lambda split: ", ".join(f"{count}× {size}" for size, count in split.sizes.items()) or "–",
}
