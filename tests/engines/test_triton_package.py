"""``package triton``: the model repository follows ModelSpec and the plans; wrong usage is rejected."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from google.protobuf import text_format
from msgspec.structs import replace
from triton_plans import PROFILE, copy_of, put_plan
from triton_server import triton_python
from tritonclient.grpc import model_config_pb2
from typer.testing import CliRunner

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.cli import app
from msal_deploy.export import example_images
from msal_deploy.package import PackageOptions, PackageReport, write_package
from msal_deploy.package.triton_backends import choose_serving
from msal_deploy.package.triton_config import model_config
from msal_deploy.package.triton_shapes import served_spec
from msal_deploy.package.triton_version import About
from msal_deploy.spec import ModelSpec, TensorSpec
from msal_deploy.targets import find_target
from msal_deploy.trt.plan_metadata import BuildOptions


@pytest.fixture
def own(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the bundle, to which a test may add plans."""
    return copy_of(bundle, tmp_path / "bundle")


def package(bundle: Bundle, **options: Any) -> tuple[Path, PackageReport]:
    folder = bundle.path.with_name("served")
    return folder, write_package(bundle, "triton", folder, PackageOptions(**options))


def read_config(folder: Path, model: str = "msal-net") -> Any:
    text = (folder / "models" / model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def files_of(folder: Path) -> dict[str, bytes]:
    version = folder / "models" / "msal-net" / "1"
    files = {path.name: path.read_bytes() for path in version.iterdir()}
    about = json.loads(files.pop("model.json"))
    assert about["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return files


def about_of(folder: Path) -> dict[str, Any]:
    """Return model.json of the first version, after comparing it with what config.pbtxt tells clients."""
    about: dict[str, Any] = json.loads((folder / "models" / "msal-net" / "1" / "model.json").read_text())
    told = json.loads(read_config(folder).parameters["version_1"].string_value)
    assert told == {key: value for key, value in about.items() if key != "files"}
    return about


def refused(bundle: Bundle, *options: object) -> str:
    """Run the command, check that it was rejected and left nothing, and return its output."""
    out = bundle.path.with_name("refused")
    words = ["package", bundle.path, "triton", "--out", out, *options]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, result.output
    assert result.output.count("Error: ") == 1 and "Traceback" not in result.output
    assert not out.exists() and not list(out.parent.glob(".refused*"))
    return " ".join(result.output.split())


# ---- the configuration


def test_config_has_the_names_types_and_axes_of_the_spec(own: Bundle) -> None:
    other = ModelSpec(
        image=replace(ModelSpec().image, name="picture"), probability=replace(ModelSpec().probability, name="nucleus")
    )
    config = written(own, other)
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [
        ("picture", model_config_pb2.TYPE_UINT8, [-1, -1, 3])
    ]
    assert [(one.name, one.data_type, list(one.dims)) for one in config.output] == [
        ("nucleus", model_config_pb2.TYPE_FP32, [1, -1, -1])
    ]
    assert list(config.model_warmup[0].inputs) == ["picture"]
    assert '"name":"picture"' in config.parameters["model_spec"].string_value


def written(bundle: Bundle, spec: ModelSpec) -> Any:
    about = About("model.fp32.onnx", "0" * 64, "fp32", "CC0-1.0", "1.0", {})
    serving = choose_serving(bundle, PackageOptions())
    text = model_config("msal-net", served_spec(spec, serving), serving, about, [(1, 64, 64)])
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_config_keeps_fixed_axes(own: Bundle) -> None:
    fixed = TensorSpec("image", "uint8", (ModelSpec().image.axes[0], 512, 512, 3))
    assert list(written(own, replace(ModelSpec(), image=fixed)).input[0].dims) == [512, 512, 3]


def test_cpu_package_uses_openvino_in_the_python_backend(own: Bundle) -> None:
    folder, report = package(own)
    config, files = read_config(folder), files_of(folder)
    assert (config.name, config.backend, config.platform, config.max_batch_size) == ("msal-net", "python", "", 8)
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert config.default_model_filename == "model.py" and not config.cc_model_filenames
    assert config.version_policy.latest.num_versions == 1 and config.HasField("dynamic_batching")
    assert files["model.fp32.onnx"] == own.file("model.fp32.onnx").read_bytes()
    about = about_of(folder)
    assert about["graph_sha256"] == own.manifest.artifacts["model.fp32.onnx"].sha256
    assert (about["graph"], about["precision"]) == ("model.fp32.onnx", "fp32")
    assert not re.search(rb"(import|from) msal_deploy", files["model.py"])
    programs = {"serve.py", "client.py", "check_golden.py"}
    assert {"README.md", "compose.yaml", "Dockerfile", "kubernetes.yaml", *programs} <= set(report.files)


def test_config_maps_compute_capabilities_to_plans(own: Bundle) -> None:
    bundle = put_plan(put_plan(own, "7.5"), "8.6")
    folder, _ = package(bundle)
    config, files = read_config(folder), files_of(folder)
    assert (config.platform, config.backend, config.max_batch_size) == ("tensorrt_plan", "", 16)
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert set(config.cc_model_filenames) == {"7.5", "8.6"}
    assert config.default_model_filename == "", "a GPU without a plan must not use the plan of another GPU"
    assert {sm: files[name] for sm, name in config.cc_model_filenames.items()} == {
        "7.5": b"plan for 7.5",
        "8.6": b"plan for 8.6",
    }
    assert list(config.dynamic_batching.preferred_batch_size) == [4]


def test_plans_are_warmed_up_at_their_optimal_shape(own: Bundle) -> None:
    folder, _ = package(put_plan(own, "7.5"))
    warm_ups = [(one.batch_size, *one.inputs["image"].dims) for one in read_config(folder).model_warmup]
    assert warm_ups == [(1, 384, 320, 3), (1, 512, 512, 3), (4, 384, 320, 3)]
    tile = np.fromfile(folder / "models" / "msal-net" / "warmup" / "384x320.rgb", np.uint8).reshape(384, 320, 3)
    golden = np.load(folder / "golden" / "image.npy")[0]
    height, width, _ = golden.shape
    assert np.array_equal(tile[:height, :width], golden)
    assert np.array_equal(tile[height:, :width], golden[: 384 - height])


def test_package_for_one_gpu_holds_only_its_plan(own: Bundle) -> None:
    folder, _ = package(put_plan(put_plan(own, "7.5"), "8.6"), gpu="t4")
    assert dict(read_config(folder).cc_model_filenames) == {"7.5": "model.fp32.sm75.tensorrt.plan"}
    assert len(files_of(folder)) == 1


def test_hardware_compatible_plan_is_the_default(own: Bundle) -> None:
    folder, _ = package(put_plan(own, "8.6", options=BuildOptions(hardware_compatible=True)))
    assert read_config(folder).default_model_filename == "model.fp32.sm86.tensorrt.plan"


@pytest.mark.parametrize(("sm", "version", "tag"), [("6.1", "8.6.1", "23.07"), ("7.0", "10.4.0.26", "24.09")])
def test_image_has_the_tensorrt_of_the_plan(own: Bundle, sm: str, version: str, tag: str) -> None:
    folder, _ = package(put_plan(own, sm, version))
    (service,) = yaml.safe_load((folder / "compose.yaml").read_text())["services"].values()
    assert service["image"] == f"nvcr.io/nvidia/tritonserver:{tag}-py3"
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert f"tritonserver:{tag}-py3" in (folder / "README.md").read_text()
    assert f"tritonserver:{tag}-py3\n" in (folder / "Dockerfile").read_text()
    assert "openvino" not in (folder / "Dockerfile").read_text()


def test_version_compatible_plan_uses_a_later_image(own: Bundle) -> None:
    folder, _ = package(put_plan(own, "7.5", "11.0.0", options=BuildOptions(version_compatible=True)))
    tag = find_target("t4").container.tag
    assert f"tritonserver:{tag}-py3" in (folder / "compose.yaml").read_text()


def test_onnx_runtime_on_request(own: Bundle) -> None:
    folder, _ = package(own, backend="onnxruntime")
    config = read_config(folder)
    assert (config.platform, config.default_model_filename) == ("onnxruntime_onnx", "model.onnx")
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert files_of(folder) == {"model.onnx": own.file("model.fp32.onnx").read_bytes()}


def test_onnx_runtime_on_a_gpu(own: Bundle) -> None:
    folder, _ = package(own, backend="onnxruntime", gpu="t4")
    assert read_config(folder).instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU


def test_onnx_runtime_on_the_cpu_uses_the_u8s8_graph(int8_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(int8_bundle.path, tmp_path / "bundle"))
    kernels = onnx.load(folder / "model.int8.onnx")
    kernels.doc_string = "for ONNX Runtime's kernels"
    onnx.save(kernels, folder / "model.int8.u8s8.onnx")
    entry = {"model.int8.u8s8.onnx": artifact(folder, "model.int8.u8s8.onnx")}
    manifest = replace(int8_bundle.manifest, artifacts={**int8_bundle.manifest.artifacts, **entry})
    write_manifest(folder, manifest)
    served, _ = package(Bundle(folder), precision="int8", backend="onnxruntime")
    assert files_of(served) == {"model.onnx": (folder / "model.int8.u8s8.onnx").read_bytes()}
    assert about_of(served)["graph_sha256"] == entry["model.int8.u8s8.onnx"].sha256


# ---- rejected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backend", "tensort"), "'tensort' is not a supported Triton backend; did you mean 'tensorrt'"),
        (("--backend", "tensorrt"), "no fp32 TensorRT plan to serve; build one with: msal-deploy build-trt"),
        (("--gpu", "t4"), "--gpu t4"),
        (("--gpu", "t5"), "'t5' is not a known GPU"),
        (("--backend", "openvino", "--gpu", "t4"), "openvino runs on the CPU, not on t4"),
        (("--precision", "int8"), "model.int8.onnx"),
        (("--size", "500"), "Expected a height that is a multiple of 32, got 500; use 480 or 512"),
        (("--size", "512x8192"), "Expected a width from 32 to 4096, got 8192"),
    ],
)
def test_wrong_options_are_rejected(own: Bundle, options: tuple[str, ...], message: str) -> None:
    assert message in refused(own, *options)


CHANGES: dict[str, tuple[Callable[[Bundle], Bundle], str]] = {
    "another version": (lambda b: put_plan(put_plan(b, "7.5"), "8.6", "10.4.0"), "different versions of TensorRT"),
    "no image": (lambda b: put_plan(b, "7.5", "10.9.0.34"), "which no known Triton image has"),
    "large batches": (
        lambda b: put_plan(b, "7.5", profile=replace(PROFILE, min=(2, 128, 128))),
        "at least 2 images",
    ),
    "small tiles": (
        lambda b: put_plan(b, "7.5", profile=replace(PROFILE, min=(1, 320, 320))),
        "not the golden tiles of 256 × 256 px that test the server; build them with a --size that includes",
    ),
    "another graph": (
        lambda b: put_plan(b, "7.5", graph_sha256="0" * 64),
        "was built from a different model.fp32.onnx",
    ),
    "truncated": (lambda b: put_plan(b, "7.5", bytes=1 << 20), "truncated"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_plans_that_triton_cannot_serve_are_rejected(own: Bundle, change: str) -> None:
    make, message = CHANGES[change]
    assert message in refused(make(own))


def test_plan_of_another_tensorrt_than_the_gpus_image_is_rejected(own: Bundle) -> None:
    message = refused(put_plan(own, "6.1", "8.5.3"), "--gpu", "gtx-1080-ti")
    assert "TensorRT 8.5.3" in message and "23.07 has 8.6.1" in message


def test_tensorrt_rtx_plans_are_ignored(own: Bundle) -> None:
    folder, _ = package(put_plan(own, "7.5", "1.7.1", backend="tensorrt-rtx"))
    assert read_config(folder).backend == "python"


def test_missing_tritonclient_names_the_extra(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("tritonclient")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    out = own.path.with_name("out")
    result = CliRunner().invoke(app, ["package", str(own.path), "triton", "--out", str(out)])
    assert result.exit_code == 3 and "pip install 'msal-deploy[triton]'" in result.output
    assert not out.exists()


# ---- programs and files to start it


def test_triton_accepts_the_options_of_the_compose_file(own: Bundle, tmp_path: Path) -> None:
    """Run Triton on a missing repository: it would print its usage if it did not know an option."""
    folder, _ = package(own)
    (service,) = yaml.safe_load((folder / "compose.yaml").read_text())["services"].values()
    program, script, models, *options = service["command"]
    assert (program, script, models) == ("python3", "/serve.py", "/models")
    assert service["volumes"] == ["./models:/models:ro", "./serve.py:/serve.py:ro"]
    (folder / "empty").mkdir()
    command = [triton_python(), "serve.py", "empty", *options, "--http-port=0", "--model-control-mode=broken"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    output = result.stdout + result.stderr
    assert "invalid argument for --model-control-mode" in output, output[-2000:]


def test_dockerfile_installs_the_imports_of_the_model(own: Bundle) -> None:
    folder, _ = package(own)
    text = (folder / "Dockerfile").read_text()
    assert f"FROM nvcr.io/nvidia/tritonserver:{find_target('t4').container.tag}-py3" in text
    installed = {word.partition("==")[0] for word in shlex.split(text.splitlines()[2])}
    assert {"openvino", "numpy"} <= installed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere is not a folder; pass the model repository"),
        ((), "nvidia-pytriton is not installed; run: pip install"),
    ],
)
def test_serve_reports_what_is_missing(own: Bundle, words: tuple[str, ...], message: str) -> None:
    folder, _ = package(own)
    python = triton_python() if words else sys.executable
    done = subprocess.run([python, "serve.py", *words], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_client_reports_errors(own: Bundle) -> None:
    folder, _ = package(own)
    np.save(folder / "images.npy", example_images(1, 32, 32))
    for url in ("http://localhost:1", "grpc://localhost:1", "localhost:8000"):
        done = subprocess.run(
            [sys.executable, "client.py", url, "images.npy", "result.npy"], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 1 and done.stderr.startswith("Error: ") and "Traceback" not in done.stderr
        assert not (folder / "result.npy").exists()
