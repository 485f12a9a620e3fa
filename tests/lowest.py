"""Try an installation: the help of every command, all modules, the examples in docstrings, and a bundle.

``.ci/lowest`` runs this with the Python of a fresh environment, which has none of the tests' packages.
"""

import doctest
import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import msgspec
import numpy as np
from tiny_bundle import write_tiny_bundle

import msal_deploy
from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.data import synthesize
from msal_deploy.runtimes import open_engine

COMMANDS = (
    "run",
    "train",
    "export",
    "build-trt",
    "validate",
    "bench",
    "predict",
    "package",
    "report",
    "view",
    "doctor",
)
PREDICT = ("predict", "--bundle", "bundle")
TISSUE = Path(__file__).parents[1] / "docs" / "images" / "tissue.png"
INCOMPATIBLE = ("AttributeError", "TypeError", "ImportError")
# Programs that are copied into packages, and run there.
COPIED = ("package/triton_files", "package/build_kit/kit.py", "package/check_golden.py", "package/cpp_sources")


def command(*words: str, code: int = 0) -> str:
    """Run ``msal-deploy`` with these words; end the program if it does not exit with `code`, or shows a traceback."""
    done = subprocess.run([sys.executable, "-m", "msal_deploy", *words], capture_output=True, text=True)
    text = done.stdout + done.stderr
    if done.returncode != code or "Traceback" in text or "Unexpected" in text:
        sys.exit(f"msal-deploy {' '.join(words)}: exit code {done.returncode}\n{text}")
    return done.stdout


def add_golden(bundle: Bundle) -> None:
    """Add golden tiles to a bundle, which every package contains."""
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    (bundle.path / "golden").mkdir()
    with open_engine(bundle, "onnxruntime:fp32") as engine:
        np.save(bundle.path / "golden/probability.npy", engine(tiles))
    np.save(bundle.path / "golden/image.npy", tiles)
    names = ("golden/image.npy", "golden/probability.npy")
    entries = {**bundle.manifest.artifacts, **{name: artifact(bundle.path, name) for name in names}}
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, artifacts=entries))


def try_packages() -> None:
    """Write every package that this environment has the packages for; the message names the extra of the others."""
    for words in (("cpp",), ("build-kit", "--gpu", "gtx-1080-ti"), ("onnx", "--precision", "int8")):
        command("package", "bundle", *words, "--out", f"package-{words[0]}")
    for integration, module, bundle in (("triton", "tritonclient", "bundle"), ("bioimageio", "torch", "exported")):
        missing = not importlib.util.find_spec(module)
        name = "bundle" if missing else bundle
        command("package", name, integration, "--out", f"package-{integration}", code=3 if missing else 0)


def try_modules() -> int:
    """Import all modules that this environment has the packages for, and run their examples; return their number.

    An example may fail for a package that is not installed or a message of another version, but not for a function that
    an older version does not have.
    """
    root, examples = Path(msal_deploy.__file__).parent, 0
    for file in sorted(root.rglob("*.py")):
        name = str(file.relative_to(root.parent))
        if name.startswith(tuple(f"msal_deploy/{copied}" for copied in COPIED)) or file.name == "__main__.py":
            continue
        module_name = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("msal_deploy"):
                raise
            continue  # an optional package
        with redirect_stdout(io.StringIO()) as text:
            result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
        if any(re.search(rf"^    {error}: ", text.getvalue(), re.MULTILINE) for error in INCOMPATIBLE):
            sys.exit(text.getvalue())
        examples += result.attempted - result.failed
    return examples


def main() -> None:
    """Try everything in a temporary folder."""
    for verb in COMMANDS:
        command(verb, "--help")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        add_golden(write_tiny_bundle(Path("bundle")))
        synthesize(Path("monuseg"), train=2, test=5, size=512)  # a verdict needs five
        command("doctor")
        command("data", "verify", "monuseg")
        image = str(next(Path("monuseg").rglob("*TEST*.tif")))
        command("bench", "bundle", "-e", "openvino:fp32", "-e", "onnxruntime:fp32", "--seconds", "0.1", "--size", "256")
        command(*PREDICT, str(TISSUE), "--mpp", "0.5", "--out", "predicted")
        if not importlib.util.find_spec("imagecodecs"):  # LZW: the message names the extra
            command(*PREDICT, image, "--mpp", "0.25", "--out", "lzw", code=3)
        if importlib.util.find_spec("zarr"):
            command(
                *PREDICT, image, "--mpp", "0.25", "--out", "slides", "--format", "geoparquet", "--format", "ome-zarr"
            )
        if importlib.util.find_spec("distributed"):
            command(*PREDICT, str(TISSUE), "--mpp", "0.5", "--out", "dask", "--workers", "2")
        if importlib.util.find_spec("tritonclient"):
            command("bench", "bundle", "-e", "triton:http://localhost:1", "--seconds", "0.1", code=3)
        if importlib.util.find_spec("torch"):
            command("export", "--out", "exported")  # the shipped weights: untrained ones find no nuclei
            command("validate", "exported", "--data", "monuseg", "-e", "openvino:fp32", "-e", "onnxruntime:fp32")
        try_packages()
        print(f"{try_modules()} examples ran")


if __name__ == "__main__":
    main()
