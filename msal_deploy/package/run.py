"""Write a package: a self-contained folder with reference tiles that the integration must reproduce."""

import importlib
from pathlib import Path
from typing import Any

import msgspec

from msal_deploy.bundle import GOLDEN, Bundle
from msal_deploy.documents import read_json
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, atomic_directory, sha256, write_json
from msal_deploy.package.golden import write_golden
from msal_deploy.package.options import INTEGRATIONS, PREFERRED, PackageOptions, choose_options

RECORD = "package.json"


class Record(msgspec.Struct, frozen=True):
    """The content of ``package.json`` in a package.

    Attributes:
        integration: The integration that the package was written for; ``host`` in JSON.
        files: File name -> SHA-256.
    """

    integration: str = msgspec.field(name="host")
    files: dict[str, str]


class PackageReport(msgspec.Struct, frozen=True):
    """The package that was written.

    Attributes:
        integration: The integration that it was written for.
        folder: The folder of the package.
        files: File name -> SHA-256.
        next_step: What the user should do next.
    """

    integration: str
    folder: Path
    files: dict[str, str]
    next_step: str

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types, with the folder's name instead of its path."""
        return {"host": self.integration, "folder": self.folder.name, "files": self.files, "next_step": self.next_step}


def write_package(
    bundle: Bundle | StrPath, integration: str, out: StrPath, options: PackageOptions | None = None
) -> PackageReport:
    """Package a bundle for an integration. An older package at `out` is replaced::

        report = write_package(Bundle(Path("bundle")), "cpp", Path("segmenter"), PackageOptions("int8"))
        print(report.next_step)

    Args:
        bundle: The bundle to package, or its folder.
        integration: ``build-kit``, ``cpp``, ``triton``, ``bioimageio`` or ``onnx``.
        out: The folder to write.
        options: Options of the integration; None for its defaults.

    Raises:
        BadInput: The integration is unknown, the bundle lacks the graph, or `out` holds other files.
        GateFailed: A graph of the bundle gives NaN or Inf.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    default = choose_options(integration)
    options = options or default
    if options.precision != PREFERRED:
        bundle.graph(options.precision)  # fail before any work
    with atomic_directory(out, replaces=is_package) as folder:
        write_golden(bundle, folder / GOLDEN)
        next_step = importlib.import_module(INTEGRATIONS[integration]).write(bundle, folder, options)
        files = {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        write_json(folder / RECORD, msgspec.to_builtins(Record(integration, files)))
    return PackageReport(integration, Path(out), files, next_step)


def is_package(folder: Path) -> bool:
    """Return whether `folder` holds a package and no other files, so that it may be replaced.

    Another program's ``package.json``, and files that were added to a package later, must not be deleted.
    """
    try:
        record = read_json(folder / RECORD, Record, "a record of a package", "")
    except (OSError, BadInput):
        return False
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return record.integration in INTEGRATIONS and files <= {*record.files, RECORD}
