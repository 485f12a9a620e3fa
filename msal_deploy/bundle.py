"""Bundle: the directory handed from stage to stage.

::

    manifest.json            what is here, and the hash chain
    checkpoint.safetensors   the weights that the graphs were made from
    model.fp32.onnx          later model.fp16.onnx, model.int8.onnx, *.plan with *.plan.json
    golden/                  image.npy and the probability that each host must reproduce

A file's entry in the manifest holds its SHA-256 and the names of the files it was made from, so every artifact leads
back to its checkpoint.
"""

from pathlib import Path
from typing import Any

import msgspec

from msal_deploy.errors import BadInput
from msal_deploy.files import sha256, write_json
from msal_deploy.recipe import Recipe
from msal_deploy.spec import ModelSpec

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.safetensors"
FORMAT_VERSION = 1


class Artifact(msgspec.Struct, frozen=True):
    """One file of a bundle: its hash, and which files of the bundle it was made from."""

    sha256: str
    made_from: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle holds and where it came from.

    Attributes:
        versions: package name -> version that made the bundle.
        licence: SPDX identifier of the weights' licence, or a sentence where it is not known.
        checks: what export measured before it wrote the bundle (torch against ONNX Runtime, per shape).
    """

    spec: ModelSpec
    recipe: Recipe
    licence: str
    versions: dict[str, str]
    artifacts: dict[str, Artifact]
    checks: dict[str, Any] = {}
    format_version: int = FORMAT_VERSION


class Bundle:
    """An opened bundle: `path`, and its `manifest`."""

    def __init__(self, path: Path) -> None:
        """Read the manifest.

        Raises:
            BadInput: `path` is no bundle, or its manifest cannot be read.
        """
        self.path = path
        try:
            self.manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BadInput(f"{path} is no bundle (it has no {MANIFEST}); make one with: msal-deploy export") from error
        except msgspec.DecodeError as error:
            raise BadInput(f"{path / MANIFEST} cannot be read ({error}); export the bundle again") from error

        if self.manifest.format_version != FORMAT_VERSION:
            raise BadInput(
                f"{path} has format version {self.manifest.format_version}, and only {FORMAT_VERSION} can be read; "
                "export the bundle again"
            )

    @property
    def spec(self) -> ModelSpec:
        """The contract of the bundle's graphs."""
        return self.manifest.spec

    def file(self, name: str) -> Path:
        """Return the path of an artifact whose content is still what the manifest says.

        Raises:
            BadInput: the bundle has no such artifact, or the file is missing or was changed.
        """
        if name not in self.manifest.artifacts:
            raise BadInput(f"{self.path} holds no {name}; it has: {', '.join(sorted(self.manifest.artifacts))}")
        path = self.path / name
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise BadInput(f"{name} in the manifest of {self.path} lies outside the bundle; export the bundle again")
        if not path.is_file():
            raise BadInput(f"{path} is named in the manifest and missing; export the bundle again")
        if sha256(path) != self.manifest.artifacts[name].sha256:
            raise BadInput(
                f"{path} is not the file that the manifest describes (SHA-256 differs); export the bundle again"
            )
        return path


def is_bundle(folder: Path) -> bool:
    """Return whether `folder` is a bundle, so that a new one may take its place."""
    try:
        Bundle(folder)
    except BadInput:
        return False
    return True


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into `folder`."""
    write_json(folder / MANIFEST, msgspec.to_builtins(manifest))


def artifact(folder: Path, name: str, *made_from: str) -> Artifact:
    """Describe the file `name` in `folder`, made from the files `made_from`."""
    return Artifact(sha256(folder / name), made_from)
