"""Package: a bundle -> a folder that works where it lands, with golden tiles that the host replays to prove itself.

Each host is a module here with ``write(bundle, folder, options) -> str``: it fills `folder` and returns the sentence
that says what to do next. `write_package` makes the folder whole or not at all and adds the golden tiles.
"""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput, nearest
from msal_deploy.files import atomic_directory, sha256, write_json
from msal_deploy.package.golden import write_golden

HOSTS = {
    "build-kit": "msal_deploy.package.build_kit",
    "cpp": "msal_deploy.package.cpp",
    "triton": "msal_deploy.package.triton",
    "bioimageio": "msal_deploy.package.bioimageio",
}
RECORD = "package.json"
ALL_THAT_PAY = "all that pay"  # not one graph but those that the GPU's table names, the best first
DEFAULT_PRECISION = {"build-kit": ALL_THAT_PAY}  # of the other hosts: fp32
PRECISIONS = ("fp32", "fp16", "int8")


class Options(msgspec.Struct, frozen=True):
    """What a host may be told; each takes what concerns it.

    Attributes:
        precision: which graph of the bundle the host runs.
        gpu: name of a target, for hosts that run on a GPU.
        backend: what runs the graph inside the host, where it has a choice: Triton's ``tensorrt``, ``onnxruntime`` or
            ``openvino``. None leaves it to the host.
        authors: of the weights, for hosts that name them.
    """

    precision: str = "fp32"
    gpu: str | None = None
    backend: str | None = None
    authors: tuple[str, ...] = ("msal-deploy",)


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


def choose(
    host: str,
    precision: str | None = None,
    gpu: str | None = None,
    backend: str | None = None,
    authors: Iterable[str] = (),
) -> Options:
    """Return the options for `host`, with its own default where no precision is named.

    Raises:
        BadInput: no such host or precision.
    """
    if host not in HOSTS:
        raise BadInput(f"No host is called {host!r}; {nearest(host, HOSTS)}")
    if precision is not None and precision not in PRECISIONS:
        raise BadInput(f"No precision is called {precision!r}; {nearest(precision, PRECISIONS)}")
    return Options(precision or DEFAULT_PRECISION.get(host, "fp32"), gpu, backend, tuple(authors) or Options().authors)


def write_package(bundle: Bundle, host: str, out: Path, options: Options | None = None) -> PackageReport:
    """Write `bundle` for `host` into the folder `out`; an older package there is replaced.

    Raises:
        BadInput: no such host, the bundle lacks the graph that is asked for, or `out` holds something else.
        GateFailed: a graph of the bundle gives no finite numbers.
    """
    default = choose(host)
    options = options or default
    if options.precision != ALL_THAT_PAY:
        bundle.file(f"model.{options.precision}.onnx")  # before any work
    with atomic_directory(out, replaces=is_package) as folder:
        write_golden(bundle, folder / "golden")
        next_step = importlib.import_module(HOSTS[host]).write(bundle, folder, options)
        files = {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        write_json(folder / RECORD, msgspec.to_builtins(Record(host, files)))
    return PackageReport(host, out, files, next_step)


def is_package(folder: Path) -> bool:
    """Return whether `folder` holds what `write_package` wrote and nothing else, so that a new one may take its place.

    A ``package.json`` of somebody else's, and what was built or put into a package later, must not be lost.
    """
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return False
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return record.host in HOSTS and found <= {*record.files, RECORD}
