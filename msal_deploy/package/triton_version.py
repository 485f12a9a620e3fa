"""One version of a served model: its folder, and ``model.json`` in it, which says what it is."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

import msgspec

from msal_deploy import __version__
from msal_deploy.bundle import Bundle
from msal_deploy.files import sha256, write_json
from msal_deploy.package.triton_backends import Serving

FILES = "triton_files"
ABOUT = "model.json"
FIRST = "1"


class About(msgspec.Struct, frozen=True):
    """The content of ``model.json`` in the folder of a version. The versions of a model may differ in all of it.

    Attributes:
        graph: The bundle's graph that is served, or that the plans were built from.
        graph_sha256: Its SHA-256.
        precision: ``fp32``, ``fp16`` or ``int8``.
        licence: Licence of the weights.
        msal_deploy: Version of msal-deploy that wrote the folder.
        files: Name of each other file in the folder -> SHA-256. They are checked before the version is served.
    """

    graph: str
    graph_sha256: str
    precision: str
    licence: str
    msal_deploy: str
    files: dict[str, str]

    @property
    def parameter(self) -> str:
        """Name of the parameter in config.pbtxt that tells clients about the version."""
        return f"version_{FIRST}"

    def summary(self) -> str:
        """Return the value of that parameter, JSON: all but the files."""
        facts = msgspec.to_builtins(self)
        del facts["files"]
        return msgspec.json.encode(facts).decode()


def write_version(bundle: Bundle, serving: Serving, precision: str, model: Path) -> About:
    """Write the folder of the first version into the folder of a model, and return what it is."""
    folder = model / FIRST
    folder.mkdir(parents=True)
    for name, path in serving.files.items():
        shutil.copyfile(path, folder / name)
    if serving.backend == "openvino":
        copy_program("model.py", folder)
    about = About(
        graph=serving.graph,
        graph_sha256=bundle.manifest.artifacts[serving.graph].sha256,
        precision=precision,
        licence=bundle.manifest.licence,
        msal_deploy=__version__,
        files={path.name: sha256(path) for path in sorted(folder.iterdir())},
    )
    write_json(folder / ABOUT, msgspec.to_builtins(about))
    return about


def copy_program(name: str, folder: Path) -> None:
    """Copy one of the package's programs into a folder."""
    source = resources.files("msal_deploy.package").joinpath(FILES, name)
    (folder / name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
