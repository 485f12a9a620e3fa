"""Bundle: the folder that stages hand on. All names of its files are spelled in this module.

::

    manifest.json            specification, recipe, and the SHA-256 of every file
    checkpoint.safetensors   the weights that the graphs were exported from
    model.fp32.onnx          also model.fp16.onnx, model.int8.onnx, model.int8.u8s8.onnx
    model.*.plan             TensorRT plans, each with its sidecar *.plan.json (see `msal_deploy.trt.plan_metadata`)
    calibration.json         the tiles that FP16 and INT8 were calibrated on
    precision.json           the report on FP16 and INT8
    golden/                  image.npy and the probability that every integration must reproduce

A manifest entry holds the SHA-256 of a file and the names of the files it was made from, so every artifact can be
traced to its checkpoint.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from msal_deploy.documents import FileName, Identifier, Sha256, read_json
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath, sha256, write_json
from msal_deploy.kinds import EXPORT_AGAIN, check_kind, read_images, read_probability
from msal_deploy.recipe import Recipe
from msal_deploy.spec import Float32Maps, ModelSpec, UInt8Images

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.safetensors"
CALIBRATION = "calibration.json"
PRECISION_REPORT = "precision.json"
GOLDEN = "golden"
GOLDEN_IMAGE, GOLDEN_PROBABILITY = f"{GOLDEN}/image.npy", f"{GOLDEN}/probability.npy"
INT8_U8S8 = "model.int8.u8s8.onnx"  # unsigned activations: the same INT8, twice as fast in ONNX Runtime's CPU kernels
FORMAT_VERSION = 1
REMEDY = EXPORT_AGAIN


def graph_name(precision: str) -> str:
    """Return the file name of the graph of a precision.

    >>> graph_name("int8")
    'model.int8.onnx'
    """
    return f"model.{precision}.onnx"


class Artifact(msgspec.Struct, frozen=True):
    """One file of a bundle: its SHA-256 and the names of the files it was made from."""

    sha256: Sha256
    made_from: tuple[FileName, ...] = ()


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a bundle and its origin.

    Attributes:
        versions: Package name -> version at export.
        licence: SPDX identifier of the weights' licence, or ``not stated``.
        artifacts: File name -> its entry.
        checks: Measurements that export made before it wrote the bundle (torch against ONNX Runtime, per shape).
    """

    spec: ModelSpec
    recipe: Recipe
    licence: Annotated[str, msgspec.Meta(max_length=200)]
    versions: dict[Identifier, Annotated[str, msgspec.Meta(max_length=100)]]
    artifacts: dict[FileName, Artifact]
    checks: dict[str, Any] = {}
    format_version: int = FORMAT_VERSION


class Bundle:
    """A bundle on disk.

    >>> bundle = Bundle("bundle")
    >>> bundle.spec.image.dtype
    'uint8'
    >>> bundle.graph("int8").name
    'model.int8.onnx'

    Attributes:
        path: Folder of the bundle.
        manifest: Content of its manifest.
    """

    def __init__(self, path: StrPath) -> None:
        """Read the manifest.

        Raises:
            BadInput: `path` is not a bundle, or its manifest is not valid.
        """
        self.path = Path(path)
        self._checked: set[str] = set()
        manifest = self.path / MANIFEST
        try:
            self.manifest = read_json(manifest, Manifest, "a valid manifest", REMEDY)
        except FileNotFoundError as error:
            raise BadInput(f"{path} is not a bundle (no {MANIFEST})", "create one with: msal-deploy export") from error
        if self.manifest.format_version != FORMAT_VERSION:
            raise BadInput(
                f"Expected format version {FORMAT_VERSION} in {manifest}, got {self.manifest.format_version}", REMEDY
            )

    @property
    def spec(self) -> ModelSpec:
        """Inputs and outputs of the bundle's graphs."""
        return self.manifest.spec

    def __contains__(self, name: str) -> bool:
        """Return whether the manifest lists the file `name`.

        >>> "model.fp16.onnx" in Bundle("bundle")
        True
        """
        return name in self.manifest.artifacts

    def has_graph(self, precision: str) -> bool:
        """Return whether the bundle has a graph of this precision.

        >>> Bundle("bundle").has_graph("int4")
        False
        """
        return graph_name(precision) in self

    def graph_name(self, precision: str, runtime: str | None = None) -> str:
        """Return the name of the graph that a runtime should open; INT8 has a second form for ONNX Runtime on a CPU.

        >>> Bundle("bundle").graph_name("fp16", "onnxruntime")
        'model.fp16.onnx'
        """
        if (precision, runtime) == ("int8", "onnxruntime") and INT8_U8S8 in self:
            return INT8_U8S8
        return graph_name(precision)

    def graph(self, precision: str, runtime: str | None = None) -> Path:
        """Return the path of a graph whose content matches the manifest.

        Args:
            precision: ``fp32``, ``fp16`` or ``int8``.
            runtime: Runtime that opens the graph on a CPU, such as ``onnxruntime``; None for any.

        Raises:
            BadInput: The bundle has no graph of that precision, or the file is missing or has changed.
        """
        return self.file(self.graph_name(precision, runtime))

    def graph_variants(self, precision: str) -> tuple[str, ...]:
        """Return the names of all graphs of a precision.

        >>> Bundle("bundle").graph_variants("int8")
        ('model.int8.onnx',)
        """
        names = (graph_name(precision), INT8_U8S8) if precision == "int8" else (graph_name(precision),)
        return tuple(name for name in names if name in self)

    def file(self, name: str) -> Path:
        """Return the path of a file whose content matches the manifest, and is what its name says.

        Nothing else opens a file of a bundle. The file may be a link to anywhere, as in the cache of a model hub: its
        hash decides.

        >>> Bundle("bundle").file("model.int8.onnx").as_posix()
        'bundle/model.int8.onnx'

        Raises:
            BadInput: The manifest does not list `name`, or the file is missing, has changed or is of another kind.
        """
        if name not in self:
            names = ", ".join(sorted(self.manifest.artifacts))
            raise BadInput(f"{name} is not in {self.path}", f"choose from: {names}")
        path = self.path / name
        if not path.is_file():  # also not a device or a FIFO
            raise BadInput(f"{path} is missing but listed in the manifest", REMEDY)
        if _hash(path) != self.manifest.artifacts[name].sha256:
            raise BadInput(f"{path} has changed since export (SHA-256 differs)", REMEDY)
        if name not in self._checked:  # the same hash is the same kind
            check_kind(path, name, self.spec)
            self._checked.add(name)
        return path

    def golden(self) -> tuple[UInt8Images, Float32Maps]:
        """Return the golden tiles: images uint8[N,H,W,3], and their probability float32[N,1,H,W].

        ::

            images, probability = Bundle("bundle").golden()

        Raises:
            BadInput: A file is missing, has changed or is damaged, or they do not belong together.
        """
        images = read_images(self.file(GOLDEN_IMAGE), self.spec)
        probability = read_probability(self.file(GOLDEN_PROBABILITY), self.spec)
        if probability.shape != (len(images), 1, *images.shape[1:3]):
            shapes = f"{list(images.shape)} and {list(probability.shape)}"
            raise BadInput(f"The golden tiles of {self.path} and their probability do not match ({shapes})", REMEDY)
        return images, probability


# Files of a bundle that its manifest does not list: they can be made again.
UNLISTED = (MANIFEST, "timings.*.cache", "*.plan.cache", "*.plan.rejected", "*.plan.rejected.json", "bisect.jsonl")


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})", "check its permissions") from error


def is_bundle(folder: StrPath) -> bool:
    """Return whether `folder` is a bundle and holds no other files, so that a new one may replace it.

    >>> is_bundle("bundle"), is_bundle("monuseg")
    (True, False)
    """
    try:
        bundle = Bundle(folder)
    except BadInput:
        return False
    files = (path.relative_to(folder) for path in Path(folder).rglob("*") if not path.is_dir())
    return all(str(file) in bundle or any(map(file.match, UNLISTED)) for file in files)


def write_manifest(folder: StrPath, manifest: Manifest) -> None:
    """Write `manifest` into `folder`."""
    write_json(Path(folder) / MANIFEST, msgspec.to_builtins(manifest))


def artifact(folder: StrPath, name: str, *made_from: str) -> Artifact:
    """Return the manifest entry of the file `name` in `folder`, made from the files `made_from`."""
    return Artifact(sha256(Path(folder) / name), made_from)
