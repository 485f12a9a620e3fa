"""A suite: the options of a bench run as a TOML file, so that everybody times the same thing.

::

    engines = ["torch:fp32", "openvino:int8"]
    baseline = "torch:fp32"
    batches = [1]
    seconds = 1.0

Every key is optional; without it, the default of the command line holds.
"""

from pathlib import Path
from typing import Annotated

import msgspec

from msal_deploy.documents import parse, read_toml
from msal_deploy.errors import BadInput, suggest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "suites"  # only in a source tree; a wheel has no suites
WHAT, REMEDY = "a suite", "see msal-deploy bench --help for the options that it may set"

Count = Annotated[int, msgspec.Meta(ge=1)]


class Suite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of bench; None where the command line's default holds.

    >>> Suite(engines=("openvino:int8",), batches=(1,)).options()
    {'engine': ['openvino:int8'], 'batch': [1]}

    Attributes:
        description: What the suite is for.
        engines, baseline, batches, threads, streams, seconds, windows, rounds: As the options of the same name.
        size: A side in pixels, or HEIGHTxWIDTH.
    """

    description: str = ""
    engines: tuple[str, ...] | None = None
    baseline: str | None = None
    batches: tuple[Count, ...] | None = None
    size: Count | str | None = None
    threads: tuple[Count, ...] | None = None
    streams: tuple[Count, ...] | None = None
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] | None = None
    windows: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    rounds: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None

    def options(self) -> dict[str, object]:
        """Return the options that the suite sets, with the names and types that the command line has for them."""
        options = {
            "engine": self.engines and list(self.engines),
            "baseline": self.baseline,
            "batch": self.batches and list(self.batches),
            "size": None if self.size is None else str(self.size),
            "threads": self.threads and list(self.threads),
            "streams": self.streams and list(self.streams),
            "seconds": self.seconds,
            "windows": self.windows,
            "rounds": self.rounds,
        }
        return {name: value for name, value in options.items() if value}


def read_suite(name: str, folder: Path = FOLDER) -> Suite:
    """Read a suite by name, or from a TOML file.

    >>> _ = Path("mine.toml").write_text('engins = ["openvino:int8"]')
    >>> read_suite("mine.toml")
    Traceback (most recent call last):
    msal_deploy.errors.BadInput: mine.toml is not a suite (Object contains unknown field `engins`); see msal-deploy ...

    Args:
        name: The name of a file in `folder`, such as ``cpu``, or a path that ends in ``.toml``.
        folder: The folder of the suites that have names.

    Raises:
        BadInput: There is no such suite, or the file is not one.
    """
    named = {one.stem: one for one in folder.glob("*.toml")}
    path = Path(name) if name.endswith(".toml") else named.get(name)
    if path is None:
        remedy = suggest(name, named) if named else "name a TOML file: suites have names only in a source tree"
        raise BadInput(f"{name!r} is not a suite", remedy)
    try:
        content = read_toml(path, REMEDY)
    except FileNotFoundError as error:
        raise BadInput(f"The suite {path} does not exist", "check the path") from error
    return parse(lambda: msgspec.convert(content, Suite), str(path), WHAT, REMEDY)
