"""The script for QuPath projects, and TorchScript that an older torch writes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kits import put

from msal_deploy.bundle import GOLDEN_IMAGE, Bundle
from msal_deploy.errors import GateFailed, MissingRequirement
from msal_deploy.instances import Separation
from msal_deploy.package import choose_options
from msal_deploy.package.bioimageio import weights, write
from msal_deploy.package.bioimageio.write import _groovy

# Public static methods of qupath.lib.scripting.QP in the tags v0.6.0 and v0.7.0 (qupath-core-processing), as far as the
# script calls them, with their parameters, and the constants that the strings name.
METHODS = {
    "getCurrentServer": "()",
    "getAnnotationObjects": "()",
    "getDetectionObjects": "()",
    "selectAnnotations": "()",
    "selectDetections": "()",
    "createFullImageAnnotation": "(boolean setSelected)",
    "createDetectionsFromPixelClassifier": "(String name, double minArea, double minHoleArea, String... options)",
    "addShapeMeasurements": "(String... features)",
}
CONSTANTS = {"SPLIT", "DELETE_EXISTING"} | {  # CreateObjectOptions, ShapeFeatures
    *("AREA", "LENGTH", "CIRCULARITY", "SOLIDITY", "MAX_DIAMETER", "MIN_DIAMETER"),
}
PIXEL = "new Expando(getAveragedPixelSizeMicrons: { System.getProperty('pixel') as double })"
NAME = "new Expando(getName: { 'slide.svs' })"
RESULTS = {
    "getCurrentServer": f"new Expando(getMetadata: {{ {NAME} }}, getPixelCalibration: {{ {PIXEL} }})",
    "getAnnotationObjects": "System.getProperty('annotations') == 'none' ? [] : [1]",
    "getDetectionObjects": "[1, 2, 3]",
}


@pytest.fixture(scope="module")
def script(bundle: Bundle) -> str:
    return _groovy(bundle)


def test_script_calls_what_qupath_has(script):
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", script, flags=re.DOTALL)
    called = set(re.findall(r"(?<![.\w])([a-z]\w+)\(", code)) - {"if"}
    assert called == METHODS.keys()
    assert set(re.findall(r"'([A-Z_]+)'", code)) == CONSTANTS


def test_sizes_are_those_of_msal_deploy(script):
    for name, size in (("minArea", Separation().min_area), ("maxHole", Separation().max_hole)):
        assert f"def {name} = {size}" in script
    assert "def micronsPerPixel = 0.25" in script


@pytest.mark.skipif(not shutil.which("groovy"), reason="Groovy is not installed")
@pytest.mark.parametrize(
    ("pixel", "annotations", "expected"),
    [
        ("0.25", "some", "selectAnnotations\ncreateDetectionsFromPixelClassifier nuclei 4.0 30.0"),
        ("0.5", "none", "slide.svs has 0.5 µm per pixel: small nuclei will be missed\ncreateFullImageAnnotation true"),
        ("NaN", "some", "Skipped slide.svs: its pixel size is not set"),
    ],
)
def test_groovy_runs_the_script(script, tmp_path, pixel, annotations, expected):
    """With stand-ins of the recorded functions that print their name and arguments."""
    (tmp_path / "qupath" / "lib" / "scripting").mkdir(parents=True)
    body = "".join(
        f"  static def {name}{parameters} {{ {RESULTS.get(name) or say(name, parameters)} }}\n"
        for name, parameters in METHODS.items()
    )
    (tmp_path / "qupath/lib/scripting/QP.groovy").write_text(f"package qupath.lib.scripting\nclass QP {{\n{body}}}\n")
    (tmp_path / "nuclei.groovy").write_text(script, encoding="utf-8")
    options = [f"-Dpixel={pixel}", f"-Dannotations={annotations}", "-Dfile.encoding=UTF-8"]
    java = Path(shutil.which("java")).resolve().parents[1]
    done = subprocess.run(
        ["groovy", "-cp", tmp_path, "-c", "UTF-8", *options, tmp_path / "nuclei.groovy"],
        env={**os.environ, "JAVA_HOME": str(java)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert expected in done.stdout
    assert ("slide.svs: 3 nuclei" in done.stdout) == (pixel != "NaN")


def say(name: str, parameters: str) -> str:
    words = [word.strip().split()[-1] for word in parameters.strip("()").split(",") if word.strip()]
    values = " ".join(f"${{{word}}}" for word in words)
    return f'println "{name} {values}".trim()'


@pytest.fixture(scope="module")
def traced(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A TorchScript file, normalised tiles, and their probabilities."""
    path = tmp_path_factory.mktemp("traced") / "model.pt"
    weights.write_torchscript(bundle, path)
    tiles = np.load(bundle.file(GOLDEN_IMAGE))[:1].transpose(0, 3, 1, 2).astype(np.float32)
    return path, weights.normalised(tiles, bundle.spec), np.load(bundle.file("golden/probability.npy"))[:1]


def test_the_other_torch_writes_the_file(traced, tmp_path):
    path = Path(shutil.copy(traced[0], tmp_path / "model.pt"))
    version = weights.rewrite_torchscript(path, Path(sys.executable), *traced[1:])
    assert version == str(torch.__version__).partition("+")[0]
    assert path.read_bytes() != traced[0].read_bytes()
    with torch.no_grad():
        probability = torch.jit.load(str(path))(torch.from_numpy(traced[1])).numpy()
    np.testing.assert_allclose(probability, traced[2], atol=1e-5)


def test_other_probabilities_of_that_torch_are_refused(traced, tmp_path):
    path = Path(shutil.copy(traced[0], tmp_path / "model.pt"))
    with pytest.raises(GateFailed, match=r"model\.pt differs from the golden probabilities by up to 0\.1"):
        weights.rewrite_torchscript(path, Path(sys.executable), traced[1], traced[2] + np.float32(0.1))
    assert path.read_bytes() == traced[0].read_bytes()


def test_torch_that_cannot_read_the_file_is_named(traced, tmp_path):
    put(tmp_path / "python", "#!/bin/sh\necho 'RuntimeError: Unknown builtin op: aten::new' >&2\nexit 1\n")
    with pytest.raises(GateFailed) as caught:
        weights.rewrite_torchscript(traced[0], tmp_path / "python", *traced[1:])
    assert str(caught.value) == (
        f"The torch of {tmp_path / 'python'} cannot run this TorchScript file (RuntimeError: Unknown builtin op: "
        "aten::new); choose a later torch that your program can still read"
    )


def test_python_without_torch_is_refused_before_any_work(bundle, plain_python, tmp_path):
    options = choose_options("bioimageio", torch_python=plain_python / "python3")
    with pytest.raises(MissingRequirement, match=r"cannot import torch and NumPy \(ModuleNotFoundError: No module"):
        write(bundle, tmp_path, options)
    with pytest.raises(MissingRequirement, match=r"is not a Python \(No such file or directory\)"):
        write(bundle, tmp_path, choose_options("bioimageio", torch_python=tmp_path / "none"))
    assert not list(tmp_path.iterdir())
