"""A bioimage.io package, checked with bioimage.io's own tools.

The tools are in a separate environment (``make .venv-bioimageio/.ready``), because their releases are not always
compatible with pydantic's. Without it these tests fail; they are not skipped.
"""

import re
import shlex
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from msgspec.structs import replace
from PIL import Image
from tiny_bundle import tiny_graph

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.graph import load_graph
from msal_deploy.package import PackageOptions, choose_options, write_package
from msal_deploy.package.bioimageio import weights
from msal_deploy.spec import ModelSpec

ROOT = Path(__file__).parents[2]
CLI = ROOT / ".venv-bioimageio" / "bin" / "bioimageio"
PAGE = ROOT / "engines" / "bioimageio" / "README.md"


@pytest.fixture(scope="module")
def package(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bioimageio") / "nuclei"
    write_package(bundle, "bioimageio", folder, choose_options("bioimageio", authors=["Jane Doe"]))
    return folder


@pytest.fixture(scope="module")
def rdf(package: Path) -> dict:
    return yaml.safe_load((package / "rdf.yaml").read_text())


def bioimageio(*words: object) -> subprocess.CompletedProcess[str]:
    assert CLI.is_file(), "bioimage.io's tools are not installed; run: make .venv-bioimageio/.ready"
    return subprocess.run([CLI, *map(str, words)], capture_output=True, text=True, check=False)


def test_bioimageio_test_passes_with_both_weights_at_several_shapes(package):
    done = bioimageio("test", package / "rdf.yaml")
    output = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "status passed" in output
    for kind in ("onnx", "torchscript"):
        assert f"Reproduce test outputs from test inputs ({kind})" in output
    assert output.count("batch_size: 2") == 6  # three sizes, both weights


def test_bioimageio_test_can_fail(package, tmp_path):
    """bioimage.io's test detects another normalisation in the RDF, so the test above can fail."""
    for name in ("model.onnx", "model.pt", "test-input.npy", "test-output.npy", "cover.png", "README.md"):
        (tmp_path / name).symlink_to(package / name)
    text = (package / "rdf.yaml").read_text()
    offset = re.search(r"offset:\n\s+- (-[\d.]+)", text)
    assert offset
    (tmp_path / "rdf.yaml").write_text(text.replace(offset[1], "-2.5"))
    assert bioimageio("test", "--weight-format", "onnx", tmp_path / "rdf.yaml").returncode == 1


def test_bioimageio_zip_holds_the_files_of_the_rdf(package, tmp_path):
    done = bioimageio("package", package / "rdf.yaml", tmp_path / "nuclei.zip")
    assert done.returncode == 0, done.stdout + done.stderr
    names = set(zipfile.ZipFile(tmp_path / "nuclei.zip").namelist())
    assert {"model.onnx", "model.pt", "test-input.npy", "test-output.npy", "cover.png", "README.md"} <= names
    assert not {name for name in names if "golden" in name}


def test_rdf_matches_modelspec(rdf):
    spec = ModelSpec()
    (image,), (probability,) = rdf["inputs"], rdf["outputs"]
    for tensor in (image, probability):
        batch, channel, y, x = tensor["axes"]
        assert batch == {"type": "batch"}
        assert [y["id"], x["id"], channel["type"]] == ["y", "x", "channel"]
        assert {(axis["unit"], axis["scale"]) for axis in (y, x)} == {("micrometer", spec.microns_per_pixel)}
    assert image["axes"][2]["size"] == {"min": 32, "step": 32}
    assert probability["axes"][3]["size"] == {"tensor_id": "image", "axis_id": "x", "offset": 0}
    (step,) = image["preprocessing"]
    pixels = np.random.default_rng(0).uniform(0, 255, 3)
    scaled = pixels * step["kwargs"]["gain"] + step["kwargs"]["offset"]
    np.testing.assert_allclose(scaled, (pixels / 255 - spec.mean) / spec.std)


def test_rdf_names_authors_licence_paper_and_cover(rdf, package, bundle):
    assert rdf["authors"] == [{"name": "Jane Doe"}]
    assert rdf["license"] == bundle.manifest.licence == "CC0-1.0"
    assert [entry["doi"] for entry in rdf["cite"]] == ["10.1186/s12911-022-01826-5"]
    assert (package / "cover.png").stat().st_size < 500_000
    assert Image.open(package / "cover.png").size == (512, 512)
    assert "CC0-1.0" in (package / "README.md").read_text()


def test_rdf_omits_a_licence_that_is_not_stated(bundle, tmp_path):
    from msal_deploy.package.bioimageio.rdf import content

    for name in ("test-input.npy", "test-output.npy", "model.pt", "model.onnx"):
        (tmp_path / name).touch()
    other = Bundle(bundle.path)
    other.manifest = replace(bundle.manifest, licence="not stated")
    assert "license" not in content(other, tmp_path, ("A",), 17, "2.6.0")


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 96, 160)])
def test_both_weights_equal_the_bundles_network(package, bundle, shape):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    whole = onnxruntime.InferenceSession(bundle.file("model.fp32.onnx"))
    (expected,) = whole.run(None, {"image": images.astype(np.uint8).transpose(0, 2, 3, 1)})
    given = weights.normalised(images, bundle.spec)
    (probability,) = onnxruntime.InferenceSession(package / "model.onnx").run(["probability"], {"image": given})
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    with torch.no_grad():
        traced = torch.jit.load(str(package / "model.pt"))(torch.from_numpy(given)).numpy()
    np.testing.assert_allclose(traced, expected, atol=1e-5)


def test_float_graph_lacks_only_the_normalisation(package, bundle):
    whole, cut = load_graph(bundle.file("model.fp32.onnx")), load_graph(package / "model.onnx")
    gone = {node.name for node in whole.graph.node} - {node.name for node in cut.graph.node}
    assert {name.partition("/")[2].partition("/")[0] for name in gone} == {"Cast", "Transpose", "normalise"}
    assert cut.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_param or d.dim_value for d in cut.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]


def changed(bundle: Bundle, folder: Path, name: str, content: bytes) -> Bundle:
    """Return a copy of a bundle with one file replaced and its manifest updated."""
    import shutil

    shutil.copytree(bundle.path, folder)
    (folder / name).write_bytes(content)
    entries = bundle.manifest.artifacts | {name: artifact(folder, name)}
    write_manifest(folder, replace(bundle.manifest, artifacts=entries))
    return Bundle(folder)


def test_graph_without_the_normalisation_is_rejected(package, bundle, tmp_path):
    graph = tiny_graph("fp32").SerializeToString()
    other = changed(bundle, tmp_path / "bundle", "model.fp32.onnx", graph)
    with pytest.raises(BadInput, match="does not normalise images as msal-deploy's graphs do"):
        write_package(other, "bioimageio", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_differ_from_the_golden_tiles_are_rejected(bundle, tmp_path):
    golden = np.load(bundle.file("golden/probability.npy"))
    folder = tmp_path / "bundle"
    np.save(tmp_path / "other.npy", np.clip(golden + 0.01, 0, 1))
    other = changed(bundle, folder, "golden/probability.npy", (tmp_path / "other.npy").read_bytes())
    with pytest.raises(GateFailed, match=r"model\.onnx differs from the golden probabilities by up to 0\.01"):
        write_package(other, "bioimageio", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_precisions_than_fp32_are_rejected(typed_bundle, tmp_path):
    with pytest.raises(BadInput, match="packages are FP32, not int8"):
        write_package(typed_bundle, "bioimageio", tmp_path / "out", PackageOptions("int8"))


def test_page_pins_the_tested_versions_and_commands():
    commands = re.findall(r"^(?:bioimageio-env/bin/bioimageio|msal-deploy) .*", PAGE.read_text(), re.MULTILINE)
    assert [shlex.split(line)[1] for line in commands] == ["package", "test", "package", "package"]
    makefile, page = (ROOT / "Makefile").read_text(), PAGE.read_text()
    for pin in ("==0.11.0", "'pydantic<2.14'"):
        assert pin in page
        assert pin in makefile
    versions = subprocess.run(
        [CLI.with_name("python"), "-c", "import bioimageio.core, pydantic; print(bioimageio.core.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert versions.stdout.strip() == "0.11.0"
