"""Write and verify a bundle's network without its normalisation, as ONNX and as TorchScript.

bioimage.io's programs normalise the images themselves. The ONNX file is cut out of the bundle's graph, between its
normalisation and its output, so its weights are the validated ones. ONNX cannot be converted to TorchScript, which is
traced from the bundle's checkpoint instead.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import warnings
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx

from msal_deploy.bundle import CHECKPOINT, Bundle
from msal_deploy.errors import GateFailed, MissingRequirement, translate_missing_extra
from msal_deploy.package import check_golden
from msal_deploy.package.float_graph import float_graph
from msal_deploy.package.golden import TOLERANCES
from msal_deploy.spec import Float32Maps, ModelSpec

if TYPE_CHECKING:
    from torch import nn


def write_onnx(bundle: Bundle, path: Path) -> int:
    """Write a bundle's graph without its normalisation, and return its opset."""
    graph = float_graph(bundle.graph("fp32"), bundle.spec)
    onnx.save(graph, path)
    opset: int = next(entry.version for entry in graph.opset_import if not entry.domain)
    return opset


def write_torchscript(bundle: Bundle, path: Path) -> str:
    """Trace the network of a bundle's checkpoint with its sigmoid as TorchScript, and return torch's version."""
    with translate_missing_extra():
        import torch

        from msal_deploy.checkpoint import load_checkpoint
    network: nn.Module = load_checkpoint(bundle.file(CHECKPOINT)).network()
    module = torch.nn.Sequential(network, torch.nn.Sigmoid()).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript, but bioimage.io's programs need it
        torch.jit.trace(module, torch.zeros(2, 3, 64, 96)).save(str(path))  # type: ignore[no-untyped-call]
    return str(torch.__version__).partition("+")[0]


def check_torch(python: Path | None) -> None:
    """Raise `MissingRequirement` unless this Python, and another one if it is given, can import torch."""
    with translate_missing_extra():
        import torch  # noqa: F401 (whether it is installed is known before anything slow)
    if python is None:
        return
    try:
        done = subprocess.run([python, "-c", "import numpy, torch"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise MissingRequirement(
            f"{python} is not a Python ({error.strerror})", "name one with --torch-python"
        ) from error
    if done.returncode:
        raise MissingRequirement(
            f"{python} cannot import torch and NumPy ({_last_line(done.stderr)})",
            f"run: {shlex.quote(str(python))} -m pip install torch==2.5.1 'numpy<2'",
        )


def rewrite_torchscript(path: Path, python: Path, images: Float32Maps, expected: Float32Maps) -> str:
    """Let the torch of another Python read a TorchScript file, run it, and write it again; return that torch's version.

    What an older torch has written, it and all later ones can read.

    Args:
        path: The file, which is replaced.
        python: Python of an environment with that torch.
        images: float32[N,3,H,W], normalised.
        expected: float32[N,1,H,W], the probabilities of these images.

    Raises:
        GateFailed: That torch cannot read or run the file, or gives other probabilities.
    """
    script = resources.files(__package__).joinpath("rewrite_torchscript.py")
    with TemporaryDirectory() as temporary:
        given, rewritten, output = (Path(temporary) / name for name in ("in.npy", "model.pt", "out.npy"))
        np.save(given, images)
        words = [python, script, path, given, rewritten, output]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise GateFailed(
                f"The torch of {python} cannot run this TorchScript file ({_last_line(done.stderr)})",
                "choose a later torch that your program can still read",
            )
        _check("model.pt", np.load(output), expected)
        shutil.move(rewritten, path)
    return done.stdout.strip().partition("+")[0]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def gains_and_offsets(spec: ModelSpec) -> tuple[list[float], list[float]]:
    """Return the gains and offsets per channel for which x · gain + offset = (x / 255 − mean) / std."""
    gains = [1 / (255 * std) for std in spec.std]
    return gains, [-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)]


def normalised(images: Float32Maps, spec: ModelSpec) -> Float32Maps:
    """Normalise float32[N,3,H,W] in 0 to 255 as the RDF specifies."""
    gains, offsets = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in gains_and_offsets(spec))
    result: Float32Maps = images * gains + offsets
    return result


def verify_weights(folder: Path, images: Float32Maps, expected: Float32Maps) -> None:
    """Run both weight formats of a package on normalised images, and compare them with the golden probabilities.

    Raises:
        GateFailed: A difference exceeds the tolerance for FP32.
    """
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.load(str(folder / "model.pt"))  # type: ignore[no-untyped-call]
        by_torch = traced(torch.from_numpy(images)).numpy()
    by_onnx = session.run(None, {session.get_inputs()[0].name: images})[0]
    for name, probability in (("model.onnx", by_onnx), ("model.pt", by_torch)):
        _check(name, probability, expected)


def _check(name: str, probability: Float32Maps, expected: Float32Maps) -> None:
    measured = check_golden.differences(probability, expected, 0.5)
    if not check_golden.within(measured, TOLERANCES["fp32"]):
        worst = f"{measured['largest']:.2g}"
        raise GateFailed(f"{name} differs from the golden probabilities by up to {worst}", "export the bundle again")
