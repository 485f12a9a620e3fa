"""The golden tiles in every package."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import numpy_helper
from PIL import Image

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.errors import GateFailed
from msal_deploy.graph import load_graph
from msal_deploy.package.golden import TOLERANCES, write_golden
from msal_deploy.runtimes import open_engine


@pytest.fixture(scope="module")
def golden(typed_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "golden"
    write_golden(typed_bundle, folder)
    return folder


def test_images_are_those_of_the_bundle_in_three_formats(typed_bundle, golden):
    images = np.load(typed_bundle.file("golden/image.npy"))
    np.testing.assert_array_equal(np.load(golden / "image.npy"), images)
    for index, image in enumerate(images):
        np.testing.assert_array_equal(np.asarray(Image.open(golden / f"image-{index}.png")), image)
        assert (golden / f"image-{index}.rgb").read_bytes() == image.tobytes()


def test_probabilities_are_those_of_the_reference_engines(typed_bundle, golden):
    images = np.load(golden / "image.npy")
    exact = np.load(typed_bundle.file("golden/probability.npy"))
    np.testing.assert_array_equal(np.load(golden / "probability.fp32.npy"), exact)
    for engine_id in ("onnxruntime:fp16", "openvino:int8"):
        with open_engine(typed_bundle, engine_id) as engine:
            expected = engine(images)
        np.testing.assert_allclose(
            np.load(golden / f"probability.{engine_id[-4:]}.npy"), expected, atol=1e-6, err_msg=engine_id
        )
        assert not np.array_equal(expected, exact)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_masks_are_thresholded_probabilities(typed_bundle, golden, precision):
    for index, probability in enumerate(np.load(golden / f"probability.{precision}.npy")):
        mask = np.asarray(Image.open(golden / f"mask-{index}.{precision}.png"))
        np.testing.assert_array_equal(mask, np.where(probability[0] >= typed_bundle.spec.threshold, 255, 0))
        assert mask.dtype == np.uint8


def test_golden_json_holds_shape_threshold_and_tolerances(golden):
    about = json.loads((golden / "golden.json").read_text())
    assert (about["images"], about["height"], about["width"], about["threshold"]) == (2, 256, 256, 0.5)
    assert about["tolerances"]["fp32"] == TOLERANCES["fp32"]
    assert about["tolerances"].keys() == {"fp32", "fp16", "int8"}


def test_only_precisions_of_the_bundle_are_written(bundle, tmp_path):
    write_golden(bundle, tmp_path / "golden")
    assert not [path.name for path in (tmp_path / "golden").iterdir() if "int8" in path.name or "fp16" in path.name]
    assert json.loads((tmp_path / "golden" / "golden.json").read_text())["tolerances"].keys() == {"fp32"}


def broken(bundle: Bundle, folder: Path, value: float) -> Bundle:
    """Copy a bundle and fill a weight of its FP16 graph with `value`."""
    shutil.copytree(bundle.path, folder)
    model = load_graph(folder / "model.fp16.onnx")
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    weights[-1].CopyFrom(numpy_helper.from_array(np.full(tuple(weights[-1].dims), value, np.float16), weights[-1].name))
    onnx.save(model, folder / "model.fp16.onnx")
    entries = bundle.manifest.artifacts | {"model.fp16.onnx": artifact(folder, "model.fp16.onnx")}
    write_manifest(folder, replace(bundle.manifest, artifacts=entries))
    return Bundle(folder)


def test_nan_is_rejected(typed_bundle, tmp_path):
    with pytest.raises(GateFailed, match="fp16 graph gives NaN or Inf"):
        write_golden(broken(typed_bundle, tmp_path / "bundle", np.nan), tmp_path / "golden")


def test_tolerance_grows_with_the_difference_from_fp32(typed_bundle, tmp_path):
    write_golden(broken(typed_bundle, tmp_path / "bundle", 0.5), tmp_path / "golden")
    tolerance = json.loads((tmp_path / "golden" / "golden.json").read_text())["tolerances"]["fp16"]
    exact, rounded = (np.load(tmp_path / "golden" / f"probability.{name}.npy") for name in ("fp32", "fp16"))
    assert tolerance["mean"] == pytest.approx(3 * np.abs(rounded - exact).mean(), rel=1e-4)
    assert tolerance["mean"] > TOLERANCES["fp16"]["mean"]
