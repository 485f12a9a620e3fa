"""Plain ONNX packages: the graph as it is, or without its normalisation for hosts that normalise images themselves."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_bundle import write_tiny_bundle

from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.graph import load_graph
from msal_deploy.package import check_golden, choose_options, plain_onnx
from msal_deploy.package.golden import write_golden

# The largest |Δp| between a graph that normalises and the same graph that is given normalised tiles. In FP16, the graph
# rounds while it normalises, and the host does not: 1.4e-3 with the weights of this package.
LARGEST = {"fp32": 0, "int8": 0, "fp16": 2e-3}


@pytest.fixture(scope="module")
def make(typed_bundle, tmp_path_factory):
    """Return the package of a precision and an input, which tests must not change."""
    golden = tmp_path_factory.mktemp("plain") / "golden"
    write_golden(typed_bundle, golden)

    def make(precision: str, io: str | None) -> Path:
        folder = golden.parent / f"{precision}-{io}"
        if not folder.exists():
            shutil.copytree(golden, folder / "golden", copy_function=os.link)
            shutil.copyfile(check_golden.__file__, folder / "check_golden.py")
            plain_onnx.write(typed_bundle, folder, choose_options("onnx", precision, io=io))
        return folder

    return make


def run(graph: Path, tiles: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(["probability"], {"image": tiles})[0]


@pytest.mark.parametrize("precision", LARGEST)
def test_normalised_tiles_give_the_probabilities_of_the_whole_graph(make, typed_bundle, precision):
    folder = make(precision, "float32-nchw")
    tiles = np.load(folder / "golden" / "input.npy")
    assert (tiles.dtype, tiles.shape) == (np.float32, (2, 3, 256, 256))
    expected = run(typed_bundle.file(f"model.{precision}.onnx"), np.load(folder / "golden" / "image.npy"))
    actual = run(folder / f"model.{precision}.onnx", tiles)
    assert np.abs(actual - expected).max() <= LARGEST[precision]
    assert np.ptp(actual) > 0.01


def test_tiles_are_normalised_with_the_mean_and_deviation_in_model_json(make):
    folder = make("fp32", "float32-nchw")
    image = json.loads((folder / "model.json").read_text())["input"]
    assert (image["dtype"], image["channels"], image["axes"][1]) == ("float32", "RGB", 3)
    assert (image["mean"], image["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # ImageNet's
    pixels = np.load(folder / "golden" / "image.npy").astype(np.float64)
    expected = ((pixels / 255 - image["mean"]) / image["std"]).transpose(0, 3, 1, 2)
    tiles = np.load(folder / "golden" / "input.npy")
    np.testing.assert_allclose(tiles, expected, atol=1e-6)
    for index in range(2):
        raw = np.fromfile(folder / "golden" / f"input-{index}.f32", "<f4").reshape(3, 256, 256)
        np.testing.assert_array_equal(raw, tiles[index])


@pytest.mark.parametrize("precision", LARGEST)
def test_graph_lacks_only_the_normalisation(make, typed_bundle, precision):
    name = f"model.{precision}.onnx"
    whole, cut = load_graph(typed_bundle.file(name)), load_graph(make(precision, "float32-nchw") / name)
    gone = {node.name for node in whole.graph.node} - {node.name for node in cut.graph.node}
    assert {node.partition("/")[2].partition("/")[0] for node in gone} <= {"Cast", "Transpose", "normalise"}
    assert (cut.ir_version, cut.opset_import[0].version) == (whole.ir_version, 17)
    shape = cut.graph.input[0].type.tensor_type
    assert shape.elem_type == onnx.TensorProto.FLOAT
    assert [axis.dim_param or axis.dim_value for axis in shape.shape.dim] == ["batch", 3, "height", "width"]


def test_default_is_the_graph_of_the_bundle(make, typed_bundle):
    folder = make("int8", None)
    about = json.loads((folder / "model.json").read_text())
    assert (about["io"], about["input"]["dtype"]) == ("uint8-nhwc", "uint8")
    assert about["graphs"]["model.int8.onnx"] == typed_bundle.manifest.artifacts["model.int8.onnx"].sha256
    assert not (folder / "golden" / "input.npy").exists()
    assert "Normalise" not in (folder / "README.md").read_text()


@pytest.mark.parametrize("io", ["uint8-nhwc", "float32-nchw"])
def test_the_lines_of_the_readme_pass_the_golden_check(make, tmp_path, io):
    folder = Path(shutil.copytree(make("fp32", io), tmp_path / "package", copy_function=os.link))
    page = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (check,) = re.findall(r"```sh\npython (.*?)\n```", page, re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    done = subprocess.run([sys.executable, *check.split()], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:7]) == (0, "passed:"), done


def test_hashes_are_those_of_the_files(make):
    folder = make("int8", "float32-nchw")
    graphs = json.loads((folder / "model.json").read_text())["graphs"]
    assert graphs == {name: sha256(folder / name) for name in graphs}
    assert graphs.keys() == {path.name for path in folder.glob("*.onnx")}


def test_graph_that_does_not_normalise_is_refused(make, tmp_path):
    other = write_tiny_bundle(tmp_path / "bundle")
    shutil.copytree(make("fp32", None) / "golden", tmp_path / "out" / "golden")
    with pytest.raises(BadInput, match="does not normalise images as msal-deploy's graphs do"):
        plain_onnx.write(other, tmp_path / "out", choose_options("onnx", io="float32-nchw"))
