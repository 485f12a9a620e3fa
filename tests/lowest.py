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

from tiny_bundle import write_tiny_bundle

import msal_deploy
from msal_deploy.data import synthesize

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
        write_tiny_bundle(Path("bundle"))
        synthesize(Path("monuseg"), train=2, test=2, size=512)
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
            command("export", "--recipe", "demo", "--out", "exported")
            command("validate", "exported", "--data", "monuseg", "-e", "openvino:fp32", "-e", "onnxruntime:fp32")
        print(f"{try_modules()} examples ran")


if __name__ == "__main__":
    main()
