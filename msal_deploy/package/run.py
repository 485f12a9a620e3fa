"""Package: a bundle -> a folder that works where it lands, with golden tiles that the host replays to prove itself.

Each host is a module here with ``write(bundle, folder, options) -> str``: it fills `folder` and returns the sentence
that says what to do next. `package` makes the folder whole or not at all and adds the golden tiles.
"""

import importlib
from pathlib import Path
from typing import Any

import msgspec

from msal_deploy.bundle import GOLDEN, Bundle
from msal_deploy.files import StrPath, atomic_directory, sha256, write_json
from msal_deploy.package.golden import write_golden
from msal_deploy.package.options import INTEGRATIONS, PREFERRED, PackageOptions, choose_options

RECORD = "package.json"


class Record(msgspec.Struct, frozen=True):
    """What lies in a package beside the files: which host they are for, and file -> SHA-256."""

    host: str
    files: dict[str, str]


class PackageReport(msgspec.Struct, frozen=True):
    """What was written: name of each file -> SHA-256, and what to do next."""

    host: str
    folder: Path
    files: dict[str, str]
    next_step: str

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types; of the folder only its name."""
        return {"host": self.host, "folder": self.folder.name, "files": self.files, "next_step": self.next_step}


def write_package(bundle: Bundle, host: str, out: StrPath, options: PackageOptions | None = None) -> PackageReport:
    """Write `bundle` for `host` into the folder `out`; an older package there is replaced.

    Raises:
        BadInput: no such host, the bundle lacks the graph that is asked for, or `out` holds something else.
        GateFailed: a graph of the bundle gives no finite numbers.
    """
    default = choose_options(host)
    options = options or default
    if options.precision != PREFERRED:
        bundle.graph(options.precision)  # before any work
    with atomic_directory(out, replaces=is_package) as folder:
        write_golden(bundle, folder / GOLDEN)
        next_step = importlib.import_module(INTEGRATIONS[host]).write(bundle, folder, options)
        files = {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        write_json(folder / RECORD, msgspec.to_builtins(Record(host, files)))
    return PackageReport(host, Path(out), files, next_step)


def is_package(folder: Path) -> bool:
    """Return whether `folder` holds what `package` wrote and nothing else, so that a new one may take its place.

    A ``package.json`` of somebody else's, and what was built or put into a package later, must not be lost.
    """
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return False
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return record.host in INTEGRATIONS and found <= {*record.files, RECORD}
