"""The RDF: what a bioimage.io host is told of the model, written from ModelSpec.

It is plain YAML of the format that bioimage.io documents; bioimageio.spec, whose releases and pydantic's do not always
go together, is not needed to write it. The tests run bioimageio.core's own over it.

Three things are as they are because of QuPath, whose reader of RDFs was read for this (qupath-bioimageio-spec 0.2.1,
and `BioimageIoTools` of QuPath's main branch):

- the fixed mean and deviation are written as ``scale_linear``. RDF 0.5 has ``fixed_zero_mean_unit_variance`` for
  them, which QuPath does not know: it would leave the step out and log a line.
- ``offset: 0`` of the output's size is written out, since QuPath takes 1 where it is missing.
- no ``ensure_dtype``: QuPath gives float32 anyway, and warns of that step.
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from msal_deploy.bundle import Bundle
from msal_deploy.files import sha256
from msal_deploy.package.bioimageio.weights import gains_and_offsets
from msal_deploy.spec import Axis, ModelSpec

FORMAT = "0.5.4"  # the first with a tolerance for tests; later ones are read by what reads this one
PAPER = {
    "text": "Ali H, Haq IU, Cui L, Feng J. MSAL-Net: improve accurate segmentation of nuclei in histopathology images "
    "by multiscale attention learning network. BMC Med Inform Decis Mak 22, 90 (2022)",
    "doi": "10.1186/s12911-022-01826-5",
}
TAGS = ["nuclei", "segmentation", "semantic-segmentation", "histopathology", "H&E", "brightfield", "2d", "rgb"]
TOLERANCE = 1e-4  # relative and absolute, of a probability; measured on R34 between torch and ONNX Runtime: 1.3e-6
SPDX = re.compile(r"[A-Za-z0-9.+-]+")  # CC-BY-NC-SA-4.0, MIT; "not stated" is none


def write_rdf(bundle: Bundle, folder: Path, authors: tuple[str, ...], opset: int, torch_version: str) -> None:
    """Write ``rdf.yaml`` beside the files that it names."""
    described = content(bundle, folder, authors, opset, torch_version)
    (folder / "rdf.yaml").write_bytes(msgspec.yaml.encode(described))


def content(bundle: Bundle, folder: Path, authors: tuple[str, ...], opset: int, torch_version: str) -> dict[str, Any]:
    """Return what goes into the RDF; the files it names are in `folder`."""
    torchscript = {"pytorch_version": torch_version}
    described = {
        "format_version": FORMAT,
        "type": "model",
        "name": model_name(bundle),
        "description": "Probability of nuclei in H&E-stained tissue, pixel by pixel",
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
    licence = bundle.manifest.licence  # a sentence, where nobody knows; the README has it in any case
    return described | ({"license": licence} if SPDX.fullmatch(licence) else {})


def _file(folder: Path, name: str) -> dict[str, Any]:
    return {"source": name, "sha256": sha256(folder / name)}


def model_name(bundle: Bundle) -> str:
    """Return a name of the characters that bioimage.io allows."""
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
        "description": f"that a pixel belongs to a nucleus; it does where this is at least {spec.threshold:g}",
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
