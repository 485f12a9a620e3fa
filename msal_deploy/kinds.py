"""Kinds of files in a bundle: what each must hold, whatever its SHA-256 says. `Bundle.file` checks it.

A bundle from a stranger has whatever hashes the stranger wrote. So a file that matches its hash may still be no graph,
or a graph that reads other files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msal_deploy.documents import read_json, refuse
from msal_deploy.errors import BadInput
from msal_deploy.spec import Float32Maps, ModelSpec, UInt8Images

EXPORT_AGAIN = "export the bundle again"


def check_graph(path: Path, spec: ModelSpec) -> None:
    """Raise `BadInput` unless an ONNX file is valid, needs no other file, and has the tensors of `spec`.

    >>> check_graph(Path("bundle/model.fp32.onnx"), ModelSpec())
    """
    from msal_deploy.graph import check_model, check_tensors, load_graph

    model = load_graph(path)
    check_tensors(model, path, spec)
    check_model(path)


def check_document(path: Path, spec: ModelSpec) -> None:
    """Raise `BadInput` unless a file is a JSON object."""
    read_json(path, dict[str, Any], "valid JSON", EXPORT_AGAIN)


def check_plan(path: Path, spec: ModelSpec) -> None:
    """Raise `BadInput` if a plan is empty. `msal_deploy.trt.plan_checks` checks it against its metadata."""
    if not path.stat().st_size:
        refuse(str(path), "a TensorRT plan", "it is empty", "rebuild it with: msal-deploy build-trt BUNDLE --rebuild")


def read_images(path: Path, spec: ModelSpec) -> UInt8Images:
    """Read the images of the golden tiles, uint8[N,H,W,3].

    >>> np.save("image.npy", np.zeros((2, 64, 96, 3), np.uint8))
    >>> read_images(Path("image.npy"), ModelSpec()).shape
    (2, 64, 96, 3)

    Raises:
        BadInput: The file is damaged, or the graph cannot take such images.
    """
    images = _read_array(path)
    try:
        spec.check_images(images)
    except BadInput as error:
        refuse(str(path), "a file of golden tiles", error.cause, EXPORT_AGAIN, error)
    return images


def read_probability(path: Path, spec: ModelSpec) -> Float32Maps:
    """Read the probability of the golden tiles, float32[N,1,H,W] from 0 to 1.

    >>> np.save("probability.npy", np.zeros((2, 1, 64, 96), np.float32))
    >>> read_probability(Path("probability.npy"), ModelSpec()).shape
    (2, 1, 64, 96)

    Raises:
        BadInput: The file is damaged, or holds something else.
    """
    probability = _read_array(path)
    if probability.dtype != np.float32 or probability.ndim != 4 or probability.shape[1] != 1 or not probability.size:
        refuse(str(path), "float32[N,1,H,W]", f"it is {probability.dtype}{list(probability.shape)}", EXPORT_AGAIN)
    if not (probability.min() >= 0 and probability.max() <= 1):  # NaN fails as well
        refuse(str(path), "a probability", "a value is not between 0 and 1", EXPORT_AGAIN)
    return probability


def _read_array(path: Path) -> NDArray[Any]:
    """Read an .npy file. It is mapped first, so that a header that lies about the size allocates nothing."""
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")  # never unpickles: objects cannot be mapped
        return np.array(mapped)
    except Exception as error:  # numpy raises many types for damaged headers
        refuse(str(path), "an .npy file of numbers", str(error) or type(error).__name__, EXPORT_AGAIN, error)


# Suffix of a name, the longest first -> the check of such a file.
KINDS: dict[str, Callable[[Path, ModelSpec], object]] = {
    "golden/image.npy": read_images,
    "golden/probability.npy": read_probability,
    ".onnx": check_graph,
    ".plan": check_plan,
    ".json": check_document,
}


def check_kind(path: Path, name: str, spec: ModelSpec) -> None:
    """Check a file by its name in the bundle; names of no known kind pass.

    >>> check_kind(Path("bundle/manifest.json"), "model.fp32.onnx", ModelSpec())
    Traceback (most recent call last):
    msal_deploy.errors.BadInput: bundle/manifest.json is not a valid ONNX file (DecodeError); export the bundle again

    Raises:
        BadInput: The file is of another kind.
    """
    check = next((check for suffix, check in KINDS.items() if name.endswith(suffix)), None)
    if check is not None:
        check(path, spec)
