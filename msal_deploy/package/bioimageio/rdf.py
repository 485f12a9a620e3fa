"""Write the RDF, bioimage.io's description of a model, from ModelSpec.

The RDF is plain YAML in the format that bioimage.io documents. It is written without bioimageio.spec, whose releases
are not always compatible with pydantic's; the tests check it with bioimageio.core.

Three choices are for QuPath (qupath-bioimageio-spec 0.2.1, and `BioimageIoTools` on QuPath's main branch):

- The fixed mean and standard deviation are written as ``scale_linear``. QuPath does not support RDF 0.5's
  ``fixed_zero_mean_unit_variance``: it would skip the step and only log a message.
- ``offset: 0`` of the output's size is written out, because QuPath's default is 1.
- There is no ``ensure_dtype`` step: QuPath always passes float32, and warns about the step.
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from msal_deploy.bundle import Bundle
from msal_deploy.files import sha256
from msal_deploy.package.bioimageio.weights import gains_and_offsets
from msal_deploy.spec import Axis, ModelSpec

FORMAT = "0.5.4"  # the first version with test tolerances; readers of later versions accept it
PAPER = {
    "text": "Ali H, Haq IU, Cui L, Feng J. MSAL-Net: improve accurate segmentation of nuclei in histopathology images "
    "by multiscale attention learning network. BMC Med Inform Decis Mak 22, 90 (2022)",
    "doi": "10.1186/s12911-022-01826-5",
}
TAGS = ["nuclei", "segmentation", "semantic-segmentation", "histopathology", "H&E", "brightfield", "2d", "rgb"]
TOLERANCE = 1e-4  # relative and absolute; torch and ONNX Runtime differ by 1.3e-6 on R34
SPDX = re.compile(r"[A-Za-z0-9.+-]+")  # such as CC-BY-NC-SA-4.0 or MIT, but not "not stated"


def write_rdf(bundle: Bundle, folder: Path, authors: tuple[str, ...], opset: int, torch_version: str) -> None:
    """Write ``rdf.yaml`` into the folder of the files it refers to."""
    rdf = content(bundle, folder, authors, opset, torch_version)
    (folder / "rdf.yaml").write_bytes(msgspec.yaml.encode(rdf))


def content(bundle: Bundle, folder: Path, authors: tuple[str, ...], opset: int, torch_version: str) -> dict[str, Any]:
    """Return the content of the RDF; the files it refers to must be in `folder`."""
    torchscript = {"pytorch_version": torch_version}
    rdf = {
        "format_version": FORMAT,
        "type": "model",
        "name": model_name(bundle),
        "description": "Probability that a pixel belongs to a nucleus, in H&E-stained tissue",
        "authors": [{"name": name} for name in authors],
        "cite": [PAPER] if bundle.manifest.recipe.network.model == "msal-net" else [],
        "documentation": "README.md",
        "covers": ["cover.png"],
        "tags": TAGS,
        "inputs": [_input(bundle.spec, folder)],
        "outputs": [_output(bundle.spec, folder)],
        "weights": {
            "torchscript": _file(folder, "model.pt") | torchscript,
            "onnx": _file(folder, "model.onnx") | {"opset_version": opset, "parent": "torchscript"},
        },
        "config": {"bioimageio": {"reproducibility_tolerance": [_tolerance()]}},
    }
    licence = bundle.manifest.licence  # may be text such as "not stated"; the README always has it
    return rdf | ({"license": licence} if SPDX.fullmatch(licence) else {})


def _file(folder: Path, name: str) -> dict[str, Any]:
    return {"source": name, "sha256": sha256(folder / name)}


def model_name(bundle: Bundle) -> str:
    """Return a model name of the characters that bioimage.io allows."""
    nanometres = round(1000 * bundle.spec.microns_per_pixel)
    return f"{bundle.manifest.recipe.network.model} nuclei segmentation (HE {nanometres} nm)"


def _tolerance() -> dict[str, float]:
    return {"relative_tolerance": TOLERANCE, "absolute_tolerance": TOLERANCE, "mismatched_elements_per_million": 0}


def _input(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    gains, offsets = gains_and_offsets(spec)
    return {
        "id": spec.image.name,
        "description": "RGB, intensities 0 to 255",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": ["red", "green", "blue"]},
            _space(spec, "y", _size(spec.image.axes[1])),
            _space(spec, "x", _size(spec.image.axes[2])),
        ],
        "data": {"type": "float32", "range": [0, 255]},
        "test_tensor": _file(folder, "test-input.npy"),
        "preprocessing": [{"id": "scale_linear", "kwargs": {"axis": "channel", "gain": gains, "offset": offsets}}],
    }


def _output(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    return {
        "id": spec.probability.name,
        "description": f"Probability that a pixel belongs to a nucleus; threshold {spec.threshold:g}",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": ["nucleus"]},
            *(_space(spec, axis, {"tensor_id": spec.image.name, "axis_id": axis, "offset": 0}) for axis in "yx"),
        ],
        "data": {"type": "float32", "range": [0, 1]},
        "test_tensor": _file(folder, "test-output.npy"),
    }


def _size(axis: Axis | int) -> Any:
    return {"min": axis.minimum, "step": axis.multiple} if isinstance(axis, Axis) else axis


def _space(spec: ModelSpec, name: str, size: Any) -> dict[str, Any]:
    return {"type": "space", "id": name, "unit": "micrometer", "scale": spec.microns_per_pixel, "size": size}
